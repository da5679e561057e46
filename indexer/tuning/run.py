"""Choose history, fit and weights on the validation items, and write them to tuned.json."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import SPLITS
from indexer.artifacts.tuned import Tuned, write_tuned
from indexer.collaborative.encoding import encoded_personas
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.evaluation.experiment.vectors import CachedEncoder
from indexer.evaluation.interactions import Interactions, files_of_interactions, interactions_in
from indexer.evaluation.truth import Truth, read_truth
from indexer.progress import SILENT, Progress
from indexer.training.pairs import training_data
from indexer.training.tune import Tried, record_history, tune
from indexer.training.validation import MOST_USERS, Validation
from indexer.tuning.cases import Scores, catalogue_cases, list_cases, mean_user
from indexer.tuning.fit import ChosenFit, choose_fit
from indexer.tuning.weights import (
    Case,
    Weighed,
    best_first,
    choose_weights,
    every_weighting,
    forms,
    measured,
)
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.loading import load_encoder
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import CandidateList
from p4r_qdrant.rerank.scoring import Scoring, Weights
from p4r_qdrant.settings import HistorySettings, Settings

ALONE = {
    "personas": Weights(personas=1, collaborative=0, generator=0),
    "collaborative": Weights(personas=0, collaborative=1, generator=0),
    "generator": Weights(personas=0, collaborative=0, generator=1),
}
CATALOGUE, LISTS = "whole catalogue", "candidate lists"


@dataclass(frozen=True)
class Tuning:
    """What was tried, best first, and what was written.

    histories: over `validation`. fit: None without interactions. weighed: for the whole catalogue
    and for lists. recorded: the adapter whose record was updated.
    """

    tuned: Tuned
    histories: Sequence[Tried]
    fit: ChosenFit | None
    weighed: Mapping[str, Sequence[Weighed]]
    recorded: Path | None


def tune_all(
    folder: ArtifactFolder,
    settings: Settings,
    candidates: Path | None,
    refusals: Refusals,
    progress: Progress = SILENT,
) -> Tuning:
    """Try settings with the encoder of the settings, and write the best ones to tuned.json.

    candidates: lists of a generator, to choose the weights for lists with. If the encoder has an
    adapter with a record, the history is written to that record too. Raises InputError if no user
    can be validated on.
    """
    adapter = Path(settings.encoder.adapter) if settings.encoder.adapter else None
    with (
        tempfile.TemporaryDirectory(prefix="p4r-tune-") as temporary,
        closing(CachedEncoder(load_encoder(settings.encoder), Path(temporary))) as encoder,
    ):
        with training_data(folder, refusals) as data:
            validation = Validation.read(data, refusals, settings.training.seed)
        progress.start("trying histories")
        histories = tune(validation.encoded(encoder))
        personas = encoded_personas(folder, encoder, Refusals(), progress)
        truth = _truth(folder, settings.training.seed)
        training = _interactions(folder, truth)
        fit = None
        if training is not None:
            training = training.with_items(personas.items)
            known = set(training.users)
            wanted = {user: item for user, item in truth.items.items() if user in known}
            fit = choose_fit(training, personas, wanted, progress) if wanted else None
        scores = Scores(
            training or _nothing(personas),
            personas,
            fit.model if fit is not None else None,
        )
        history = histories[0].history
        vectors = _vectors(folder, truth, encoder, history)
    scores = replace(scores, typical=mean_user(vectors.values()))
    tried = forms(settings.rerank)
    progress.start("trying weights and forms of the persona score", len(tried))
    weighed: dict[str, list[Weighed]] = {}
    valid: dict[str, float] = {}
    for form in tried:
        cases = _cases(replace(scores, options=form), truth, candidates, vectors)
        for what, own in cases.items():
            weightings = every_weighting(has_generator=what == LISTS, form=form)
            found = choose_weights(own, weightings)
            weighed[what] = best_first([*weighed.get(what, ()), *found])
        valid = valid or _alone(cases)
        progress.advance()
    best = {what: found[0] for what, found in weighed.items()}
    valid |= {f"{what}: chosen": one.valid for what, one in best.items()}
    tuned = Tuned(
        fingerprint=encoder.fingerprint,
        history=history,
        collaborative=fit.settings if fit is not None else None,
        scoring=Scoring(
            catalogue=best[CATALOGUE].weights,
            candidates=best[LISTS].weights if LISTS in best else None,
        ),
        validation=validation.what,
        valid=valid,
    )
    write_tuned(folder, tuned)
    recorded = record_history(adapter, validation, histories[0]) if adapter else None
    return Tuning(tuned, histories, fit, weighed, recorded)


def _truth(folder: ArtifactFolder, seed: int) -> Truth:
    """The validation items; those of a random sample of users if there are many."""
    found = read_truth(folder.file(SPLITS), Refusals(), "valid")
    users = sorted(found.items)
    if len(users) > MOST_USERS:
        users = sorted(random.Random(seed).sample(users, MOST_USERS))  # noqa: S311 - no secret
    return Truth("valid", {user: found.items[user] for user in users}, found.held_out)


def _interactions(folder: ArtifactFolder, truth: Truth) -> Interactions | None:
    """The training interactions; None without SciPy, which fits them."""
    if find_spec("scipy") is None:
        return None
    files = files_of_interactions(folder)
    return interactions_in(files, truth.held_out, Refusals())


def _nothing(personas: PersonaVectors) -> Interactions:
    none = np.zeros(0, dtype=np.int64)
    return Interactions([], sorted(personas.items), none, none, none, frozenset(personas.items))


def _vectors(
    folder: ArtifactFolder, truth: Truth, encoder: Encoder, history: HistorySettings
) -> dict[str, UserVector | None]:
    """h_u of each user with a validation item."""
    with Histories(folder, Refusals()) as histories:
        known = [histories.get(user) for user in truth.items]
    found = encoder.user_vectors(known, length=history.length, decay=history.decay)
    return dict(zip(truth.items, found, strict=True))


def _cases(
    scores: Scores,
    truth: Truth,
    candidates: Path | None,
    vectors: Mapping[str, UserVector | None],
) -> dict[str, list[Case]]:
    """The cases of the whole catalogue and, with lists, of lists."""
    users = [*truth.items]
    lists: list[CandidateList] = []
    if candidates is not None:
        held = {one.user_id: one for one in read_candidates(candidates, Refusals())}
        lists = [held[user] for user in users if user in held]
    cases = {CATALOGUE: [*catalogue_cases(scores, users, [*vectors.values()], truth.items)]}
    if candidates is not None:
        own = [vectors[one.user_id] for one in lists]
        cases[LISTS] = [*list_cases(scores, lists, own, truth.items)]
        if all(case.target is None for case in cases[LISTS]):
            raise InputError(
                f"no list of {candidates} holds its user's validation item, so no weights can be "
                "chosen with it; make the lists from training interactions alone"
            )
    return cases


def _alone(cases: Mapping[str, Sequence[Case]]) -> dict[str, float]:
    """NDCG@10 of each part alone."""
    found = {}
    for what, own in cases.items():
        for name, weights in ALONE.items():
            if name != "generator" or what == LISTS:
                found[f"{what}: {name}"] = measured(own, weights)
    return found
