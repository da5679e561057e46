"""The artifact folder: JSON Lines files, read as streams.

A broken line never stops a reader: it becomes a `RecordError` that names file and line, handed
to the caller's `Refusals`. Records that must be joined are found by their place in the file, so
that memory holds ids and offsets, never texts.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from p4r_qdrant.errors import InputError, RecordError
from p4r_qdrant.index.payload import CATEGORY, DOMAIN, ITEM_TITLE, OWN_FIELDS, SUMMARY
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

_TAG = re.compile(r"<[^<>]{1,200}>")
_WORD = re.compile(r"\w+")


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
            if not line.strip():
                continue
            try:
                yield number, start, parse_line(line, model, f"{path}:{number}")
            except RecordError as error:
                refusals.add(str(error))


def parse_line(line: bytes, model: type[Model], where: str) -> Model:
    """One line as a record; raises RecordError in one sentence that begins with `where`."""
    try:
        return model.model_validate_json(line.removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise RecordError(f"{where}: {f'{name}: ' if name else ''}{message}") from None


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
        if not path.is_dir():
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
            self._lookup(SUMMARIES, Summary, refusals) as summaries,
            self._lookup(ITEMS, Item, refusals) as items,
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
                yield IndexRow(where, record, text, _payload_fields(item, text, domain))

    def histories(
        self, refusals: Refusals, users: Collection[str] | None = None
    ) -> Mapping[str, list[Interaction]]:
        """Users' interactions without those that splits.jsonl holds out.

        An interaction is a line of reviews.jsonl or of aspects.jsonl; the texts are those of
        aspects.jsonl and summaries.jsonl. Only the histories of `users` are held.
        """
        held_out = self._held_out(refusals)
        found: dict[tuple[str, str], tuple[int, float, dict[str, str | None]]] = {}
        sources: list[tuple[str, type[Review] | type[Aspects]]] = [
            (REVIEWS, Review),
            (ASPECTS, Aspects),
        ]
        if not any(self.has(name) for name, _ in sources):
            self.file(REVIEWS)
        for name, model in sources:
            if not self.has(name):
                continue
            for _, _, record in read_lines(self.path / name, model, refusals):
                key = (record.user_id, record.item_id)
                if (users is None or record.user_id in users) and key not in held_out:
                    aspects = record.aspects if isinstance(record, Aspects) else {}
                    found[key] = (record.timestamp, record.rating, aspects)
        histories: dict[str, list[Interaction]] = {}
        with (
            self._lookup(SUMMARIES, Summary, refusals) as summaries,
            self._lookup(ITEMS, Item, refusals) as items,
        ):
            for (user_id, item_id), (timestamp, rating, aspects) in found.items():
                summary, item = summaries.get(item_id), items.get(item_id)
                histories.setdefault(user_id, []).append(
                    Interaction(
                        item_id=item_id,
                        timestamp=timestamp,
                        summary=summary.summary if summary else "",
                        title=item.title if item else "",
                        aspects=aspects,
                        rating=rating,
                    )
                )
        return histories

    def _held_out(self, refusals: Refusals) -> set[tuple[str, str]]:
        if not self.has(SPLITS):
            return set()
        return {
            (split.user_id, item_id)
            for _, _, split in read_lines(self.path / SPLITS, Split, refusals)
            for item_id in (split.test_item, split.valid_item)
        }

    def titles(self, item_ids: Collection[str], refusals: Refusals) -> dict[str, str]:
        """Titles of some items, for people to read; the id where an item has none."""
        with self._lookup(ITEMS, Item, refusals) as items:
            found = {item_id: items.get(item_id) for item_id in item_ids}
        return {item_id: item.title if item else "" for item_id, item in found.items()}

    def _lookup(self, name: str, model: type[Model], refusals: Refusals) -> _Lookup[Model]:
        return _Lookup(self.path / name, model, refusals)


class _Lookup(Generic[Model]):
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
    """Stream a candidates file; repeated users and empty lists are refused and counted."""
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
        else:
            yield record


def _payload_fields(item: Item | None, summary: str, domain: str) -> dict[str, Any]:
    """What is stored beside an item's personas: title, category, summary, and its own fields."""
    fields: dict[str, Any] = {}
    if item is not None:
        fields |= item.model_extra or {}
        fields |= {"categories": [plain_text(one) for one in item.categories], "brand": item.brand}
        fields[ITEM_TITLE] = plain_text(item.title)
    fields |= {SUMMARY: plain_text(summary), DOMAIN: domain}
    if item is not None and item.categories:
        # The last category is the most specific; a slug can be typed into a dashboard filter.
        fields[CATEGORY] = slug(item.categories[-1])
    return {
        name: value
        for name, value in fields.items()
        if name not in OWN_FIELDS and value not in ("", [], None)
    }


def plain_text(value: str) -> str:
    """Text without HTML tags and entities, white space folded: for people to read."""
    return " ".join(_TAG.sub(" ", html.unescape(value)).split())


def slug(value: str) -> str:
    """A keyword one can type: lower case, words joined by hyphens."""
    return "-".join(_WORD.findall(html.unescape(value).lower()))
