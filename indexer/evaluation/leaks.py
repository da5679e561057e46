"""Does a held-out interaction reach anything that is made before scoring?

Checked by identity: lists say what their generator was fitted to and tuned on; aspects,
alignments and training pairs name user and item; personas name their evidence. Checked by
content: a run of words that only held-out reviews hold, or a marker that `poison` put there, must
not be in any file that was made.

This module only looks at files. `p4r experiment` does not go on where it finds something.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ALIGNMENTS, ASPECTS, ITEMS, PERSONAS, REVIEWS, SPLITS, SUMMARIES
from indexer.artifacts.writing import written_whole
from indexer.evaluation.candidates import (
    Provenance,
    lists_hash,
    pairs_hash,
    provenance_path,
    training_hash,
)
from indexer.evaluation.interactions import read_interactions
from indexer.evaluation.truth import Truth, read_truth
from indexer.progress import SILENT, Progress
from indexer.training.pairs import Catalogue, read_pairs
from p4r_qdrant.encoder.adapter import AdapterRecord
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.records import Id, ItemPersonas, Review
from p4r_qdrant.settings import HistorySettings, TrainingSettings

MARKER = "p4rmarker"
RUN = 8
"""Words in a row that are no accident."""

_WORD = re.compile(r"\w+")
_TEXTS = {".json", ".jsonl", ".md", ".txt", ".csv", ".toml"}
_KEPT = 3
REVIEWS_AT_ONCE = 10_000


class LeakError(InputError):
    """Held-out interactions reach what is made before scoring."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: how much it looked at, how many leaks there are, the first of them.

    `unproven` says why a check could not be made; what could not be checked is not clean.
    `vouched` says what nobody can check and the caller answers for.
    """

    name: str
    looked_at: int
    leaks: int = 0
    examples: tuple[str, ...] = ()
    unproven: str = ""
    vouched: str = ""


@dataclass(frozen=True)
class LeakReport:
    """All checks of one catalogue."""

    checks: list[Check] = field(default_factory=list)

    def __add__(self, other: LeakReport) -> LeakReport:
        return LeakReport([*self.checks, *other.checks])

    @property
    def leaks(self) -> int:
        """How many were found."""
        return sum(check.leaks for check in self.checks)

    @property
    def clean(self) -> bool:
        """Whether nothing was found, and everything could be checked."""
        return not any(check.leaks or check.unproven for check in self.checks)

    def require_clean(self) -> None:
        """Raise LeakError unless `clean`."""
        for check in self.checks:
            if check.leaks:
                raise LeakError(
                    f"{check.leaks} held-out interactions leak ({check.name}), the first: "
                    f"{check.examples[0]}; make it again from training interactions alone"
                )
        for check in self.checks:
            if check.unproven:
                raise LeakError(f"{check.name}: {check.unproven}")

    def record(self) -> list[dict[str, Any]]:
        """As JSON."""
        return [asdict(check) for check in self.checks]


def check_leaks(
    artifacts: Path,
    *,
    reviews: Path | None = None,
    splits: Path | None = None,
    candidates: Sequence[Path] = (),
    elsewhere: Sequence[Path] = (),
    pairs: Sequence[Path] = (),
    made: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> LeakReport:
    """Check an artifact folder, lists made by `p4r candidates`, and files of training pairs.

    reviews, splits: those of the folder unless given. elsewhere: lists of which nobody can say
    what they were fitted to; only their texts are searched. pairs: JSON Lines with `user_id` and
    `item_id`. made: more files and folders to search for held-out texts (an adapter, a cache).
    Each line read is one step of `progress`.

    Raises InputError where a file is missing or a split overlaps itself.
    """
    missing = next((path for path in (*pairs, *elsewhere, *made) if not path.exists()), None)
    if missing is not None:
        raise InputError(f"{missing} is not there, so that it cannot be searched for leaks")
    folder = ArtifactFolder(artifacts)
    reviews = reviews or folder.file(REVIEWS)
    splits = splits or folder.file(SPLITS)
    broken = Refusals(keep=1)
    truth = read_truth(splits, broken)
    if broken.total:
        raise InputError(f"{broken.sentences[0]}; mend it, for it holds interactions out")
    held_out = truth.held_out
    progress.start("looking for leaks")
    checks = [
        *_candidate_checks(candidates, reviews, splits, truth),
        *(_vouched(path) for path in elsewhere),
        _pairs_check("aspects", [folder.path / ASPECTS], held_out, progress),
        _evidence_check(folder.path / PERSONAS, held_out, progress),
        _pairs_check("alignments", [folder.path / ALIGNMENTS], held_out, progress),
    ]
    if pairs:
        checks.append(_pairs_check("training pairs", pairs, held_out, progress))
    files = [
        *(folder.path / name for name in (SUMMARIES, ASPECTS, PERSONAS, ALIGNMENTS)),
        folder.path / "ledger",
        *candidates,
        *elsewhere,
        *(provenance_path(path) for path in candidates),
        *pairs,
        *made,
    ]
    runs = _HeldOutRuns.read(reviews, folder.path / ITEMS, held_out, progress)
    checks += _text_checks(list(_expanded(files)), runs, progress)
    return LeakReport(checks)


# --- by identity ------------------------------------------------------------------------------


def _candidate_checks(
    candidates: Sequence[Path], reviews: Path, splits: Path, truth: Truth
) -> Iterator[Check]:
    """Fitted to the training interactions and no others, tuned on the validation items."""
    if not candidates:
        return
    training = read_interactions(reviews, truth.held_out, Refusals())
    fitted_to = training_hash(training)
    tuned_on = pairs_hash(read_truth(splits, Refusals(), "valid").items.items())
    for path in candidates:
        told = _provenance(path)
        if told is None:
            problem = (
                f"{path} has no {provenance_path(path).name}, so that nobody can say what it was "
                "fitted to; make it with `p4r candidates`"
            )
            yield Check(f"lists {path.name}", 0, unproven=problem)
            continue
        wrong = []
        if told.training != fitted_to:
            wrong.append(
                f"{path} was fitted to {told.interactions} interactions that are not the "
                f"{len(training.user_of)} training interactions"
            )
        if told.tuned_on != tuned_on:
            wrong.append(f"{path} was not tuned on the validation items")
        if told.lists != lists_hash(path):
            wrong.append(f"{path} is not the file that {provenance_path(path).name} tells of")
        yield Check(f"lists {path.name}", told.users, len(wrong), tuple(wrong))


def _vouched(path: Path) -> Check:
    with path.open("rb") as file:
        lists = sum(1 for _ in file)
    return Check(
        f"lists {path.name}",
        lists,
        vouched=f"{path.name} was made elsewhere: that it was made from training interactions "
        "alone is its maker's word, and could not be checked",
    )


def check_adapter(folder: ArtifactFolder, adapter: Path, base: Encoder) -> Check:
    """An adapter learnt from the training interactions of this folder, and from no others.

    `base` is its encoder without it. The examples are read again, as `p4r train` would read them
    from this folder now; their hash is compared with the one in the adapter's record.
    """
    name = "what the adapter learnt from"
    record = AdapterRecord.read(adapter)
    if record is None:
        problem = (
            f"{adapter} does not say what it was trained on; make it with `p4r train --artifacts "
            f"{folder.path}`"
        )
        return Check(name, 0, unproven=problem)
    training = TrainingSettings.model_validate(record.settings["training"])
    history = HistorySettings.model_validate(record.settings["history"])
    with Histories(folder, Refusals()) as histories:
        catalogue = Catalogue.read(folder, Refusals())
        pairs = read_pairs(
            folder, catalogue, histories, training, history, Refusals(), encoder=base
        )
    if pairs.hash() == record.data_hash:
        return Check(name, record.examples)
    problem = (
        f"{adapter} was trained on other data than the training interactions of {folder.path} as "
        "they are now; train it again on these"
    )
    return Check(name, record.examples, unproven=problem)


def _provenance(path: Path) -> Provenance | None:
    try:
        return Provenance(**json.loads(provenance_path(path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class _Pair(BaseModel):
    model_config = ConfigDict(extra="ignore")

    user_id: Id
    item_id: Id


def _pairs_check(
    name: str,
    paths: Iterable[Path],
    held_out: frozenset[tuple[str, str]],
    progress: Progress,
) -> Check:
    looked_at, found, refusals = 0, _Found(), Refusals()
    for path in paths:
        if not path.is_file():
            continue
        for number, _, line in read_lines(path, _Pair, refusals):
            progress.advance()
            looked_at += 1
            if (line.user_id, line.item_id) in held_out:
                found.add(f"{path}:{number} is of user {line.user_id!r}, item {line.item_id!r}")
    return found.check(name, looked_at, refusals)


def _evidence_check(path: Path, held_out: frozenset[tuple[str, str]], progress: Progress) -> Check:
    looked_at, found, refusals = 0, _Found(), Refusals()
    if path.is_file():
        for number, _, line in read_lines(path, ItemPersonas, refusals):
            progress.advance()
            for persona in line.personas:
                looked_at += len(persona.evidence)
                for user in persona.evidence:
                    if (user, line.item_id) in held_out:
                        found.add(
                            f"{path}:{number}: persona {persona.persona_id!r} rests on the "
                            f"held-out review of user {user!r}"
                        )
    return found.check("evidence of personas", looked_at, refusals)


# --- by content -------------------------------------------------------------------------------

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class _HeldOutRuns:
    """Runs of words that only held-out reviews hold: their hashes, sorted, and whose they are."""

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
    ) -> _HeldOutRuns:
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

    def find(self, text: Hashes) -> tuple[str, str] | None:
        """The held-out review that a text repeats, if it repeats one."""
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
    """What may be repeated: training reviews and metadata."""
    for _, _, review in read_lines(reviews, Review, Refusals()):
        progress.advance()
        if (review.user_id, review.item_id) not in held_out:
            yield [review.title, review.text]
    if items.is_file():
        for _, _, item in read_lines(items, _Any, Refusals()):
            yield list(_strings(item.model_extra))


def _text_checks(files: Sequence[Path], runs: _HeldOutRuns, progress: Progress) -> Iterator[Check]:
    """What was made, line by line: markers, and words of held-out reviews."""
    lines, markers, repeated = 0, _Found(), _Found()
    for path in files:
        with path.open("rb") as file:
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
    """All texts of a line of JSON; the line itself where it is none."""
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
    """A hash of each RUN words in a row of each text: (n,) uint64. The same in one process only."""
    found = []
    for text in texts:
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


def _expanded(paths: Iterable[Path]) -> Iterator[Path]:
    """The text files among these, and in these folders; each once."""
    seen: set[Path] = set()
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for one in inside:
            if one.is_file() and one.suffix in _TEXTS and one.resolve() not in seen:
                seen.add(one.resolve())
                yield one


# --- poison -----------------------------------------------------------------------------------


def marker(user_id: str, item_id: str) -> str:
    """The word that stands for one held-out interaction; it is in no language."""
    return MARKER + hashlib.sha256(f"{user_id}\x00{item_id}".encode()).hexdigest()[:16]


def poison(
    reviews: Path, held_out: frozenset[tuple[str, str]], output: Path, refusals: Refusals
) -> Counter[str]:
    """Copy reviews.jsonl with a marker in the title and text of each held-out review.

    What is made from the copy must hold none of them. Returns how many lines are of which kind.
    """
    counts: Counter[str] = Counter()
    with written_whole(output) as write:
        for _, _, line in read_lines(reviews, _Any, refusals):
            row = line.model_extra or {}
            pair = (str(row.get("user_id")), str(row.get("item_id")))
            if pair in held_out:
                word = marker(*pair)
                row |= {"title": word, "text": f"{row.get('text') or ''} {word}".strip()}
            counts["poisoned" if pair in held_out else "as it was"] += 1
            write(json.dumps(row, ensure_ascii=False))
    return counts


class _Found:
    """Leaks: their number, and the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, sentence: str) -> None:
        self.count += 1
        if len(self.first) < _KEPT:
            self.first.append(sentence)

    def check(self, name: str, looked_at: int, refusals: Refusals | None = None) -> Check:
        """What was found; a line that cannot be read may hide a leak."""
        unproven = ""
        if refusals is not None and refusals.total:
            unproven = f"{refusals.total} lines cannot be read, the first: {refusals.sentences[0]}"
        return Check(name, looked_at, self.count, tuple(self.first), unproven)
