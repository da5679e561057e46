"""Keep the live version of the index open, with its encoder loaded."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.cache import VectorCache
from p4r_qdrant.errors import (
    IndexUnavailableError,
    MissingExtraError,
    P4RError,
    for_log,
)
from p4r_qdrant.index.opening import open_tenants, open_versions
from p4r_qdrant.index.server.cluster import NodeState, node_states
from p4r_qdrant.index.tenants import Tenant
from p4r_qdrant.index.versions import Version, Versions
from p4r_qdrant.live.following import Following
from p4r_qdrant.live.hotswap import Current
from p4r_qdrant.live.loading import LoadEncoder, SharedEncoders, encoder_for_index
from p4r_qdrant.schemas.operations import EncoderState
from p4r_qdrant.service.live import Live
from p4r_qdrant.settings import Settings

KEEP_UP_S = 5.0
"""Seconds between attempts to open what is not open yet. Also the default of
P4R_QDRANT__REFRESH_S in the service."""


_log = logging.getLogger(__name__)


class Backend:
    """The live version, opened once and kept open; follows `p4r publish`. Thread-safe.

    While Qdrant cannot be reached, `keep_up` tries again. `open` raises every other error: no
    collection, a wrong key, another encoder.
    """

    def __init__(
        self,
        settings: Settings,
        load_encoder: LoadEncoder | None = None,
        beside: Backend | None = None,
    ) -> None:
        """`load_encoder` replaces the encoder that the settings and the index name.

        beside: a backend of another tenant, whose encoders and cache are used.
        """
        self.settings = settings
        self.encoder_state = EncoderState.LOADING
        own = settings.qdrant
        self._follow_s = own.refresh_s if "refresh_s" in own.model_fields_set else KEEP_UP_S
        self.cache: VectorCache = beside.cache if beside else VectorCache(settings.encoder.cache_mb)
        """Vectors of texts; it outlives versions, and the encoder that each of them loads."""
        load = load_encoder or partial(encoder_for_index, settings.encoder)
        self._load_encoder: LoadEncoder = (
            beside._load_encoder if beside else SharedEncoders(load, self.cache)
        )
        self._is_for_all = settings.index.tenants and not settings.index.tenant
        """Whether it has no index of its own, and only opens those of tenants."""
        self._are_known = False
        self._kept: tuple[Tenant, Encoder] | None = None
        """The encoder that most tenants use, so that the first request of each finds it loaded."""
        self._versions: Versions | None = None
        self._current: Current[Live] | None = None
        self._following: Following[Live] | None = None
        self._opening = threading.Lock()
        self.nodes: dict[str, NodeState] = {}
        """How each Qdrant node was when `keep_up` looked last; empty with an embedded index."""

    def open(self) -> bool:
        """Open the live version. False if Qdrant cannot be reached. Raises InputError."""
        with self._opening:
            if self.is_open:
                return True
            if self._is_for_all:
                return self._know_tenants()
            try:
                self._versions = self._versions or open_versions(self.settings)
                live = self._open_live(self._versions)
            except IndexUnavailableError as error:
                _log.warning("the index is not open yet: %s", for_log(error))
                return False
            current = Current(live)
            self._following = Following(
                self._versions, current, self._open_next, every_s=self._follow_s
            )
            self._current = current
        _log.info("reranking from %s", live.index.location)
        return True

    def of_tenant(self, name: str) -> Backend:
        """A backend of another tenant, which is not open yet. Raises InputError."""
        return Backend(self.settings.of_tenant(name), beside=self)

    def _know_tenants(self) -> bool:
        try:
            with open_tenants(self.settings) as tenants:
                tenants.all()
        except IndexUnavailableError as error:
            _log.warning("the tenants are not known yet: %s", for_log(error))
            return False
        self._are_known = True
        return True

    def _open_live(self, versions: Versions) -> Live:
        name = versions.live()
        if name is None:
            raise versions.nothing_live()
        return Live.open(self.settings, versions, name, self._load_encoder)

    def _open_next(self, name: str, old: Live) -> Live:
        """Open the version that replaces `old`, with its encoder if one is in use."""
        assert self._versions is not None  # noqa: S101 - `open` has run
        fresh = Live.open(self.settings, self._versions, name, self._load_encoder)
        try:
            is_ready = self.encoder_state == EncoderState.READY
            if is_ready:
                fresh.encoder  # noqa: B018 - loaded now, not when the first user comes
            fresh.take_over(old, can_encode=is_ready)
        except BaseException:
            fresh.close()
            raise
        _log.info("reranking from %s", fresh.index.location)
        return fresh

    @contextmanager
    def in_use(self) -> Iterator[Live]:
        """The live version for one request, from its beginning to its end.

        Raises IndexUnavailableError while the index is not open.
        """
        if self._current is None:
            raise IndexUnavailableError("the index is not open yet")
        with self._current.in_use() as live:
            yield live

    def is_now(self, live: Live) -> bool:
        """Whether `live` still answers new requests."""
        return self._current is not None and self._current.now is live

    @property
    def is_open(self) -> bool:
        """Whether the index is open."""
        return self._current is not None or self._are_known

    @property
    def is_idle(self) -> bool:
        """Whether no request uses it, and no publish under way lacks a write of this process."""
        current = self._current
        return current is None or (current.is_idle and not current.now.written)

    def versions(self) -> list[Version]:
        """All versions, the oldest first; empty while the index is not open. Raises P4RError."""
        return self._versions.all() if self._versions is not None else []

    def publishes(self, live: Live) -> int:
        """See `Versions.publishes`. Raises P4RError."""
        assert self._versions is not None  # noqa: S101 - `live` was opened from it
        return self._versions.publishes(live.version)

    @property
    def problem(self) -> str:
        """Why the newest publish is not followed; empty if it is."""
        return self._following.problem if self._following else ""

    def load_encoder(self) -> None:
        """Load the encoder now, before a request needs it."""
        try:
            if self._is_for_all:
                self._keep_encoder()
            else:
                with self.in_use() as live:
                    live.encoder  # noqa: B018 - loaded at first use
            self.encoder_state = EncoderState.READY
        except MissingExtraError as error:
            self.encoder_state = EncoderState.ABSENT
            _log.info(
                "histories are not encoded, only vectors and known users count: %s", for_log(error)
            )
        except P4RError as error:
            self.encoder_state = EncoderState.FAILED
            _log.error("histories cannot be encoded: %s", for_log(error))

    def _keep_encoder(self) -> None:
        with open_tenants(self.settings) as tenants:
            served = [one for one in tenants.all() if one.live]
        uses = Counter(one.live for one in served)
        most = max(served, key=lambda one: uses[one.live], default=None)
        if most is None or (self._kept and self._kept[0] == most):
            return
        with open_versions(self.settings.of_tenant(most.name)) as versions:
            made_with = {one.name: one.metadata for one in versions.all()}.get(most.live)
        if made_with is None:  # it was dropped meanwhile
            return
        fresh = self._load_encoder(made_with)
        if self._kept:
            self._kept[1].close()
        self._kept = most, fresh

    def refresh(self) -> bool:
        """Switch to the version that is live now; see `Following.refresh`."""
        return self._following.refresh() if self._following else False

    def follow(self) -> None:
        """Switch to the version that is live now, if the time to look has come."""
        if self._following:
            self._following.follow()

    def keep_up(self) -> None:
        """Look at the nodes, open what is not open, follow `p4r publish`, load the encoder."""
        if self.settings.qdrant.url is not None:
            self.nodes = node_states(self.settings.qdrant)
        if not self.open():
            return
        self.follow()
        if self._is_for_all or self.encoder_state in (EncoderState.LOADING, EncoderState.FAILED):
            self.load_encoder()

    async def keep_up_forever(self, done: Callable[[], None] = lambda: None) -> None:
        """Call `keep_up`, and then `done`, every few seconds, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.keep_up)
            except P4RError as error:
                _log.error("%s", for_log(error))
            except Exception:
                _log.exception("keeping up failed")
            done()
            await asyncio.sleep(min(KEEP_UP_S, self._follow_s or KEEP_UP_S))

    def is_reachable(self) -> bool:
        """Whether the index answers right now."""
        if self._is_for_all:
            with suppress(P4RError):
                return self._know_tenants()
            return False
        with suppress(P4RError), self.in_use() as live:
            live.index.get("-")
            return True
        return False

    @property
    def can_write(self) -> bool:
        """Whether a node can write, as far as is known."""
        return not self.nodes or "ok" in self.nodes.values()

    def close(self) -> None:
        """Close everything. Closing twice is fine."""
        with self._opening:
            if self._following is not None:
                self._following.close()
            elif self._versions is not None:
                self._versions.close()
            if self._kept is not None:
                self._kept[1].close()
                self._kept = None
