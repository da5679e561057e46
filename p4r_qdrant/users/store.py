"""Stored users: what is common to all engines, first of all the upkeep of user vectors (Eq. 7).

Interactions and jobs are stored once, whatever encoder is live. Vectors are stored for each version
of the index, with a hash of the text that was encoded: a store is opened for one version, and never
returns vectors of another encoder or of an older text.

A job is written in the same call as the data it is about. So no acknowledged job is lost, and
erasing a user reaches the jobs too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.salvage import encoded_where_possible
from p4r_qdrant.encoder.user_vector import UserVector, user_vector
from p4r_qdrant.index.batching import batches
from p4r_qdrant.settings import HistorySettings
from p4r_qdrant.users.contracts import Interactions, Jobs, Storage, UserVectors
from p4r_qdrant.users.records import (
    Job,
    OtherVersion,
    StoredInteraction,
    reading_job,
)

_log = logging.getLogger(__name__)

UPKEEP_ATTEMPTS = 5
"""How often a user vector is made again if other writers change the history meanwhile."""

MAX_ITEMS = 5000
"""A user's newest interactions that count as the whole history."""

BEGUN = "begun"
"""In an erase job: the store may still hold something of the user."""

USERS_AT_ONCE = 64
"""Users whose interactions are encoded together when a version gets all users."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was stored when an interaction arrived.

    held: the interaction of the same user, item and time. recent: H_u, newest first.
    """

    held: StoredInteraction | None
    recent: list[StoredInteraction]


