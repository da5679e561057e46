"""Interactions, user vectors and jobs: what both engines promise, and `open_store`.

A job is kept with the data it is about and written in the same call, so that what is acknowledged
is never lost and what is erased is erased everywhere. It is done at least once: whoever does it
takes it away only afterwards.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from p4r_qdrant import texts
from p4r_qdrant.encoder import Floats, UserVector, user_vector
from p4r_qdrant.records import Interaction
from p4r_qdrant.settings import HistorySettings, Settings

UPKEEP_ATTEMPTS = 5
"""How often a user vector is made again where interactions came in between."""

JobKind = Literal["aspects", "item", "erase"]


@dataclass(frozen=True, slots=True)
class StoredInteraction:
    """One interaction with everything known of it.

    `title` and `summary` are the item's, `review_*` the user's. `aspects` is None until the LLM
    has read the review. `vector`: e_uj, (dim,) float32, by the encoder with `fingerprint`; None
    while it is not encoded.
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
    fingerprint: str = ""

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

    def says_the_same_as(self, other: StoredInteraction) -> bool:
        """Whether the user did and said the same, whatever is known of it by now."""
        mine, others = (
            (one.key, one.rating, one.review_title, one.review_text) for one in (self, other)
        )
        return mine == others

    def encoded(self, vector: Floats, fingerprint: str) -> StoredInteraction:
        """With its vector."""
        return replace(self, vector=vector, fingerprint=fingerprint)


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


@dataclass(frozen=True, slots=True)
class KnownUser:
    """A user as reranking needs one; `vector` is None where it has to be made (again) first."""

    user_id: str
    vector: UserVector | None


