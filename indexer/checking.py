"""Validate an artifact folder and raw files, each line and the ids across files; or an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.formats import check_format
from indexer.artifacts.lines import Model, Refusals, read_lines
from indexer.artifacts.names import (
    ALIGNMENTS,
    ASPECTS,
    CANDIDATES,
    ERASING,
    ITEMS,
    PERSONAS,
    REVIEWS,
    SPLITS,
    SUMMARIES,
)
from indexer.artifacts.opening import as_stored
from indexer.datasets.own_fields import NUMBERS_AS_TEXT, OwnFields
from indexer.evaluation.truth import read_truth
from indexer.progress import SILENT, Progress, T, track
from p4r_qdrant.errors import (
    IndexMismatchError,
    IndexUnavailableError,
    InputError,
    PersonaError,
)
from p4r_qdrant.index.checking import problems
from p4r_qdrant.index.edge.versions import EdgeVersions
from p4r_qdrant.index.payload import check_personas
from p4r_qdrant.records import Alignment, Aspects, Item, ItemPersonas, Review, Split, Summary
from p4r_qdrant.settings import Settings

FILES = (ITEMS, REVIEWS, SPLITS, SUMMARIES, ASPECTS, PERSONAS, ALIGNMENTS, CANDIDATES)
"""The files that are checked, in the order in which they build on each other."""


@dataclass(frozen=True)
class CheckedFile:
    """One file: its lines that hold a record, and its broken lines."""

    name: str
    path: Path
    records: int
    broken: int


@dataclass
class CheckReport:
    """The result of a check. `refusals` holds each problem as FILE:LINE and a sentence.

    notes: what is unusual and not wrong, counted.
    """

    files: list[CheckedFile] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def broken(self) -> int:
        """All problems of all files."""
        return self.refusals.total


def files_of(folder: Path | None, given: dict[str, Path | None]) -> dict[str, Path]:
    """The files to check: those of a folder; a file that is given stands in its place.

    Raises InputError where there is nothing to check.
    """
    found = {}
    if folder is not None:
        if not folder.is_dir():
            if folder.is_file():
                raise InputError(
                    f"{folder} is a file; name its folder, or give the file as --items {folder}"
                )
            raise InputError(f"there is no folder {folder}; name one with JSON Lines files")
        check_format(folder)
        stored = {name: as_stored(folder / name) for name in FILES}
        found = {name: path for name, path in stored.items() if path.is_file()}
    found |= {name: path for name, path in given.items() if path is not None}
    if not found:
        where = f"the folder {folder} holds" if folder is not None else "the command line names"
        raise InputError(f"{where} none of {', '.join(FILES)}: there is nothing to check")
    return {name: found[name] for name in FILES if name in found}


def check_erasure(folder: Path, report: CheckReport) -> None:
    """Add a problem to a report if an erasure from an artifact folder was not finished."""
    if (folder / ERASING).is_file():
        report.refusals.add(
            f"{folder / ERASING}: an erasure was killed half-way; run p4r erase again with one of "
            "the users that it names",
            "unfinished erasure",
        )


def check_files(
    files: dict[str, Path], *, max_personas: int, keep: int = 20, progress: Progress = SILENT
) -> CheckReport:
    """Read each file with the code of the commands, then look for ids that other files lack.

    keep: problems that are kept as sentences; all are counted. Raises InputError where a file
    cannot be read.
    """
    report = CheckReport(refusals=Refusals(keep=keep))
    checker = _Checker(report, max_personas, progress)
    for name, path in files.items():
        before = report.broken
        records = checker.read(name, path)
        report.files.append(CheckedFile(name, path, records, report.broken - before))
    return report


def index_versions(folder: Path) -> EdgeVersions | None:
    """The versions of the embedded index in a folder; None if it holds none."""
    if not folder.is_dir():
        return None
    versions = EdgeVersions(
        Settings.load(qdrant={"path": folder, "url": None}, index={"tenants": False, "tenant": ""})
    )
    return versions if versions.names() else None


def check_index(
    versions: EdgeVersions, *, keep: int = 20, progress: Progress = SILENT
) -> CheckReport:
    """Open each version of an embedded index, and check each of its items.

    Opening compares the files with their checksums. keep: problems that are kept as sentences; all
    are counted. Raises IndexLockedError if another process has it open.
    """
    report = CheckReport(refusals=Refusals(keep=keep))
    for name in versions.names():
        before, personas = report.broken, 0
        path = versions.path(name)
        progress.start(f"checking {name}")
        try:
            with versions.open(name) as index:
                personas = index.stats().personas
                for problem in problems(index.engine):
                    report.refusals.add(f"{path}: {problem}", "damaged item")
        except (IndexUnavailableError, IndexMismatchError) as error:
            report.refusals.add(str(error), "damaged index")
        report.files.append(CheckedFile(name, path, personas, report.broken - before))
    return report


class _Checker:
    """Reads one file after the other and remembers the ids that later files refer to."""

    def __init__(self, report: CheckReport, max_personas: int, progress: Progress) -> None:
        self._refusals = report.refusals
        self._notes = report.notes
        self._max_personas = max_personas
        self._progress = progress
        self._items: set[str] | None = None
        self._pairs: set[tuple[str, str]] | None = None
        self._held_out: frozenset[tuple[str, str]] = frozenset()
        self._aspects: set[tuple[str, str]] | None = None
        self._personas: dict[str, set[str]] | None = None
        self._users: set[str] | None = None

    def read(self, name: str, path: Path) -> int:
        """Check one file; return its number of records."""
        readers: dict[str, Callable[[Path], int]] = {
            ITEMS: self._read_items,
            REVIEWS: self._read_reviews,
            SPLITS: self._read_splits,
            SUMMARIES: self._read_summaries,
            ASPECTS: self._read_aspects,
            PERSONAS: self._read_personas,
            ALIGNMENTS: self._read_alignments,
            CANDIDATES: self._read_candidates,
        }
        return readers[name](path)

    def _track(self, path: Path, records: Iterable[T]) -> Iterator[T]:
        return track(self._progress, records, f"checking {path.name}")

    def _lines(self, path: Path, model: type[Model]) -> Iterator[tuple[int, int, Model]]:
        return self._track(path, read_lines(path, model, self._refusals))

    def _refuse(self, where: str, what: str, reason: str) -> None:
        self._refusals.add(f"{where}: {what}", reason)

    def _note(self, what: str) -> None:
        self._notes[what] = self._notes.get(what, 0) + 1

    def _check_item(self, where: str, item_id: str) -> None:
        if self._items is not None and item_id not in self._items:
            self._refuse(where, f"item {item_id!r} is not in {ITEMS}", "unknown item")

    def _first(self, seen: dict[str, int], item_id: str, number: int, where: str) -> None:
        first = seen.setdefault(item_id, number)
        if first != number:
            what = f"item {item_id!r} is already on line {first}; keep one"
            self._refuse(where, what, "repeated item")

    def _read_items(self, path: Path) -> int:
        seen: dict[str, int] = {}
        records = 0
        own_fields = OwnFields()
        for number, _, item in self._lines(path, Item):
            records += 1
            self._first(seen, item.item_id, number, f"{path}:{number}")
            own_fields.see(f"{path}:{number}", item.model_extra or {}, only_texts=False)
        for name in own_fields.numbers_as_text:
            self._note(f"{NUMBERS_AS_TEXT} ({name})")
        self._items = set(seen)
        return records

    def _read_summaries(self, path: Path) -> int:
        seen: dict[str, int] = {}
        records = 0
        for number, _, summary in self._lines(path, Summary):
            records += 1
            where = f"{path}:{number}"
            self._first(seen, summary.item_id, number, where)
            self._check_item(where, summary.item_id)
        return records

    def _read_reviews(self, path: Path) -> int:
        self._pairs = set()
        records = 0
        for _, _, review in self._lines(path, Review):
            records += 1
            pair = (review.user_id, review.item_id)
            if pair in self._pairs:
                self._note("reviews of a user and item that have an earlier one")
            self._pairs.add(pair)
            if self._items is not None and review.item_id not in self._items:
                self._note(f"reviews of items without metadata in {ITEMS}")
        self._users = {user for user, _ in self._pairs}
        return records

    def _read_splits(self, path: Path) -> int:
        before = self._refusals.total
        self._progress.start(f"checking {path.name}")
        truth = read_truth(path, self._refusals)
        self._held_out = truth.held_out
        if self._pairs is not None and self._refusals.total == before:
            for number, _, split in read_lines(path, Split, Refusals()):
                for item_id in filter(None, (split.test_item, split.valid_item)):
                    if (split.user_id, item_id) not in self._pairs:
                        what = f"user {split.user_id!r} has no review of the held-out {item_id!r}"
                        self._refuse(f"{path}:{number}", what, "held-out item without review")
        return len(truth.items)

    def _read_aspects(self, path: Path) -> int:
        self._aspects = set()
        records = 0
        for number, _, one in self._lines(path, Aspects):
            records += 1
            where = f"{path}:{number}"
            self._aspects.add((one.user_id, one.item_id))
            self._check_item(where, one.item_id)
            self._check_pair(where, one.user_id, one.item_id)
        return records

    def _check_pair(self, where: str, user_id: str, item_id: str) -> None:
        if self._pairs is not None and (user_id, item_id) not in self._pairs:
            what = f"user {user_id!r} has no review of item {item_id!r} in {REVIEWS}"
            self._refuse(where, what, "unknown review")

    def _read_personas(self, path: Path) -> int:
        self._personas = {}
        seen: dict[str, int] = {}
        records = 0
        for number, _, one in self._lines(path, ItemPersonas):
            records += 1
            where = f"{path}:{number}"
            self._first(seen, one.item_id, number, where)
            self._check_item(where, one.item_id)
            try:
                check_personas(one.item_id, one.personas, self._max_personas)
            except PersonaError as error:
                self._refuse(where, str(error), "personas that cannot be indexed")
            self._personas[one.item_id] = {persona.persona_id for persona in one.personas}
            for persona in one.personas:
                for user_id in persona.evidence:
                    self._check_evidence(where, persona.persona_id, user_id, one.item_id)
        if not records:
            self._refuse(str(path), "holds no item, so that nothing can be indexed", "no personas")
        return records

    def _check_evidence(self, where: str, persona_id: str, user_id: str, item_id: str) -> None:
        what = f"persona {persona_id!r} cites user {user_id!r}"
        if (user_id, item_id) in self._held_out:
            self._refuse(where, f"{what}, whose review is held out", "held-out evidence")
        elif self._aspects is not None and (user_id, item_id) not in self._aspects:
            self._refuse(where, f"{what}, who has no line in {ASPECTS}", "unknown evidence")

    def _read_alignments(self, path: Path) -> int:
        records = 0
        for number, _, one in self._lines(path, Alignment):
            records += 1
            where = f"{path}:{number}"
            self._check_pair(where, one.user_id, one.item_id)
            if (one.user_id, one.item_id) in self._held_out:
                what = f"the choice of item {one.item_id!r} by user {one.user_id!r} is held out"
                self._refuse(where, what, "held-out alignment")
            if self._personas is None:
                continue
            if one.persona_id not in self._personas.get(one.item_id, ()):
                what = f"item {one.item_id!r} has no persona {one.persona_id!r} in {PERSONAS}"
                self._refuse(where, what, "unknown persona")
        return records

    def _read_candidates(self, path: Path) -> int:
        records = 0
        for one in self._track(path, read_candidates(path, self._refusals)):
            records += 1
            if self._users is not None and one.user_id not in self._users:
                self._note("candidate lists of users without a review")
            if self._personas is not None:
                for candidate in one.results:
                    if candidate.item_id not in self._personas:
                        self._note(f"candidates without personas in {PERSONAS}")
        return records
