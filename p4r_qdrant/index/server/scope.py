"""What tells the points of one owner from those of others in a collection that they share.

Every request of a `Collection` goes through its scope: points that are written get its marks, and
every condition asks for them. An index without tenants has a scope without marks, which changes
nothing.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from qdrant_client import grpc, models

from p4r_qdrant.index import payload as names

SHARED = "shared"
"""The shard key of the tenants that have no shard of their own."""
TENANT_INDEX = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)

Message = TypeVar("Message", grpc.QueryPoints, grpc.QueryBatchPoints, grpc.GetPoints)


@dataclass(frozen=True)
class Scope:
    """The owner of points, and the fields with their values that mark its points."""

    tenant: str = ""
    marks: Mapping[str, str | int] = field(default_factory=dict)

    @classmethod
    def of(cls, tenant: str, **others: str | int) -> Scope:
        """The scope of a tenant; "" is the sole owner of a collection, whose points have no marks.

        others: further marks that tell apart what one tenant has in the collection.
        """
        return cls(tenant, {names.TENANT: tenant, **others}) if tenant else cls()

    @cached_property
    def _salt(self) -> bytes:
        if not self.marks:
            return b""
        return hashlib.blake2b(repr(sorted(self.marks.items())).encode(), digest_size=16).digest()

    def point_id(self, item_id: str, position: int = 0) -> str:
        """The id of a point of an item: another one for each owner."""
        return names.point_id(item_id, position, self._salt)

    def point_prefix(self, item_id: str) -> str:
        """See `payload.point_prefix`."""
        return names.point_prefix(item_id, self._salt)

    def uuid(self, plain: uuid.UUID) -> str:
        """The id of a point whose id without tenants is `plain`."""
        return str(uuid.uuid5(plain, self.tenant) if self.tenant else plain)

    # -- payloads -----------------------------------------------------------------------------

    def stamped(self, payload: Mapping[str, Any] | None) -> dict[str, Any]:
        """The payload to store: with the marks at its end."""
        return {**(payload or {}), **self.marks}

    def told(self, payload: Mapping[str, Any] | None) -> dict[str, Any]:
        """A stored payload as callers get it: without the marks."""
        plain = dict(payload or {})
        for mark in self.marks:
            plain.pop(mark, None)
        return plain

    # -- conditions ---------------------------------------------------------------------------

    def filter(self, where: models.Filter | None = None) -> models.Filter:
        """The filter, held to the owner's points."""
        where = where or models.Filter()
        if not self.marks:
            return where
        own = [
            models.FieldCondition(key=mark, match=models.MatchValue(value=value))
            for mark, value in self.marks.items()
        ]
        flat: Any = where.must or []
        return where.model_copy(update={"must": [*own, *flat]})

    def message_filter(self, where: grpc.Filter) -> grpc.Filter:
        """The same for a message."""
        if not self.marks:
            return where
        own = grpc.Filter(must=[*self._conditions, *where.must])
        own.should.extend(where.should)
        own.must_not.extend(where.must_not)
        return own

    @cached_property
    def _conditions(self) -> list[grpc.Condition]:
        return [
            grpc.Condition(
                field=grpc.FieldCondition(
                    key=mark,
                    match=grpc.Match(integer=value)
                    if isinstance(value, int)
                    else grpc.Match(keyword=value),
                )
            )
            for mark, value in self.marks.items()
        ]

    def message(self, message: Message, *, keyed: bool) -> Message:
        """A message of `Connection.points`, held to the owner's points.

        keyed: whether the collection has shard keys. Points by id need no condition.
        """
        if not self.marks:
            return message
        own = type(message)()
        own.CopyFrom(message)  # the caller may send it again
        batch = isinstance(own, grpc.QueryBatchPoints)
        for one in own.query_points if batch else [own]:
            if isinstance(one, grpc.QueryPoints):
                one.filter.CopyFrom(self.message_filter(one.filter))
                for prefetch in one.prefetch:
                    prefetch.filter.CopyFrom(self.message_filter(prefetch.filter))
            if keyed:
                one.shard_key_selector.CopyFrom(self._selector)
        return own

    # -- shards -------------------------------------------------------------------------------

    @property
    def shard_key(self) -> models.ShardKeyWithFallback:
        """The tenant's own shard; while it has none, the shared one."""
        return models.ShardKeyWithFallback(target=self.tenant, fallback=SHARED)

    @cached_property
    def _selector(self) -> grpc.ShardKeySelector:
        return grpc.ShardKeySelector(
            shard_keys=[grpc.ShardKey(keyword=self.tenant)], fallback=grpc.ShardKey(keyword=SHARED)
        )
