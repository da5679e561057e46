"""Candidate lists by a generator that is tuned on validation items and never sees a test item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import opened
from indexer.artifacts.writing import written_whole
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.evaluation.catalogue import Catalogue
from indexer.evaluation.generators import pairwise
from indexer.evaluation.generators.base import (
    HYBRID,
    READ_PERSONAS,
    Fitted,
    Generator,
    check_generator,
    generator_named,
)
from indexer.evaluation.generators.hybrid import Hybrid, UserTexts
from indexer.evaluation.generators.personas_ease import PersonasEase
from indexer.evaluation.interactions import pairs_hash, read_interactions, training_hash
from indexer.evaluation.truth import read_truth
from indexer.evaluation.versions import installed_versions
from indexer.metrics import ndcg
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import InputError

TUNED_BY = "NDCG@10 on validation items"
_PACKAGES = ("numpy", "scipy", "implicit", "torch", "torch-geometric")


@dataclass(frozen=True, slots=True)
class ListInputs:
    """What lists are made from.

    personas: for the generators personas-ease and hybrid, and only for them. profiles: for hybrid.
    lists: those of another generator, which hybrid may put in order.
    """

    reviews: Path
    splits: Path
    personas: PersonaVectors | None = None
    profiles: UserTexts | None = None
    lists: Path | None = None

    @property
    def texts_hash(self) -> str:
        """A hash of personas, profiles and lists; empty without them."""
        hashes = [one.hash for one in (self.personas, self.profiles) if one is not None]
        return "-".join(hashes + ([] if self.lists is None else [lists_hash(self.lists)[:16]]))


@dataclass(frozen=True, slots=True)
class ListOptions:
    """The generator, how many items a list has, and the seed of generators that have one.

    settings: of a model in `SEEDED`, chosen before with another seed; None: all are tried.
    """

    model: str
    top: int = 100
    seed: int = 0
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Provenance:
    """How a file of lists came about; written beside it, and read by the leak checks.

    training: hash of the interactions it was fitted to. tuned_on: hash of the validation pairs.
    lists: hash of the file. tried: every setting with its value of `tuned_by`. personas: hash of
    the personas' vectors, the users' texts and other lists, where a generator reads them.
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
    generator = _generator(options.model, inputs)
    position = {user: place for place, user in enumerate(training.users)}
    catalogue = Catalogue(training)

    judged = [user for user in truth.items if user in position]
    if not judged:
        raise InputError(
            f"no user of {inputs.splits} has a training interaction in {inputs.reviews}"
        )
    wanted = [truth.items[user] for user in judged]
    rows = np.array([position[user] for user in judged])
    tried: list[dict[str, Any]] = []

    def best_of(models: Iterable[Fitted]) -> Fitted:
        best, highest = None, -1.0
        for fitted in models:
            value = ndcg(catalogue.ranks(fitted, rows, wanted))
            if value > highest:
                best, highest = fitted, value
            tried.append({**fitted.settings, "value": value})
            progress.advance()
        assert best is not None  # noqa: S101 - every generator has settings
        return best

    if options.settings is not None:
        progress.start(f"training {options.model}, seed {options.seed}", 1)
        best = best_of([pairwise.with_settings(training, options.seed, options.settings)])
    else:
        progress.start(f"tuning {options.model}", generator.SETTINGS)
        best = best_of(generator.fitted(training, options.seed))
    if inputs.personas is not None and inputs.profiles is not None:
        progress.start("trying weights")
        hybrid = Hybrid(training, inputs.personas, inputs.profiles, best)
        best = best_of(hybrid.of_catalogue())
        if inputs.lists is not None:
            best = best_of(chain([best], hybrid.of_lists(inputs.lists, best)))

    served = [user for user in users_to_serve if user in position]
    progress.start("writing lists", len(served))
    rows = np.array([position[user] for user in served])
    digest = hashlib.sha256()
    with ExitStack() as stack:
        tell = stack.enter_context(written_whole(provenance_path(output)))
        write = stack.enter_context(written_whole(output, private=True))
        for user, found in zip(served, catalogue.lists(best, rows, options.top), strict=True):
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
            personas=inputs.texts_hash,
        )
        tell(json.dumps(asdict(provenance), indent=2))
    return provenance


def _generator(model: str, inputs: ListInputs) -> Generator:
    """The generator; for hybrid that of its collaborative part."""
    if model not in READ_PERSONAS:
        return generator_named(model)
    if inputs.personas is None or (model == HYBRID and inputs.profiles is None):
        raise InputError(f"the generator {model} needs personas; name an artifact folder")
    return PersonasEase(inputs.personas)
