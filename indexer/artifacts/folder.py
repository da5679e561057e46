"""The artifact folder: JSON Lines files, read as streams.

A broken line never stops a reader: it becomes a `RecordError` that names file and line, handed
to the caller's `Refusals`. Records that must be joined are found by their place in the file, so
that memory holds ids and offsets, never texts.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from p4r_qdrant.errors import InputError, RecordError, StorageFullError
from p4r_qdrant.index.index import MAX_CANDIDATES
from p4r_qdrant.index.payload import payload_fields, plain_text
from p4r_qdrant.records import (
    Aspects,
    CandidateList,
    Interaction,
    Item,
    ItemPersonas,
    Review,
    Split,
    Summary,
)

ITEMS = "items.jsonl"
REVIEWS = "reviews.jsonl"
SUMMARIES = "summaries.jsonl"
ASPECTS = "aspects.jsonl"
PERSONAS = "personas.jsonl"
ALIGNMENTS = "alignments.jsonl"
SPLITS = "splits.jsonl"
CANDIDATES = "candidates.jsonl"

Model = TypeVar("Model", bound=BaseModel)

_BOM = b"\xef\xbb\xbf"


@dataclass
class Refusals:
    """What was refused, counted by reason; the first `keep` sentences in full."""

    keep: int = 20
    counts: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)

    def add(self, sentence: str, reason: str = "broken record") -> None:
        """Count one refused record under `reason`."""
        self.counts[reason] += 1
        if len(self.sentences) < self.keep:
            self.sentences.append(sentence)

    @property
    def total(self) -> int:
        """How many records were refused."""
        return self.counts.total()


def read_lines(
    path: Path, model: type[Model], refusals: Refusals
) -> Iterator[tuple[int, int, Model]]:
    """Stream (line number, byte offset, record) of a JSON Lines file; blank lines are skipped.

    Raises InputError where the file cannot be opened. A line that is not UTF-8, not JSON or
    not such a record goes to `refusals`.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        offset = 0
        for number, line in enumerate(file, start=1):
            start, offset = offset, offset + len(line)
            if not line.removeprefix(_BOM).strip():
                continue
            try:
                yield number, start, parse_line(line, model, f"{path}:{number}")
            except RecordError as error:
                refusals.add(str(error))


def parse_line(line: bytes, model: type[Model], where: str) -> Model:
    """One line as a record; raises RecordError in one sentence that begins with `where`."""
    try:
        return model.model_validate_json(line.removeprefix(_BOM))
    except ValidationError as error:
        raise RecordError(f"{where}: {validation_sentence(error)}") from None


MOST_NULLS = 0.75
"""An aspect tuple with a larger share of nulls says nothing (Eq. 2)."""


def tells_something(aspects: Mapping[str, str | None]) -> bool:
    """Whether a tuple may stay: with four slots, where one of them is filled."""
    nulls = sum(not text for text in aspects.values())
    return bool(aspects) and nulls <= MOST_NULLS * len(aspects)


