"""The record of all batches, in the ledger's folder and under its lock.

    FOLDER/batches/batches.jsonl          one batch per line, readable; written as a whole
    FOLDER/batches/<name>.input.jsonl     what is sent, until its answers are in the ledger
    FOLDER/batches/<name>.results.jsonl   what came back, until it is in the ledger

A batch is recorded before it is created at the endpoint, with a name that goes into its metadata.
However a run ends, the next run finds the batch by that name and never pays for it twice.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from indexer.artifacts.lines import parse_line
from indexer.artifacts.writing import storage_errors, written_whole
from indexer.llm.request import Usage
from indexer.llm.wire import MAX_RESPONSE_BYTES
from p4r_qdrant.errors import InputError
from p4r_qdrant.whole_files import is_unfinished, opened_privately

URL = "/v1/chat/completions"
MAX_INPUT_BYTES = 190_000_000
_KEY = slice(len('{"custom_id": "'), len('{"custom_id": "') + 32)


class Batch(BaseModel):
    """One batch: `batch_id` is None until it is created, `ended` is None until it is fetched.

    `campaign` is the same for all batches until none is left: a request that failed in a campaign
    is not asked again in it, however many runs it takes. `tokens` count against the endpoint's
    limit of tokens under way; `prompt_tokens` and `completion_tokens` are upper bounds, and count
    against the run's ceilings. `validated` (`judged` in older files): the remaining results are
    paid for and answer no request of the last run; another run (of more items) may want them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    url: str
    campaign: str
    step: str
    requests: int
    tokens: int
    prompt_tokens: int
    completion_tokens: int
    file_id: str
    batch_id: str | None = None
    ended: str | None = None
    validated: bool = Field(default=False, validation_alias=AliasChoices("validated", "judged"))


class BatchFolder:
    """The batches of one ledger, oldest first. Raises InputError for a broken record.

    `campaign` is that of the batches that there are, else a new one.
    """

    def __init__(self, ledger: Path) -> None:
        self.path = ledger / "batches"
        self._state = self.path / "batches.jsonl"
        self._batches: dict[str, Batch] = {}
        if self._state.is_file():
            for number, line in enumerate(self._state.read_bytes().splitlines(), start=1):
                batch = parse_line(line, Batch, f"{self._state}:{number}")
                self._batches[batch.name] = batch
        unfinished = (batch.campaign for batch in self if not batch.validated)
        self.campaign = next(unfinished, uuid4().hex)

    def __iter__(self) -> Iterator[Batch]:
        return iter(list(self._batches.values()))

    def under_way(self) -> list[Batch]:
        """The batches whose results are not fetched yet."""
        return [batch for batch in self if batch.ended is None]

    def waiting(self) -> set[str]:
        """The keys of all requests that are paid for and perhaps not in the ledger yet."""
        return {key for batch in self if not batch.validated for key in self.keys(batch)}

    def check_none(self, what: str) -> None:
        """Raise InputError if answers are paid for and not in the ledger; `what` is the reason."""
        if self._batches:
            raise InputError(
                f"{self.path} holds {len(self._batches)} batches with answers that are not "
                f"collected yet, and {what}: run p4r reason --batch with the same input first, "
                "or remove the folder to give them up"
            )

    def save(self, batch: Batch) -> None:
        """Record a batch; the record is on disk on return."""
        self._batches[batch.name] = batch
        self._write()

    def forget(self, batch: Batch) -> None:
        """Remove a batch: its answers are in the ledger, or will never come."""
        del self._batches[batch.name]
        self._write()
        for path in (self.input(batch.name), self.results(batch.name)):
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the unfinished files of a killed run."""
        known = {self._state.name}
        for batch in self:
            known |= {self.input(batch.name).name, self.results(batch.name).name}
        for path in self.path.glob("*"):
            if path.name not in known and (path.suffix == ".jsonl" or is_unfinished(path.name)):
                path.unlink()

    def input(self, name: str) -> Path:
        """The requests of a batch."""
        return self.path / f"{name}.input.jsonl"

    def results(self, name: str) -> Path:
        """The answers to a batch."""
        return self.path / f"{name}.results.jsonl"

    def keys(self, batch: Batch) -> Iterator[str]:
        """The ledger keys of a batch's requests."""
        with self._opened(self.input(batch.name)) as file:
            for line in file:
                yield line[_KEY].decode(errors="replace")

    def found(self, batch: Batch) -> dict[str, int | None]:
        """The place of each key's answer in the results; None for a key without an answer.

        Broken lines, answers to unknown keys and repeated answers are ignored.
        """
        places: dict[str, int | None] = dict.fromkeys(self.keys(batch))
        with self._opened(self.results(batch.name)) as file:
            while line := file.readline(2 * MAX_RESPONSE_BYTES):
                key = _parsed(line).get("custom_id")
                if isinstance(key, str) and places.get(key, 0) is None:
                    places[key] = file.tell() - len(line)
        return places

    def result(self, batch: Batch, place: int) -> dict[str, Any]:
        """The result at this place."""
        with self.results(batch.name).open("rb") as file:
            file.seek(place)
            return _parsed(file.readline(2 * MAX_RESPONSE_BYTES))

    def _opened(self, path: Path) -> IO[bytes]:
        if not path.is_file():
            raise InputError(f"{path} is missing: remove {self.path} to give its batches up")
        return path.open("rb")

    def _write(self) -> None:
        self.path.mkdir(exist_ok=True)
        with written_whole(self._state) as write:
            for batch in self:
                write(batch.model_dump_json())


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclass
class BatchInput:
    """The input file of a new batch; its requests share one step and model.

    Raises StorageFullError.
    """

    folder: BatchFolder
    step: str
    model: str
    name: str = field(default_factory=lambda: uuid4().hex)
    keys: set[str] = field(default_factory=set)
    tokens: int = 0
    size: int = 0
    worst: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        with storage_errors(self.path):
            self.folder.path.mkdir(exist_ok=True)
            self._file = opened_privately(self.path, "wb")

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.folder.input(self.name)

    def add(self, key: str, line: bytes, worst: Usage) -> None:
        """Append one request."""
        with storage_errors(self.path):
            self._file.write(line)
        self.keys.add(key)
        self.size += len(line)
        self.tokens += tokens_of(line)
        self.worst = self.worst + worst

    def close(self) -> None:
        """Close the file; it is on disk on return."""
        with storage_errors(self.path), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def discard(self) -> None:
        """Remove the file: it will not be submitted."""
        with suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)


def line_of(key: str, body: Mapping[str, Any]) -> bytes:
    """A request as a line of a batch's input."""
    line = {"custom_id": key, "method": "POST", "url": URL, "body": body}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def tokens_of(line: bytes) -> int:
    """An upper estimate of the tokens of a line's prompt."""
    return math.ceil(len(line) / 3)
