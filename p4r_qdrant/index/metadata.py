"""The record of how an index was made."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.fingerprint import is_of_earlier_version, same_encoder
from p4r_qdrant.errors import IndexMismatchError

PROJECT = "p4r-qdrant"


FORMAT = 1

UNFINISHED = " unfinished"
"""Ends `IndexMetadata.restored` while a version is being filled from a backup."""


class MadeWith(Protocol):
    """The origin of vectors, as an index records it: see `Encoder`."""

    name: str
    dimension: int
    fingerprint: str
    kind: str
    model: str
    adapter: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IndexMetadata:
    """The record of how an index was made, stored with the collection.

    encoder: the encoder's name, for people. kind, model, adapter, options (as JSON): enough to load
    the encoder again (see `Encoder`). previous: the version that was live before this one.
    publish: the number of the publish that made this version (see `Versions.begin_publish`).
    typical_user: the mean h_u of known users (see `typical`), for the persona prior.
    collaborative: the record of the collaborative part (see `CollaborativePart`), as JSON.
    scoring: the weights of the score that `p4r tune` chose, as JSON (see `rerank.scoring`).
    popular: ids of the most popular items, as a JSON list.
    changes: what the version changes for readers (see `Changes`), as JSON; "" if not compared.
    segments: see `index.segments`, as JSON; "" if `p4r segments` was not run.
    persona_map: the name of the map of these personas (see `index.maps`), made by the same command.
    map_categories: the categories of the map, as a JSON list.
    wins: the name of the file that says how often personas win (see `index.wins`), a space, and the
    number of users.
    policy: what the publish let through, in the words of `moderation`, with spaces between them; ""
    is all but what is rejected. Whoever writes to the version later holds to it.
    restored: the backup that the version came from, and its number there (see `is_whole`).
    """

    fingerprint: str
    dimension: int
    encoder: str = ""
    created_at: str = ""
    kind: str = ""
    model: str = ""
    adapter: str = ""
    published_at: str = ""
    previous: str = ""
    typical_user: str = ""
    publish: str = ""
    options: str = ""
    collaborative: str = ""
    scoring: str = ""
    popular: str = ""
    changes: str = ""
    segments: str = ""
    persona_map: str = ""
    map_categories: str = ""
    wins: str = ""
    policy: str = ""
    restored: str = ""

    @classmethod
    def of(cls, encoder: MadeWith) -> IndexMetadata:
        """The metadata of an index that is made now with this encoder."""
        return cls(
            encoder.fingerprint,
            encoder.dimension,
            encoder.name,
            today(),
            encoder.kind,
            encoder.model,
            encoder.adapter,
            options=json.dumps(dict(encoder.options), sort_keys=True) if encoder.options else "",
        )

    @property
    def is_whole(self) -> bool:
        """Whether the version can be used; not while `p4r restore` fills it."""
        return not self.restored.endswith(UNFINISHED)

    @property
    def typical(self) -> Floats | None:
        """The mean h_u of known users, (dim,) float32, or None if it was not recorded."""
        if not self.typical_user:
            return None
        return np.frombuffer(b64decode(self.typical_user), dtype="<f4").astype(np.float32)

    @property
    def popular_items(self) -> tuple[str, ...]:
        """Ids of the most popular items, most popular first; empty if they were not recorded."""
        return tuple(json.loads(self.popular)) if self.popular else ()

    def to_json(self) -> dict[str, Any]:
        """The stored form, with the name of the project and the number of the format."""
        return {"project": PROJECT, "format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None, where: str) -> IndexMetadata:
        """Read the stored form. Raises IndexMismatchError if `where` is another program's."""
        if not isinstance(stored, Mapping) or stored.get("project") != PROJECT:
            raise IndexMismatchError(
                f"{where} was not made by {PROJECT}; choose another name for the personas "
                "(P4R_QDRANT__COLLECTION or P4R_QDRANT__PATH)"
            )
        if stored.get("format") != FORMAT:
            raise IndexMismatchError(
                f"{where} has format {stored.get('format')}, this release reads format {FORMAT}; "
                f"update {PROJECT}"
            )
        fingerprint, dimension = stored.get("fingerprint"), stored.get("dimension")
        if not isinstance(fingerprint, str) or not isinstance(dimension, (int, float)):
            raise IndexMismatchError(
                f"{where} does not say which encoder made it; index the artifacts again"
            )
        texts = {one.name: str(stored.get(one.name) or "") for one in fields_of(cls)[2:]}
        return cls(fingerprint, int(dimension), **texts)

    def check(self, dimension: int | None, fingerprint: str | None, where: str) -> None:
        """Raise IndexMismatchError unless the index was made with this encoder."""
        same_width = dimension is None or dimension == self.dimension
        if same_width and (fingerprint is None or same_encoder(fingerprint, self.fingerprint)):
            return
        if (
            fingerprint is not None
            and is_of_earlier_version(self.fingerprint)
            and "." in fingerprint
        ):
            raise IndexMismatchError(
                f"{where} was made by an earlier version of {PROJECT}, whose fingerprint "
                f"{self.fingerprint} does not cover tokenizer, prompts and activation of the "
                f"encoder {self.encoder or '(unnamed)'}; `p4r publish` the artifacts again"
            )
        raise IndexMismatchError(
            f"{where} was made with the encoder {self.encoder or '(unnamed)'} "
            f"(fingerprint {self.fingerprint}, {self.dimension} dimensions), not with the one in "
            f"use (fingerprint {fingerprint}, {dimension} dimensions); use that encoder, or "
            "`p4r publish` the artifacts with the new one"
        )


def today() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