def validation_sentence(error: ValidationError) -> str:
    """The first problem of a record: the field, and what is wrong with it."""
    first = error.errors(include_input=False, include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


@contextmanager
def written_whole(path: Path) -> Iterator[Callable[[str], None]]:
    """Write lines to a file that appears when all is written, or not at all.

    Yields the function that writes one line; "-" is standard output. Raises InputError where
    the file cannot be written, StorageFullError where the disk is full.
    """
    if str(path) == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as in a file, whatever the terminal speaks
        yield lambda line: print(line)  # noqa: T201 - this is where output is asked for
        return
    if not path.name or path.name == ".." or os.path.isdir(path):  # noqa: PTH112 - never raises
        raise InputError(f"{path} cannot be written: it is a folder; name a file")
    target = Path(os.path.realpath(path))  # a link stays one
    whole = os.path.isfile(target) or not os.path.exists(target)  # noqa: PTH110, PTH113 - never raise
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished") if whole else target
    try:
        with unfinished.open("w", encoding="utf-8", errors="surrogateescape") as file:
            yield lambda line: print(line, file=file)
            file.flush()
            if whole:  # else it is a device or a pipe, and stays one
                os.fsync(file.fileno())
        if whole:
            unfinished.replace(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFullError(f"no space left to write {path}; nothing was written") from None
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        if whole:
            with suppress(OSError):  # as a rule it is gone, or never was
                unfinished.unlink()


def rewrite(
    path: Path,
    model: type[Model],
    changed: Callable[[Model], BaseModel | None],
    *,
    more: Callable[[], Iterable[BaseModel]] = tuple,
    broken: Refusals | None = None,
) -> None:
    """Write a file of records anew, whole or not at all: what `changed` makes of each, then `more`.

    None leaves a record out; one that does not change keeps its very line. `more` is called at
    the end. A broken line stays where it is; with `broken` it is removed and told there. A file
    that is not there is as good as an empty one.
    """
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(path.open("rb")) if path.is_file() else ()
        write = stack.enter_context(written_whole(path))
        for number, line in enumerate(lines, start=1):
            if not line.removeprefix(_BOM).strip():
                continue
            try:
                record = parse_line(line, model, f"{path}:{number}")
            except RecordError as error:
                if broken is not None:
                    broken.add(f"{error}; the line was removed", "broken record removed")
                else:
                    write(line.decode(errors="surrogateescape").rstrip("\r\n"))
                continue
            after = changed(record)
            if after == record:
                write(line.decode().rstrip("\r\n"))
            elif after is not None:
                write(as_line(after))
        for record_after in more():
            write(as_line(record_after))


def as_line(record: BaseModel) -> str:
    """A record as the artifacts hold it, without the line break."""
    return json.dumps(record.model_dump(), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One item as the index wants it, vectors aside."""

    where: str
    item: ItemPersonas
    summary: str
    fields: dict[str, Any]


class ArtifactFolder:
    """One catalogue's artifacts. Raises InputError where the folder is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.path.isdir(path):  # noqa: PTH112 - never raises
            raise InputError(f"there is no artifact folder {path}; name one that holds {PERSONAS}")

    def file(self, name: str) -> Path:
        """The path of an artifact; raises InputError where it is not there."""
        path = self.path / name
        if not path.is_file():
            raise InputError(f"the artifact folder {self.path} holds no {name}")
        return path

    def has(self, name: str) -> bool:
        """Whether the artifact is there."""
        return (self.path / name).is_file()

    def count_lines(self, name: str) -> int:
        """Lines of an artifact, for a progress bar."""
        with self.file(name).open("rb") as file:
            return sum(1 for _ in file)

    def index_rows(self, domain: str, refusals: Refusals) -> Iterator[IndexRow]:
        """Stream the items to index: their personas joined with summary and metadata.

        Refused, counted and left out: broken lines, and a repeated item id (the first stays).
        """
        personas = self.file(PERSONAS)
        with (
            self.summaries(refusals) as summaries,
            self.items(refusals) as items,
        ):
            seen: dict[str, int] = {}
            for number, _, record in read_lines(personas, ItemPersonas, refusals):
                where = f"{personas}:{number}"
                first = seen.setdefault(record.item_id, number)
                if first != number:
                    refusals.add(
                        f"{where}: item {record.item_id!r} is already on line {first}; keep one",
                        "repeated item",
                    )
                    continue
                summary = summaries.get(record.item_id)
                item = items.get(record.item_id)
                text = summary.summary if summary else ""
                yield IndexRow(where, record, text, payload_fields(item, text, domain))

    def histories(self, refusals: Refusals) -> Histories:
        """Users' interactions without those that splits.jsonl holds out; a context manager.

        An interaction is a line of reviews.jsonl or of aspects.jsonl; the texts are those of
        aspects.jsonl and summaries.jsonl. Raises InputError where both of the first are missing.
        """
        if not self.has(REVIEWS) and not self.has(ASPECTS):
            self.file(REVIEWS)
        return Histories(self, refusals)

    def held_out(self) -> set[tuple[str, str]]:
        """The (user, item) pairs that splits.jsonl holds out; none without that file.

        Raises InputError where a line of it is broken: to go on would let the answer through.
        """
        if not self.has(SPLITS):
            return set()
        broken = Refusals(keep=1)
        held_out = {
            (split.user_id, item_id)
            for _, _, split in read_lines(self.path / SPLITS, Split, broken)
            for item_id in (split.test_item, split.valid_item)
            if item_id is not None
        }
        if broken.total:
            raise InputError(f"{broken.sentences[0]}; mend it, for it holds interactions out")
        return held_out

    def summaries(self, refusals: Refusals) -> Lookup[Summary]:
        """Summaries by item id."""
        return Lookup(self.path / SUMMARIES, Summary, refusals)

    def items(self, refusals: Refusals) -> Lookup[Item]:
        """Metadata by item id."""
        return Lookup(self.path / ITEMS, Item, refusals)


class Histories:
    """What each user did, by user id. Holds ids and places in the files, never texts."""

    def __init__(self, folder: ArtifactFolder, refusals: Refusals) -> None:
        held_out = folder.held_out()
        self._summaries = folder.summaries(refusals)
        self._items = folder.items(refusals)
        self._aspects_path = folder.path / ASPECTS
        self._aspects_file: BinaryIO | None = None
        self._users: dict[str, dict[str, tuple[int, float, int | None]]] = {}
        sources: list[tuple[str, type[Review] | type[Aspects]]] = [
            (REVIEWS, Review),
            (ASPECTS, Aspects),
        ]
        for name, model in sources:
            if not folder.has(name):
                continue
            for _, offset, record in read_lines(folder.path / name, model, refusals):
                if (record.user_id, record.item_id) in held_out:
                    continue
                done = self._users.setdefault(record.user_id, {})
                held = done.get(record.item_id)
                if held is None or record.timestamp >= held[0]:  # of repeated ones the newest
                    place = offset if name == ASPECTS else None
                    done[record.item_id] = (record.timestamp, record.rating, place)

    def users(self) -> Iterator[str]:
        """All users with an interaction, in the order they come in the files."""
        return iter(self._users)

    def get(self, user_id: str) -> list[Interaction]:
        """A user's interactions; empty for somebody unknown."""
        return [
            self._interaction(item_id, *place)
            for item_id, place in self._users.get(user_id, {}).items()
        ]

    def _interaction(
        self, item_id: str, timestamp: int, rating: float, place: int | None
    ) -> Interaction:
        summary, item = self._summaries.get(item_id), self._items.get(item_id)
        aspects: Mapping[str, str | None] = {}
        if place is not None and self._aspects_file is not None:
            self._aspects_file.seek(place)
            where = str(self._aspects_path)
            aspects = parse_line(self._aspects_file.readline(), Aspects, where).aspects
        return Interaction(
            item_id=item_id,
            timestamp=timestamp,
            summary=summary.summary if summary else "",
            title=plain_text(item.title) if item else "",
            aspects=aspects,
            rating=rating,
        )

    def __enter__(self) -> Self:
        self._summaries.__enter__()
        self._items.__enter__()
        if self._aspects_path.is_file():
            self._aspects_file = self._aspects_path.open("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._summaries.__exit__()
        self._items.__exit__()
        if self._aspects_file is not None:
            self._aspects_file.close()


class Lookup(Generic[Model]):
    """Records of a file by item id, read again from their place when asked for.

    A file that is not there holds nothing: summaries and metadata are optional.
    """

    def __init__(self, path: Path, model: type[Model], refusals: Refusals) -> None:
        self._model = model
        self._path = path
        self._places: dict[str, int] = {}
        self._file: BinaryIO | None = None
        if path.is_file():
            for number, offset, record in read_lines(path, model, refusals):
                item_id: str = getattr(record, "item_id")  # noqa: B009 - every such model has one
                if self._places.setdefault(item_id, offset) != offset:
                    refusals.add(
                        f"{path}:{number}: item {item_id!r} is already in this file; keep one",
                        "repeated item",
                    )

    def get(self, item_id: str) -> Model | None:
        """The record of an item, None where the file has none."""
        offset = self._places.get(item_id)
        if offset is None or self._file is None:
            return None
        self._file.seek(offset)
        return parse_line(self._file.readline(), self._model, str(self._path))

    def __enter__(self) -> Self:
        if self._places:
            self._file = self._path.open("rb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def read_candidates(path: Path, refusals: Refusals) -> Iterator[CandidateList]:
    """Stream a candidates file.

    Refused and counted: broken lines, repeated users, empty lists and those that are too long.
    """
    seen: dict[str, int] = {}
    for number, _, record in read_lines(path, CandidateList, refusals):
        first = seen.setdefault(record.user_id, number)
        if first != number:
            refusals.add(
                f"{path}:{number}: user {record.user_id!r} is already on line {first}; keep one",
                "repeated user",
            )
        elif not record.results:
            refusals.add(
                f"{path}:{number}: user {record.user_id!r} has no candidates", "no candidates"
            )
        elif len(record.results) > MAX_CANDIDATES:
            refusals.add(
                f"{path}:{number}: user {record.user_id!r} has {len(record.results)} candidates, "
                f"at most {MAX_CANDIDATES} can be reranked",
                "too many candidates",
            )
        else:
            yield record
