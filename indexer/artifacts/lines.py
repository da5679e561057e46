"""Read JSON Lines as a stream of records and report broken lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from indexer.artifacts.opening import (
    BOM,
    NOT_UTF8,
    TOO_LONG,
    bounded_lines,
    opened_lines,
)
from p4r_qdrant.errors import RecordError
from p4r_qdrant.validation import validation_sentence

Model = TypeVar("Model", bound=BaseModel)


@dataclass
class Refusals:
    """Refused records: their number by reason, and the first `keep` sentences.

    parent: gets every refusal too. notes: what is odd and was read all the same: its number, and
    where it was met first.
    """

    keep: int = 20
    counts: Counter[str] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)
    parent: Refusals | None = None
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, sentence: str, reason: str = "broken record") -> None:
        """Count one refused record under `reason`."""
        self.counts[reason] += 1
        if len(self.sentences) < self.keep:
            self.sentences.append(sentence)
        if self.parent is not None:
            self.parent.add(sentence, reason)

    def note(self, what: str, where: str = "") -> None:
        """Count something odd that is read all the same."""
        count, first = self.notes.get(what, (0, where))
        self.notes[what] = (count + 1, first)

    @property
    def total(self) -> int:
        """How many records were refused."""
        return self.counts.total()


def read_lines(
    path: Path, model: type[Model], refusals: Refusals
) -> Iterator[tuple[int, int, Model]]:
    """Stream (line number, byte offset, record) of a JSON Lines file, packed with gzip or not.

    Offsets are those of the unpacked file. Blank lines are skipped; a line that is not UTF-8, not
    JSON, not a valid record or too long goes to `refusals`.
    Raises: InputError if the file cannot be read, or is no JSON Lines as a whole.
    """
    with opened_lines(path) as file:
        for number, start, line in bounded_lines(file):
            if line is None:
                refusals.add(f"{path}:{number}: {TOO_LONG}")
                continue
            try:
                yield number, start, parse_line(line, model, f"{path}:{number}")
            except RecordError as error:
                refusals.add(str(error))


def parse_line(line: bytes, model: type[Model], where: str) -> Model:
    """A line as a record. Raises RecordError with a sentence that begins with `where`."""
    try:
        return model.model_validate_json(line.removeprefix(BOM))
    except ValidationError as error:
        problem = validation_sentence(error)
        if error.errors(include_url=False)[0]["type"] == "json_invalid" and not _is_utf8(line):
            problem = NOT_UTF8
        raise RecordError(f"{where}: {problem}") from None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def as_line(record: BaseModel) -> str:
    """A record as a line of an artifact, without the line break."""
    return json.dumps(record.model_dump(), ensure_ascii=False)
