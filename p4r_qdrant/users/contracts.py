"""What an engine implements to store users: interactions, user vectors and jobs.

Every implementation is thread-safe. What a method has written is durable when it returns. All
methods raise IndexUnavailableError if the storage cannot be reached.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.users.records import Job, JobCounts, OtherVersion, StoredInteraction

FORMAT = 1
"""The number of the format in which users are stored. Stores without a number have the first."""


class Interactions(ABC):
    """What users did. Stored once, whatever encoder is live; returned without vectors."""

    @abstractmethod
    def put(self, one: StoredInteraction, job: Job | None) -> None:
        """Write an interaction and its job. Replaces the one of the same user, item and time."""

    @abstractmethod
    def load(self, some: Sequence[StoredInteraction]) -> None:
        """Write interactions that are not stored yet; those that are stay as they are."""

    @abstractmethod
    def set_aspects(self, one: StoredInteraction) -> None:
        """Write the aspects of an interaction, if it is stored."""

    @abstractmethod
    def erase(self, user_id: str) -> int:
        """Delete the interactions and jobs of a user. Returns the number of interactions."""

    @abstractmethod
    def look_up(
        self, like: StoredInteraction, length: int
    ) -> tuple[StoredInteraction | None, list[StoredInteraction]]:
        """The interaction of this user, item and time, and `recent` of its user."""

    @abstractmethod
    def read_back(
        self, user_id: str, length: int
    ) -> tuple[list[StoredInteraction], Sequence[OtherVersion]]:
        """`recent`, and the other versions that can hold a vector of the user."""

    def recent(self, user_id: str, length: int) -> list[StoredInteraction]:
        """H_u: the newest `length` interactions, newest first. Of equal times: by item id."""
        return self.read_back(user_id, length)[0]

    @abstractmethod
    def of(self, user_id: str) -> Iterator[StoredInteraction]:
        """All interactions of a user, streamed."""

    @abstractmethod
    def items(self, user_id: str, length: int) -> dict[str, str]:
        """Titles by item id of a user's newest `length` interactions, newest first.

        Reads nothing else of them.
        """

    @abstractmethod
    def user_ids(self) -> Iterator[str]:
        """The ids of all users, streamed."""


class UserVectors(ABC):
    """Vectors made with the encoder of one version of the index: e_uj, and perhaps h_u."""

    stores_users: bool
    """Whether h_u is stored, so that a query can name it; else it is made at each read."""

    @abstractmethod
    def attach(self, some: Sequence[StoredInteraction]) -> list[StoredInteraction]:
        """The interactions with their vectors, if what was encoded is still their text."""

    @abstractmethod
    def put(self, encoded: Sequence[StoredInteraction]) -> None:
        """Write e_uj of those interactions that have one."""

    @abstractmethod
    def put_user(
        self, user_id: str, vector: UserVector | None, encoded: Sequence[StoredInteraction] = ()
    ) -> None:
        """Write h_u, or delete it if it is None; `put` the encoded interactions with it."""

    @abstractmethod
    def get(self, user_ids: Sequence[str]) -> dict[str, UserVector]:
        """h_u of the users that have one stored."""

    @abstractmethod
    def erase(self, user_id: str) -> None:
        """Delete all vectors of a user in this version."""

    @abstractmethod
    def invalidate(self, user_id: str, versions: Sequence[OtherVersion]) -> None:
        """Delete h_u in other versions (see `Interactions.read_back`)."""

    @abstractmethod
    def erase_elsewhere(self, user_id: str) -> None:
        """Delete all vectors of a user in all other versions."""


class Storage(Protocol):
    """What the three parts of an engine are stored in."""

    def purge(self) -> list[str]:
        """Take what was deleted out of the files too.

        Returns what remains there and until when, as sentences.
        """

    def close(self) -> None:
        """Release connections and files. Closing twice is fine."""


class Jobs(ABC):
    """Work for the worker. Each job is done at least once: it is removed only when it is done."""

    @abstractmethod
    def add(self, job: Job) -> None:
        """Write a job. Replaces the one with its key."""

    @abstractmethod
    def load(self, jobs: Sequence[Job]) -> None:
        """Write jobs in this order, whatever their state; a key that is stored keeps its job."""

    @abstractmethod
    def finish(self, job: Job) -> None:
        """Delete a job, unless a newer one has replaced it."""

    @abstractmethod
    def update(self, job: Job) -> None:
        """Write attempts, problem and time of a job, if it is stored."""

    @abstractmethod
    def replace_body(self, job: Job, body: Mapping[str, Any]) -> None:
        """Give a job another body, if it is stored and unchanged."""

    def postpone(self, job: Job, problem: str, seconds: float) -> None:
        """Try a job again after `seconds`."""
        later = time.time() + seconds
        self.update(replace(job, attempts=job.attempts + 1, problem=problem, not_before=later))

    def give_up(self, job: Job, problem: str) -> None:
        """Mark a job as failed. It is kept, and not tried again."""
        self.update(replace(job, attempts=job.attempts + 1, problem=problem, failed=True))

    @abstractmethod
    def due(self, limit: int) -> list[Job]:
        """Waiting jobs whose time has come, oldest first."""

    @abstractmethod
    def failed(self, limit: int) -> list[Job]:
        """Failed jobs, newest first."""

    @abstractmethod
    def counts(self) -> JobCounts:
        """How many jobs wait and how many failed."""

    @abstractmethod
    def all(self) -> Iterator[Job]:
        """All jobs, oldest first, streamed."""

    @abstractmethod
    def of_items(self) -> Iterator[Job]:
        """All jobs about items, streamed. Their bodies hold reviews of users."""
