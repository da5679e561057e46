"""The decisions of reviewers: FOLDER/decisions.jsonl, append-only.

    {"at", "by", "action", "item_id", "persona_id", "before", "after", "texts", "remark",
     "evidence", "other"}

A decision is appended and synced under a lock. Their order is that of the file: clocks of reviewers
may differ. A line that a kill cut off was confirmed to nobody, and the next decision replaces it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from indexer.artifacts.lines import Refusals, as_line, parse_line
from indexer.artifacts.names import DECISIONS
from indexer.artifacts.writing import storage_errors
from p4r_qdrant.errors import InputError, P4RError, RecordError
from p4r_qdrant.file_lock import LOCK_FILE, take
from p4r_qdrant.records import Action, Id, NonEmptyText, Persona, Text
from p4r_qdrant.whole_files import PRIVATE, sync_folder

WAIT_S = 10.0
"""Seconds that a decision waits for another one to be written."""
POLL_S = 0.01
MAX_NAME = 100
"""Characters of a reviewer's name."""

PINS = ("edit", "lock", "split")
"""Actions whose texts replace what reasoning writes."""


def check_reviewer(name: str) -> str:
    """Return the name of a reviewer without outer spaces; raise ValueError if it cannot be one."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"a reviewer's name is one line of 1 to {MAX_NAME} characters")
    return name


class Texts(BaseModel):
    """The texts of a persona."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: NonEmptyText
    description: NonEmptyText
    preference_rationale: NonEmptyText

    @classmethod
    def of(cls, persona: Persona) -> Texts:
        """The texts of a persona as they are in personas.jsonl."""
        return cls(
            name=persona.name,
            description=persona.description,
            preference_rationale=persona.preference_rationale,
        )

    def onto(self, persona: Persona) -> Persona:
        """The persona with these texts."""
        return persona.model_copy(update=self.model_dump())


class Half(BaseModel):
    """The second persona of a split; the first one keeps its id. after: its `persona_digest`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    persona_id: Id
    texts: Texts
    evidence: tuple[Id, ...]
    after: str


class Decision(BaseModel):
    """One line. before, after: `persona_digest` of what the reviewer saw, and of what it became.

    at: seconds since 1970 by the reviewer's clock. texts: the persona's texts after the decision;
    None for an undo. evidence: of a split, the users whose reviews stay with the persona; other:
    what it was split off.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: Annotated[int, Field(ge=0)]
    by: Annotated[str, AfterValidator(check_reviewer)]
    action: Action
    item_id: Id
    persona_id: Id
    before: str
    after: str
    texts: Texts | None = None
    remark: Text = ""
    evidence: tuple[Id, ...] | None = None
    other: Half | None = None

    @property
    def users(self) -> tuple[str, ...]:
        """The users whose reviews a split has assigned."""
        return (*(self.evidence or ()), *(self.other.evidence if self.other else ()))

    def of_other(self, half: Half) -> Decision:
        """The same split as a decision on the persona that it makes."""
        own = {"texts": half.texts, "evidence": half.evidence, "after": half.after, "other": None}
        return self.model_copy(update={"persona_id": half.persona_id, **own})


def valid(rows: Sequence[Decision]) -> list[Decision]:
    """The decisions on a persona that were not undone, in their order."""
    stack: list[Decision] = []
    for one in rows:
        if one.action != "undo":
            stack.append(one)
        elif stack:
            stack.pop()
    return stack


