"""Leaks by content: words of held-out reviews, and markers of poisoned ones, in files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.opening import opened
from indexer.evaluation.leaks.poison import MARKER
from indexer.evaluation.leaks.report import Check, Findings
from indexer.progress import Progress
from p4r_qdrant.index.batching import batches
from p4r_qdrant.records import Review

RUN = 8
"""Consecutive words: texts that share so many are not similar by chance."""

REVIEWS_AT_ONCE = 10_000
_WORD = re.compile(r"\w+")
_BETWEEN_QUOTES = re.compile(r"”\W*“")
"""What follows here need not have followed in the text that is quoted."""

_TEXTS = {".json", ".jsonl", ".md", ".txt", ".csv", ".toml"}

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class HeldOutRuns:
    """Runs of words that only held-out reviews hold.

    hashes: (n,) uint64, sorted. owner: (n,) positions in owners, the (user, item) pairs.
    too_short: held-out reviews without a run.
    """

    hashes: Hashes
    owner: npt.NDArray[np.int64]
    owners: list[tuple[str, str]]
    too_short: int

    @classmethod
    def read(
        cls,
        reviews: Path,
        items: Path,
        held_out: frozenset[tuple[str, str]],
        progress: Progress,
    ) -> HeldOutRuns:
        """Hash the runs of held-out reviews, without those that other texts hold too."""
        hashes: list[Hashes] = []
        owners: list[tuple[str, str]] = []
        too_short = 0
        for _, _, review in read_lines(reviews, Review, Refusals()):
            progress.advance()
            if (review.user_id, review.item_id) in held_out:
                found = _runs([review.title, review.text])
                too_short += not len(found)
                owners.append((review.user_id, review.item_id))
                hashes.append(found)
        flat = np.concatenate([*hashes, np.zeros(0, np.uint64)])
        owner = np.repeat(np.arange(len(owners)), [len(one) for one in hashes])
        order = np.argsort(flat, kind="stable")
        flat, owner = flat[order], owner[order]
        public = np.zeros(len(flat), dtype=np.bool_)
        for batch in batches(_public_texts(reviews, items, held_out, progress), REVIEWS_AT_ONCE):
            public |= np.isin(flat, _runs(chain.from_iterable(batch)))
        return cls(flat[~public], owner[~public], owners, too_short)

    def repeated_in(self, texts: Iterable[str]) -> tuple[str, str] | None:
        """The (user, item) of a held-out review whose words stand in one of these texts."""
        return self.find(_runs(texts))

    def find(self, text: Hashes) -> tuple[str, str] | None:
        """The (user, item) of a held-out review that a text repeats, None if it repeats none."""
        if not len(self.hashes) or not len(text):
            return None
        places = np.searchsorted(self.hashes, text)
        places[places == len(self.hashes)] = 0
        same = self.hashes[places] == text
        return self.owners[self.owner[places[same.argmax()]]] if same.any() else None


class _Any(BaseModel):
    model_config = ConfigDict(extra="allow")


def _public_texts(
    reviews: Path,
    items: Path,
    held_out: frozenset[tuple[str, str]],
    progress: Progress,
) -> Iterator[list[str]]:
    """Texts that may be repeated: training reviews and metadata."""
    for _, _, review in read_lines(reviews, Review, Refusals()):
        progress.advance()
        if (review.user_id, review.item_id) not in held_out:
            yield [review.title, review.text]
    if items.is_file():
        for _, _, item in read_lines(items, _Any, Refusals()):
            yield list(_strings(item.model_extra))


def text_checks(files: Sequence[Path], runs: HeldOutRuns, progress: Progress) -> Iterator[Check]:
    """Search files line by line for markers and for words of held-out reviews."""
    lines, markers, repeated = 0, Findings(), Findings()
    for path in files:
        with opened(path) as file:
            for number, line in enumerate(file, start=1):
                progress.advance()
                lines += 1
                if MARKER.encode() in line:
                    markers.add(f"{path}:{number} holds the marker of a poisoned interaction")
                user_item = runs.find(_runs(_texts(line)))
                if user_item is not None:
                    repeated.add(
                        f"{path}:{number} repeats {RUN} words in a row of the held-out review of "
                        f"user {user_item[0]!r}, item {user_item[1]!r}"
                    )
    yield markers.check("markers of poisoned interactions", lines)
    reviews = len(runs.owners) - runs.too_short
    yield repeated.check(f"words of {reviews} held-out reviews", lines)


def _texts(line: bytes) -> list[str]:
    """All texts in a line of JSON; the line itself if it is not JSON."""
    try:
        return list(_strings(from_json(line)))
    except ValueError:
        return [line.decode(errors="replace")]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def _runs(texts: Iterable[str]) -> Hashes:
    """A hash of each RUN consecutive words of each text: (n,) uint64; valid in one process only."""
    found = []
    for text in chain.from_iterable(map(_BETWEEN_QUOTES.split, texts)):
        if len(text) < 2 * RUN:
            continue
        words = [hash(word) for word in _WORD.findall(text.lower())]
        if len(words) < RUN:
            continue
        rolling = np.array(words, dtype=np.int64).astype(np.uint64)
        count = len(words) - RUN + 1
        total = np.zeros(count, dtype=np.uint64)
        for place in range(RUN):
            total = total * np.uint64(0x9E3779B97F4A7C15) + rolling[place : place + count]
        found.append(total)
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def text_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The text files among these paths and in these folders, each once."""
    seen: set[Path] = set()
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for one in inside:
            kind = Path(one.name.removesuffix(".gz")).suffix
            if one.is_file() and kind in _TEXTS and one.resolve() not in seen:
                seen.add(one.resolve())
                yield one