class UserStore(ABC):
    """Thread-safe. What a method has written is durable when it returns.

    Raises IndexUnavailableError where the store cannot be reached.
    """

    def __init__(self, settings: HistorySettings) -> None:
        self.length = settings.length
        self.decay = settings.decay

    # -- writing ------------------------------------------------------------------------------

    def add(self, one: StoredInteraction, job: Job | None = None) -> bool:
        """Keep an interaction and its job; False where the very same is there already.

        One with the same user, item and time and other words takes the older one's place.
        """
        held = self.get(one)
        if held is not None and held.says_the_same_as(one):
            if one.vector is not None and held.fingerprint != one.fingerprint:
                self._amend(replace(held, vector=one.vector, fingerprint=one.fingerprint))
            self.keep_up(one.user_id, one.fingerprint)  # a kill may have come before it
            return False
        self._put(one, job)
        self.keep_up(one.user_id, one.fingerprint)
        return True

    def settle(self, one: StoredInteraction) -> bool:
        """Note aspects and vector of an interaction; False where it has changed or is gone."""
        held = self.get(one)
        if held is None or not held.says_the_same_as(one):
            return False
        self._amend(one)
        self.keep_up(one.user_id, one.fingerprint)
        return True

    def keep_up(self, user_id: str, fingerprint: str) -> None:
        """Make the user vector from the newest interactions (Eq. 7).

        Whoever writes last has looked last: of two at once neither leaves an old vector behind.
        """
        for _ in range(UPKEEP_ATTEMPTS):
            recent = self.recent(user_id)
            self._put_user(user_id, recent, self._vector_of(recent, fingerprint), fingerprint)
            if _content(self.recent(user_id)) == _content(recent):
                return

    def _vector_of(
        self, recent: Sequence[StoredInteraction], fingerprint: str
    ) -> UserVector | None:
        """h_u; None where an interaction is not encoded by this encoder, or none says anything."""
        told = [one for one in recent if one.text]
        if not told or any(one.vector is None or one.fingerprint != fingerprint for one in told):
            return None
        rows = np.stack([one.vector for one in told if one.vector is not None])
        return user_vector([one.record for one in told], rows, self.decay)

    def erase(self, user_id: str) -> int:
        """Take out everything of a user, and leave the worker a job to do so; count what went."""
        # The job first: a kill in between leaves too much to be erased, never too little.
        self.enqueue(Job(f"erase {user_id}", "erase", body={"user_id": user_id}))
        for job in self._item_jobs():
            reviews = job.body["reviews"]
            kept = [one for one in reviews if one["user_id"] != user_id]
            if len(kept) < len(reviews):
                self.enqueue(replace(job, body={**job.body, "reviews": kept}))
        return self._erase(user_id)

    @abstractmethod
    def enqueue(self, job: Job) -> None:
        """Keep a job; one with its key is replaced."""

    @abstractmethod
    def finish(self, job: Job) -> None:
        """Take a job away, unless it was replaced by a newer one meanwhile."""

    def postpone(self, job: Job, problem: str, seconds: float) -> None:
        """Try a job again later."""
        later = time.time() + seconds
        self._amend_job(replace(job, attempts=job.attempts + 1, problem=problem, not_before=later))

    def give_up(self, job: Job, problem: str) -> None:
        """Keep a job for people to look at, and do it no more."""
        self._amend_job(replace(job, attempts=job.attempts + 1, problem=problem, failed=True))

    # -- reading ------------------------------------------------------------------------------

    @abstractmethod
    def known(self, user_ids: Sequence[str], fingerprint: str) -> dict[str, KnownUser]:
        """Those of the users that are known, with their vectors."""

    @abstractmethod
    def get(self, like: StoredInteraction) -> StoredInteraction | None:
        """The interaction with this user, item and time."""

    @abstractmethod
    def recent(self, user_id: str) -> list[StoredInteraction]:
        """H_u: the newest `length` interactions, newest first, with their vectors."""

    @abstractmethod
    def interactions(self, user_id: str) -> Iterator[StoredInteraction]:
        """All interactions of a user, newest first, without vectors; streamed."""

    @abstractmethod
    def seen(self, user_id: str) -> set[str]:
        """The items of a user."""

    @abstractmethod
    def jobs(self, limit: int) -> list[Job]:
        """Jobs whose time has come, oldest first."""

    @abstractmethod
    def job_counts(self) -> dict[str, int]:
        """How many jobs are waiting, and how many have failed for good."""

    @abstractmethod
    def failed_jobs(self, limit: int) -> list[Job]:
        """Those that were given up."""

    @abstractmethod
    def close(self) -> None:
        """Release it. Closing twice is fine."""

    # -- what an engine gives -----------------------------------------------------------------

    @abstractmethod
    def _erase(self, user_id: str) -> int:
        """Take out interactions, jobs and vector of a user; count the interactions."""

    @abstractmethod
    def _item_jobs(self) -> Iterator[Job]:
        """All jobs about items: their reviews are of users."""

    @abstractmethod
    def _put(self, one: StoredInteraction, job: Job | None) -> None:
        """Write an interaction, and its job with it."""

    @abstractmethod
    def _amend(self, one: StoredInteraction) -> None:
        """Write aspects and vector of an interaction that is there; never makes one."""

    @abstractmethod
    def _amend_job(self, job: Job) -> None:
        """Write attempts, problem and time of a job that is there; never makes one."""

    @abstractmethod
    def _put_user(
        self,
        user_id: str,
        recent: Sequence[StoredInteraction],
        vector: UserVector | None,
        fingerprint: str,
    ) -> None:
        """Write the user vector, where the engine keeps it apart."""


def _content(recent: Sequence[StoredInteraction]) -> list[tuple[str, bytes]]:
    return [(one.key, b"" if one.vector is None else one.vector.tobytes()) for one in recent]


def open_store(settings: Settings, dimension: int) -> UserStore:
    """The store beside the index that the settings name, made if it is not there."""
    if settings.qdrant.url is not None:
        from p4r_qdrant.service.users.server import ServerUsers

        return ServerUsers(settings, dimension)
    from p4r_qdrant.service.users.embedded import EmbeddedUsers

    return EmbeddedUsers(settings)