class Decisions:
    """The decisions of an artifact folder, read as they are appended. Thread-safe.

    broken: lines that are no decisions. is_torn: the last line has no end yet.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DECISIONS
        self.broken = Refusals()
        self.is_torn = False
        self._lock = threading.RLock()
        self._news = set[str]()
        self._forget()

    def _forget(self) -> None:
        self.broken = Refusals()
        self._found: tuple[int, int] | None = None
        self._end = self._lines = 0
        self._by_item: dict[str, list[Decision]] = {}

    def refresh(self) -> set[str]:
        """Read what was appended; returns the items of all decisions that are new since last time.

        Raises: InputError if the file cannot be read.
        """
        with self._lock:
            self._catch_up()
            news, self._news = self._news, set()
            return news

    def _catch_up(self) -> None:
        with storage_errors(self.path, cannot="be read"):
            try:
                file = self.path.open("rb")
            except FileNotFoundError:
                self._news |= self._by_item.keys()
                self._forget()
                return
            with file:
                self._read(file)

    def _read(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        found = status.st_dev, status.st_ino
        if self._found != found or status.st_size < self._end:  # an erasure has rewritten it
            self._news |= self._by_item.keys()
            self._forget()
            self._found = found
        file.seek(self._end)
        self.is_torn = False
        for line in file:
            if not line.endswith(b"\n"):
                self.is_torn = True
                break
            self._end += len(line)
            self._lines += 1
            if not line.strip():
                continue
            try:
                self._take(parse_line(line, Decision, f"{self.path}:{self._lines}"))
            except RecordError as error:
                self.broken.add(str(error), "broken decision")

    def _take(self, one: Decision) -> None:
        self._news.add(one.item_id)
        self._by_item.setdefault(one.item_id, []).append(one)

    def items(self) -> list[str]:
        """The ids of all items with decisions."""
        with self._lock:
            return list(self._by_item)

    def of(self, item_id: str) -> Mapping[str, Sequence[Decision]]:
        """Persona id -> its decisions in the order of the file.

        A split is a decision on both halves, until it is undone.
        """
        found: dict[str, list[Decision]] = {}
        for one in self.on(item_id):
            rows = found.setdefault(one.persona_id, [])
            if one.action == "undo" and (last := valid(rows)[-1:]) and last[0].other is not None:
                found[last[0].other.persona_id].remove(last[0].of_other(last[0].other))
            rows.append(one)
            if one.other is not None:
                found.setdefault(one.other.persona_id, []).append(one.of_other(one.other))
        return {name: tuple(rows) for name, rows in found.items() if rows}

    def on(self, item_id: str) -> Sequence[Decision]:
        """All decisions on an item, in the order of the file."""
        with self._lock:
            return tuple(self._by_item.get(item_id, ()))

    def __iter__(self) -> Iterator[Decision]:
        with self._lock:
            every = [one for own in self._by_item.values() for one in own]
        return iter(every)

    def append(self, make: Callable[[], Iterable[Decision]]) -> list[Decision]:
        """Append decisions and sync them. Returns them.

        make: is called when nobody else can decide, with all decisions read. What it yields is read
        when it is asked for the next one; what it raises ends the call, and keeps what it yielded.
        Raises: InputError or StorageFullError if the file cannot be written.
        """
        made = []
        with self._lock, self._written_alone() as file:
            self._catch_up()
            file.truncate(self._end)  # a line that a kill cut off
            try:
                for one in make():
                    self._write(file, one)
                    made.append(one)
            finally:
                with storage_errors(self.path, kept="the decision may be lost"):
                    os.fsync(file.fileno())
        return made

    def _write(self, file: BinaryIO, one: Decision) -> None:
        line = as_line(one).encode() + b"\n"
        end = file.seek(0, os.SEEK_END)
        try:
            with storage_errors(self.path, kept="the decision was not saved"):
                # A buffer would write the rest again when the file is closed.
                if os.write(file.fileno(), line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except P4RError:
            os.ftruncate(file.fileno(), end)
            raise
        self._catch_up()

    @contextmanager
    def _written_alone(self) -> Iterator[BinaryIO]:
        """The file; no other process can append to it meanwhile. An empty new one is deleted."""
        with storage_errors(self.path):
            is_new, file = not self.path.exists(), locked(self.path)
            if is_new:
                sync_folder(self.path.parent)
        with file:
            try:
                yield file
            finally:
                if is_new and not os.fstat(file.fileno()).st_size:
                    with suppress(OSError):
                        self.path.unlink()


def locked(path: Path) -> BinaryIO:
    """Open decisions.jsonl for this process alone; the caller closes it.

    Raises: OSError; InputError if another process keeps it for `WAIT_S` seconds.
    """
    deadline = time.monotonic() + WAIT_S
    while (file := take(path, LOCK_FILE, PRIVATE)) is None:
        if time.monotonic() > deadline:
            raise InputError(f"{path} is in use by another process; try again")
        time.sleep(POLL_S)
    return file
