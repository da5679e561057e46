"""What is stored of a user, and the worker's jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from p4r_qdrant import texts
from p4r_qdrant.arrays import Floats
from p4r_qdrant.records import Id, Interaction, Item, Review

JobKind = Literal["aspects", "item", "erase", "purge"]
JobState = Literal["waiting", "failed"]
JobCounts = dict[JobState, int]


@dataclass(frozen=True, slots=True)
class OtherVersion:
    """Another version of the index that can hold user vectors.

    stamp: tells it from a later version of the same name.
    """

    name: str
    stamp: str


@dataclass(frozen=True, slots=True)
class StoredInteraction:
    """One interaction with everything that is known of it.

    `title` and `summary` are the item's, `review_*` the user's. `aspects` is None until the LLM
    has read the review. `vector`: e_uj, (dim,) float32, by the encoder of the store's version;
    None until it is encoded.
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
        """Identity of the interaction: a hash of user, item and time."""
        parts = repr([self.user_id, self.item_id, self.timestamp]).encode()
        return hashlib.blake2b(parts, digest_size=16, person=b"p4r-interaction").hexdigest()

    @property
    def record(self) -> Interaction:
        """The interaction as the encoder takes it."""
        return Interaction(
            self.item_id, self.timestamp, self.summary, self.title, self.aspects or {}, self.rating
        )

    @property
    def text(self) -> str:
        """What the encoder reads (Eq. 6); empty if there is nothing to encode."""
        return texts.interaction_text(self.record)

    @property
    def text_hash(self) -> str:
        """Hash of `text`. It is stored with the vector, to tell whether the text has changed."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()

    def says_the_same_as(self, other: StoredInteraction) -> bool:
        """Whether the user did and said the same; title, summary and aspects do not count."""
        mine, others = (
            (one.key, one.rating, one.review_title, one.review_text) for one in (self, other)
        )
        return mine == others

    def encoded(self, vector: Floats | None) -> StoredInteraction:
        """The interaction with this vector."""
        return replace(self, vector=vector)


@dataclass(frozen=True, slots=True)
class Job:
    """Work for the worker. The kind defines `body`; `not_before` in seconds since 1970."""

    key: str
    kind: JobKind
    user_id: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    attempts: int = 0
    not_before: float = 0.0
    problem: str = ""
    failed: bool = False


def reading_job(one: StoredInteraction) -> Job | None:
    """The job to read the review of an interaction; None if it has none."""
    if not (one.review_title or one.review_text):
        return None
    about = {"item_id": one.item_id, "timestamp": one.timestamp}
    return Job(f"aspects {one.key}", "aspects", one.user_id, about)


class ItemWork(BaseModel):
    """What a job about an item holds: its metadata and reviews, to make personas from.

    item: None if only the reviews have changed.
    """

    model_config = ConfigDict(frozen=True)

    item_id: Id
    item: Item | None = None
    reviews: list[Review] = Field(default_factory=list)

    def job(self) -> Job:
        """The job. Other content makes another job, so that all of them are done in order."""
        body = self.model_dump()
        content = json.dumps(body, sort_keys=True).encode()
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        return Job(f"item {self.item_id} {digest}", "item", body=body)
