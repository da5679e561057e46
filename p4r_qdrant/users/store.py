"""Interactions, user vectors and jobs: what both engines promise, and `open_store`.

What users did and what is to be done is kept once, whatever encoder is live. The vectors made of it
are kept for each version of the index, by what was encoded: a store is opened for one version, and
never sees another encoder's vectors, nor those of words that have changed since.

A job is kept with the data it is about and written in the same call, so that what is acknowledged
is never lost and what is erased is erased everywhere. It is done at least once: whoever does it
takes it away only afterwards.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import UserVector, user_vector
from p4r_qdrant.index.batching import batches
from p4r_qdrant.settings import HistorySettings
from p4r_qdrant.users.records import Job, StoredInteraction, StoredUser

UPKEEP_ATTEMPTS = 5
"""How often a user vector is made again where interactions came in between."""


USERS_AT_ONCE = 64
"""Users whose interactions are encoded together where a version gets all of them."""


class UserStore(ABC):
    """Thread-safe. What a method has written is durable when it returns.

    Raises IndexUnavailableError where the store cannot be reached.
    """

    def __init__(self, history: HistorySettings) -> None:
        self.length = history.length
        self.decay = history.decay

    # -- writing ------------------------------------------------------------------------------

    def add(self, one: StoredInteraction, job: Job | None = None) -> bool:
        """Keep an interaction and its job; False where the very same is there already.

        One with the same user, item and time and other words takes the older one's place.
        """
        held = self.get(one)
        if held is not None and held.says_the_same_as(one):
            if one.vector is not None:
                self._put_vectors([held.encoded(one.vector)])
            self.keep_up(one.user_id)  # a kill may have come before it
            return False
        self._put(one, job)
        self._put_vectors([one])
        self.keep_up(one.user_id)
        return True

    def settle(self, one: StoredInteraction) -> bool:
        """Note aspects and vector of an interaction; False where it has changed or is gone."""
        held = self.get(one)
        if held is None or not held.says_the_same_as(one):
            return False
        self._amend(one)
        self._put_vectors([one])
        self.keep_up(one.user_id)
        return True

    def remember(self, encoded: Sequence[StoredInteraction]) -> None:
        """Keep vectors of a user's interactions that had none in this version."""
        self._put_vectors(encoded)
        if encoded:
            self._make_user(encoded[0].user_id)

    def keep_up(self, user_id: str) -> None:
        """Make the user vector of this version from the newest interactions (Eq. 7).

        In other versions it is taken out, and made again by whoever needs it there.
        """
        self._forget_elsewhere(user_id)
        self._make_user(user_id)

    def _make_user(self, user_id: str) -> None:
        """Whoever writes last has looked last: of two at once neither leaves an old vector."""
        for _ in range(UPKEEP_ATTEMPTS):
            recent = self.recent(user_id)
            if recent:
                self._put_user(user_id, self.vector_of(recent))
            else:  # erased, perhaps just now
                self._forget(user_id)
            if _content(self.recent(user_id)) == _content(recent):
                return
        self._put_user(user_id, None)  # whoever reads it next makes it

    def encode_all(self, encoder: Encoder) -> int:
        """Make the vectors of all users in this version, those that are not there; count users.

        Killed and called again it goes on. Who did something meanwhile is made anew by `keep_up`.
        """
        count = 0
        for user_ids in batches(self.user_ids(), USERS_AT_ONCE):
            bare = [
                one
                for user_id in user_ids
                for one in self.recent(user_id)
                if one.text and one.vector is None
            ]
            distinct = {text: row for row, text in enumerate(dict.fromkeys(o.text for o in bare))}
            if distinct:
                rows = encoder.encode_texts(list(distinct))
                self._put_vectors([one.encoded(rows[distinct[one.text]]) for one in bare])
            for user_id in user_ids:
                self._make_user(user_id)
            count += len(user_ids)
        return count

    def vector_of(self, recent: Sequence[StoredInteraction]) -> UserVector | None:
        """h_u; None where an interaction is not encoded, or none says anything."""
        told = [one for one in recent if one.text]
        rows = [one.vector for one in told if one.vector is not None]
        if not told or len(rows) < len(told):
            return None
        return user_vector([one.record for one in told], np.stack(rows), self.decay)

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
    def vectors(self, user_ids: Sequence[str]) -> dict[str, UserVector]:
        """The user vectors that are there: somebody else may be known (`recent`) all the same."""

    def stored(self, user_id: str) -> StoredUser | None:
        """The user as a query can name one, where the engine has a place for user vectors.

        Whether there is one shows later.
        """
        del user_id
        return None

    @abstractmethod
    def user_ids(self) -> Iterator[str]:
        """Everybody who did something; streamed."""

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
        """Write the aspects of an interaction that is there; never makes one."""

    @abstractmethod
    def _put_vectors(self, some: Sequence[StoredInteraction]) -> None:
        """Write the vectors of those that have one, with the hash of what was encoded."""

    @abstractmethod
    def _amend_job(self, job: Job) -> None:
        """Write attempts, problem and time of a job that is there; never makes one."""

    @abstractmethod
    def _put_user(self, user_id: str, vector: UserVector | None) -> None:
        """Write the user vector, or take it out, where the engine keeps it apart."""

    @abstractmethod
    def _forget(self, user_id: str) -> None:
        """Take all vectors of a user out of this version."""

    @abstractmethod
    def _forget_elsewhere(self, user_id: str) -> None:
        """Take the user vector out of the other versions, where the engine keeps it apart."""


def _content(recent: Sequence[StoredInteraction]) -> list[tuple[str, str, bool]]:
    return [(one.key, one.text_hash, one.vector is not None) for one in recent]
