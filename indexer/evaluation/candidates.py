"""Candidate lists by a generator that is tuned on validation items and never sees a test item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import opened
from indexer.artifacts.writing import written_whole
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.evaluation.generators.base import (
    PERSONAS_EASE,
    Fitted,
    Floats,
    Generator,
    check_generator,
    generator_named,
    matrix,
)
from indexer.evaluation.generators.personas_ease import PersonasEase
from indexer.evaluation.interactions import Indexes, Interactions, read_interactions
from indexer.evaluation.truth import read_truth
from indexer.evaluation.versions import installed_versions
from indexer.metrics import Ranks, ndcg
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import InputError

USERS_AT_ONCE = 256
TUNED_BY = "NDCG@10 on validation items"
_PACKAGES = ("numpy", "scipy", "implicit", "torch", "torch-geometric")


@dataclass(frozen=True, slots=True)
class ListInputs:
    """What lists are made from. personas: for the generator personas-ease, and only for it."""

    reviews: Path
    splits: Path
    personas: PersonaVectors | None = None


@dataclass(frozen=True, slots=True)
class ListOptions:
    """The generator, how many items a list has, and the seed of generators that have one."""

    model: str
    top: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Provenance:
    """How a file of lists came about; written beside it, and read by the leak checks.

    training: hash of the interactions it was fitted to. tuned_on: hash of the validation pairs.
    lists: hash of the file. tried: every setting with its value of `tuned_by`. personas: hash of
    the personas' vectors, where they are hypothetical users.
    """

    model: str
    settings: dict[str, Any]
    seed: int
    top: int
    users: int
    users_without_training: int
    interactions: int
    training: str
    tuned_on: str
    lists: str
    tuned_by: str
    tried: list[dict[str, Any]]
    versions: dict[str, str]
    personas: str = ""


def provenance_path(candidates: Path) -> Path:
    """Where the provenance of a candidates file is, packed with gzip or not."""
    return candidates.with_name(f"{candidates.name.removesuffix('.gz')}.provenance.json")


def pairs_hash(pairs: Iterable[tuple[str, str]]) -> str:
    """A hash of exactly these (user, item) pairs, whatever their order."""
    digest = hashlib.sha256()
    for user, item in sorted(pairs):
        digest.update(f"{user}\x00{item}\n".encode())
    return digest.hexdigest()


def training_hash(training: Interactions) -> str:
    """`pairs_hash` of training interactions."""
    places = zip(training.user_of.tolist(), training.item_of.tolist(), strict=True)
    return pairs_hash((training.users[user], training.items[item]) for user, item in places)


def lists_hash(path: Path) -> str:
    """A hash of a file, unpacked."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_candidates(
    inputs: ListInputs,
    output: Path,
    options: ListOptions,
    refusals: Refusals,
    progress: Progress = SILENT,
) -> Provenance:
    """Write a list for each user of the splits who has a training interaction.

    Fitted to training interactions only, tuned on validation items; an item that the user has in
    training is left out, scores are kept. The same input and seed give the same file.

    Raises InputError where no split has a validation item, nothing is left to train on, or
    personas are missing,
    MissingExtraError where the generator's package is not installed.
    """
    if str(output) == "-" or output.parent in (Path("/dev"), Path("/dev/fd")):
        raise InputError("lists go into a file, for their provenance is written beside it")
    check_generator(options.model)
    truth = read_truth(inputs.splits, refusals, "valid")
    users_to_serve = sorted({user for user, _ in truth.held_out})
    training = read_interactions(inputs.reviews, truth.held_out, refusals)
    if inputs.personas is not None:
        training = training.with_items(inputs.personas.items)
    generator = _generator(options.model, inputs.personas)
    position = {user: place for place, user in enumerate(training.users)}
    shelf = _Shelf(training)

    judged = [user for user in truth.items if user in position]
    if not judged:
        raise InputError(
            f"no user of {inputs.splits} has a training interaction in {inputs.reviews}"
        )
    wanted = [truth.items[user] for user in judged]
    rows = np.array([position[user] for user in judged])
    progress.start(f"tuning {options.model}", generator.SETTINGS)
    tried: list[dict[str, Any]] = []
    best: Fitted | None = None
    for fitted in generator.fitted(training, options.seed):
        value = ndcg(shelf.ranks(fitted, rows, wanted))
        if best is None or value > max(one["value"] for one in tried):
            best = fitted
        tried.append({**fitted.settings, "value": value})
        progress.advance()
    assert best is not None  # noqa: S101 - every generator has settings

    served = [user for user in users_to_serve if user in position]
    progress.start("writing lists", len(served))
    rows = np.array([position[user] for user in served])
    digest = hashlib.sha256()
    with ExitStack() as stack:
        tell = stack.enter_context(written_whole(provenance_path(output)))
        write = stack.enter_context(written_whole(output, private=True))
        for user, found in zip(served, shelf.lists(best, rows, options.top), strict=True):
            results = [{"item_id": item, "score": score} for item, score in found]
            line = json.dumps({"user_id": user, "results": results}, ensure_ascii=False)
            digest.update(f"{line}\n".encode())
            write(line)
            progress.advance()
        provenance = Provenance(
            model=options.model,
            settings=dict(best.settings),
            seed=options.seed,
            top=options.top,
            users=len(served),
            users_without_training=len(users_to_serve) - len(served),
            interactions=len(training.user_of),
            training=training_hash(training),
            tuned_on=pairs_hash(truth.items.items()),
            lists=digest.hexdigest(),
            tuned_by=TUNED_BY,
            tried=tried,
            versions=installed_versions(_PACKAGES),
            personas=inputs.personas.hash if inputs.personas else "",
        )
        tell(json.dumps(asdict(provenance), indent=2))
    return provenance


