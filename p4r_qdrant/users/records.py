"""What is stored about a user, and the worker's jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from p4r_qdrant import texts
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.index.engine import StoredVector
from p4r_qdrant.records import Interaction


@dataclass(frozen=True, slots=True)
class StoredUser:
    """A user whose vector is at `point`; `told` brings it whole, for the reasons.

    `told` raises IndexMismatchError where it is not there.
    """

    point: StoredVector
    told: Callable[[], UserVector]


JobKind = Literal["aspects", "item", "erase"]


@dataclass(frozen=True, slots=True)
class StoredInteraction:
    """One interaction with everything known of it.

    `title` and `summary` are the item's, `review_*` the user's. `aspects` is None until the LLM
    has read the review. `vector`: e_uj, (dim,) float32, by the encoder of the store's version;
    None while it is not encoded.
    """

    user_id: str
    item_id: str
    timestamp: int
    rating: float | None = None
    title: str = ""
    summary: str = ""
    review_title: str = field(default="", repr=False)
    review_text: str = field(default="", repr=False)
    aspects: Mapping[str, str | None] | None = field(default=None, repr=False)
    vector: Floats | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """What makes it this interaction and no other: user, item and time."""
        parts = repr([self.user_id, self.item_id, self.timestamp]).encode()
        return hashlib.blake2b(parts, digest_size=16, person=b"p4r-interaction").hexdigest()

    @property
    def record(self) -> Interaction:
        """As the encoder takes it."""
        return Interaction(
            self.item_id, self.timestamp, self.summary, self.title, self.aspects or {}, self.rating
        )

    @property
    def text(self) -> str:
        """What the encoder reads (Eq. 6); empty where nothing is told."""
        return texts.interaction_text(self.record)

    @property
    def text_hash(self) -> str:
        """Of what the encoder reads: a vector is kept with it."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()

    def says_the_same_as(self, other: StoredInteraction) -> bool:
        """Whether the user did and said the same, whatever is known of it by now."""
        mine, others = (
            (one.key, one.rating, one.review_title, one.review_text) for one in (self, other)
        )
        return mine == others

    def encoded(self, vector: Floats | None) -> StoredInteraction:
        """With its vector."""
        return replace(self, vector=vector)


@dataclass(frozen=True, slots=True)
class Job:
    """Something for the worker. `body` belongs to the kind; `not_before` in seconds since 1970."""

    key: str
    kind: JobKind
    user_id: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    attempts: int = 0
    not_before: float = 0.0
    problem: str = ""
    failed: bool = False