class UserStore:
    """The users of one version of the index. Thread-safe; see `contracts` for what is promised."""

    def __init__(
        self,
        interactions: Interactions,
        vectors: UserVectors,
        jobs: Jobs,
        history: HistorySettings,
        storage: Storage,
    ) -> None:
        """`storage`: where the three parts of the engine store."""
        self.interactions = interactions
        self.vectors = vectors
        self.jobs = jobs
        self.length = history.length
        self.decay = history.decay
        self._storage = storage

    def close(self) -> None:
        """Release what the engine holds. Closing twice is fine."""
        self._storage.close()

    def purge(self) -> list[str]:
        """Take what was erased out of the files of the storage too.

        Returns what remains there and until when, as sentences.
        """
        return self._storage.purge()

    # -- interactions -------------------------------------------------------------------------

    def look_up(self, like: StoredInteraction) -> Known:
        """What is stored before an interaction is added."""
        held, recent = self.interactions.look_up(like, self.length)
        if held is None:
            return Known(None, self.vectors.attach(recent))
        held, *recent = self.vectors.attach([held, *recent])
        return Known(held, recent)

    def get(self, like: StoredInteraction) -> StoredInteraction | None:
        """The interaction of this user, item and time, with its vector."""
        return self.look_up(like).held

    def recent(self, user_id: str) -> list[StoredInteraction]:
        """H_u: the newest interactions, newest first, with their vectors."""
        return self.vectors.attach(self.interactions.recent(user_id, self.length))

    def add(
        self, one: StoredInteraction, job: Job | None = None, known: Known | None = None
    ) -> bool:
        """Write an interaction and its job. False if the very same is stored already.

        An interaction of the same user, item and time that says something else is replaced.
        `known`: the result of `look_up`, if the caller has it.
        """
        known = known or self.look_up(one)
        is_new = known.held is None or not known.held.says_the_same_as(one)
        if known.held is not None and not is_new:
            one = known.held.encoded(one.vector if one.vector is not None else known.held.vector)
        if is_new:
            self.interactions.put(one, job)
        # Also if it is not new: a kill may have prevented the upkeep after the first write.
        self._keep_up(one, known.recent)
        return is_new

    def settle(self, one: StoredInteraction) -> bool:
        """Write aspects and vector of an interaction. False if it has changed or is deleted."""
        known = self.look_up(one)
        if known.held is None or not known.held.says_the_same_as(one):
            return False
        self.interactions.set_aspects(one)
        self._keep_up(one, known.recent)
        return True

    def knows(self, user_id: str) -> bool:
        """Whether an interaction or a review of the user is stored here."""
        return bool(self.interactions.recent(user_id, 1)) or any(
            review["user_id"] == user_id
            for job in self.jobs.of_items()
            for review in job.body["reviews"]
        )

    def erase(self, user_id: str) -> int:
        """Delete everything of a user, and add a job for the worker to do the same.

        Returns the number of interactions.
        """
        # A job before and after. The first: a kill erases too much, never too little. The second:
        # a worker may have taken what was still there, after it had done the first.
        job = Job(f"erase {user_id}", "erase", body={"user_id": user_id})
        self.jobs.add(replace(job, body={**job.body, BEGUN: True}))
        count = self.erase_here(user_id)
        self.jobs.add(job)
        return count

    def erase_here(self, user_id: str) -> int:
        """Delete everything of a user in the store. Returns the number of interactions."""
        for job in self.jobs.of_items():
            reviews = job.body["reviews"]
            kept = [one for one in reviews if one["user_id"] != user_id]
            if len(kept) < len(reviews):
                self.jobs.replace_body(job, {**job.body, "reviews": kept})
        count = self.interactions.erase(user_id)
        self.vectors.erase(user_id)
        self.vectors.erase_elsewhere(user_id)
        return count

    # -- as they were stored elsewhere --------------------------------------------------------

    def stream(self) -> Iterator[StoredInteraction]:
        """All interactions with their vectors, user by user."""
        for user_id in self.interactions.user_ids():
            for some in batches(self.interactions.of(user_id), USERS_AT_ONCE):
                yield from self.vectors.attach(some)

    def load(self, some: Sequence[StoredInteraction]) -> None:
        """Write interactions that are not stored yet, with their vectors, and make h_u.

        Those whose review nobody has read get the job to read it.
        """
        self.interactions.load(some)
        unread = (reading_job(one) for one in some if one.aspects is None)
        self.jobs.load([job for job in unread if job is not None])
        self.vectors.put(some)
        for user_id in dict.fromkeys(one.user_id for one in some):
            self._make_user(user_id)

    # -- user vectors -------------------------------------------------------------------------

    def user_vectors(self, user_ids: Sequence[str]) -> dict[str, UserVector]:
        """h_u of those users whose whole history is encoded. Others may be known all the same."""
        if self.vectors.stores_users:
            return self.vectors.get(user_ids)
        found = {user_id: self.vector_of(self.recent(user_id)) for user_id in user_ids}
        return {user_id: vector for user_id, vector in found.items() if vector is not None}

    def items(self, user_id: str) -> dict[str, str]:
        """Titles by item id of a user's whole history, newest first; up to MAX_ITEMS."""
        return self.interactions.items(user_id, MAX_ITEMS)

    def vector_of(self, recent: Sequence[StoredInteraction]) -> UserVector | None:
        """h_u (Eq. 7). None if an interaction is not encoded, or if none has a text."""
        spoken = [one for one in recent if one.text]
        rows = [one.vector for one in spoken if one.vector is not None]
        if not spoken or len(rows) < len(spoken):
            return None
        return user_vector([one.record for one in spoken], np.stack(rows), self.decay)

    def remember(self, encoded: Sequence[StoredInteraction]) -> None:
        """Write vectors of a user's interactions that had none in this version."""
        self.vectors.put(encoded)
        if encoded:
            self._make_user(encoded[0].user_id)

    def encode_all(self, encoder: Encoder) -> int:
        """Make the missing vectors of all users in this version. Returns the number of users.

        After a kill, another call continues. Users who act meanwhile are made anew by `add`.
        """
        count = 0
        for user_ids in batches(self.interactions.user_ids(), USERS_AT_ONCE):
            bare = [
                one
                for user_id in user_ids
                for one in self.recent(user_id)
                if one.text and one.vector is None
            ]
            distinct = {text: row for row, text in enumerate(dict.fromkeys(o.text for o in bare))}
            if distinct:
                rows, refused = encoded_where_possible(encoder.encode_queries, list(distinct))
                if refused:
                    _log.warning("%d texts of users have no vector", len(refused))
                self.vectors.put(
                    [
                        one.encoded(rows[distinct[one.text]])
                        for one in bare
                        if distinct[one.text] not in refused
                    ]
                )
            for user_id in user_ids:
                self._make_user(user_id)
            count += len(user_ids)
        return count

    def _keep_up(self, one: StoredInteraction, recent: Sequence[StoredInteraction]) -> None:
        """Make h_u with an interaction that was just written; `recent` is H_u before it.

        In other versions h_u is deleted, and made again when it is needed there.
        """
        others = [each for each in recent if each.key != one.key]
        newest = sorted([one, *others], key=lambda each: (each.timestamp, each.item_id))
        versions = self._make_user(one.user_id, newest[::-1][: self.length], [one])
        self.vectors.invalidate(one.user_id, versions)

    def _make_user(
        self,
        user_id: str,
        recent: Sequence[StoredInteraction] | None = None,
        encoded: Sequence[StoredInteraction] = (),
    ) -> Sequence[OtherVersion]:
        """Write h_u of `recent`, and e_uj of `encoded`. Returns the other versions.

        Re-reads after writing and retries on change, so that concurrent writers never leave a
        stale vector.
        """
        versions: Sequence[OtherVersion] = ()
        recent = self.recent(user_id) if recent is None else recent
        for _ in range(UPKEEP_ATTEMPTS):
            vector = self.vector_of(recent)
            if recent:
                self.vectors.put_user(user_id, vector, encoded)
            else:  # erased, perhaps just now
                self.vectors.erase(user_id)
            stored, versions = self.interactions.read_back(user_id, self.length)
            is_same = _texts(stored) == _texts(recent)
            if is_same and (vector is not None or not recent):
                return versions
            again = self.vectors.attach(stored)
            if is_same and _bare(again) == _bare(recent):
                return versions
            recent, encoded = again, ()
        self.vectors.put_user(user_id, None)  # made again when it is needed
        return versions


def _texts(recent: Sequence[StoredInteraction]) -> list[tuple[str, str]]:
    return [(one.key, one.text_hash) for one in recent]


def _bare(recent: Sequence[StoredInteraction]) -> list[str]:
    """The interactions that are not encoded."""
    return [one.key for one in recent if one.vector is None]