def _generator(model: str, personas: PersonaVectors | None) -> Generator:
    if model != PERSONAS_EASE:
        return generator_named(model)
    if personas is None:
        raise InputError(f"the generator {model} needs personas; name an artifact folder")
    return PersonasEase(personas)


class _Shelf:
    """Scores to lists. Of equal scores the more popular item comes first, then the smaller id."""

    def __init__(self, training: Interactions) -> None:
        self._items = matrix(training)
        # Ids are in alphabetical order already, and a stable sort keeps it.
        self._order = np.argsort(-training.item_counts(), kind="stable")
        self._names = [training.items[item] for item in self._order]

    def lists(self, fitted: Fitted, rows: Indexes, top: int) -> Iterator[list[tuple[str, float]]]:
        """The best `top` items that each user (row) has not, with their scores."""
        top = min(top, len(self._names))
        for start in range(0, len(rows), USERS_AT_ONCE):
            block = rows[start : start + USERS_AT_ONCE]
            scores = self._scores(fitted, block)
            for row, least in zip(scores, np.partition(scores, -top, axis=1)[:, -top], strict=True):
                places = np.flatnonzero((row >= least) & np.isfinite(row))
                places = places[np.argsort(-row[places], kind="stable")][:top]
                yield [(self._names[place], _short(row[place])) for place in places]

    def ranks(self, fitted: Fitted, rows: Indexes, wanted: list[str]) -> Ranks:
        """Where each user's wanted item stands among all that the user has not."""
        places = {name: place for place, name in enumerate(self._names)}
        ranks = np.zeros(len(rows), dtype=np.int64)
        for start in range(0, len(rows), USERS_AT_ONCE):
            scores = self._scores(fitted, rows[start : start + USERS_AT_ONCE])
            for at, row in enumerate(scores, start=start):
                place = places.get(wanted[at])
                if place is not None and np.isfinite(row[place]):
                    ahead = np.sum(row > row[place]) + np.sum(row[:place] == row[place])
                    ranks[at] = 1 + int(ahead)
        return ranks

    def _scores(self, fitted: Fitted, block: Indexes) -> Floats:
        scores = np.array(fitted.scores(block), dtype=np.float64)
        users, items = self._items[block].nonzero()
        scores[users, items] = -np.inf
        return scores[:, self._order]


def _short(score: float) -> float:
    return float(f"{score:.7g}")
