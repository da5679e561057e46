"""Leaks by identity: files that name the user and the item of a held-out interaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.opening import opened
from indexer.evaluation.candidates import (
    Provenance,
    lists_hash,
    provenance_path,
)
from indexer.evaluation.interactions import (
    files_of_interactions,
    interactions_in,
    pairs_hash,
    read_interactions,
    training_hash,
)
from indexer.evaluation.leaks.report import Check, Findings
from indexer.evaluation.truth import Truth, read_truth
from indexer.progress import Progress
from indexer.training.pairs import read_pairs, training_data
from p4r_qdrant.encoder.adapter import AdapterRecord
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.records import Id, ItemPersonas
from p4r_qdrant.settings import HistorySettings, TrainingSettings


def candidate_checks(
    candidates: Sequence[Path], reviews: Path, splits: Path, truth: Truth
) -> Iterator[Check]:
    """Lists must be fitted to the training interactions alone and tuned on validation items."""
    if not candidates:
        return
    training = read_interactions(reviews, truth.held_out, Refusals())
    fitted_to = training_hash(training)
    tuned_on = pairs_hash(read_truth(splits, Refusals(), "valid").items.items())
    for path in candidates:
        provenance = _provenance(path)
        if provenance is None:
            problem = (
                f"{path} has no {provenance_path(path).name}, so that what it was fitted to is not "
                "known; make it with `p4r candidates`"
            )
            yield Check(f"lists {path.name}", 0, unproven=problem)
            continue
        wrong = []
        if provenance.training != fitted_to:
            wrong.append(
                f"{path} was fitted to {provenance.interactions} interactions that are not the "
                f"{len(training.user_of)} training interactions"
            )
        if provenance.tuned_on != tuned_on:
            wrong.append(f"{path} was not tuned on the validation items")
        if provenance.lists != lists_hash(path):
            wrong.append(f"{path} is not the file that {provenance_path(path).name} describes")
        yield Check(f"lists {path.name}", provenance.users, len(wrong), tuple(wrong))


def vouched_check(path: Path) -> Check:
    """A note that lists made elsewhere cannot be checked."""
    with opened(path) as file:
        lists = sum(1 for _ in file)
    return Check(
        f"lists {path.name}",
        lists,
        vouched=f"{path.name} was made elsewhere: that it was made from training interactions "
        "alone could not be checked",
    )


def check_adapter(folder: ArtifactFolder, adapter: Path, base: Encoder) -> Check:
    """An adapter must be trained on the training interactions of this folder alone.

    base: the encoder without the adapter. The examples are read again as `p4r train` reads them
    now; their hash is compared with the one in the adapter's record.
    """
    name = "training data of the adapter"
    record = AdapterRecord.read(adapter)
    if record is None:
        problem = (
            f"{adapter} has no record of what it was trained on; make it with "
            f"`p4r train --artifacts {folder.path}`"
        )
        return Check(name, 0, unproven=problem)
    training = TrainingSettings.model_validate(record.settings["training"])
    history = HistorySettings.model_validate(record.settings["history"])
    with training_data(folder, Refusals()) as data:
        pairs = read_pairs(data, training, history, Refusals(), encoder=base)
    if pairs.hash() == record.data_hash:
        return Check(name, record.examples)
    problem = (
        f"{adapter} was trained on other data than the training interactions of {folder.path} as "
        "they are now; train it again on these"
    )
    return Check(name, record.examples, unproven=problem)


def collaborative_check(folder: ArtifactFolder, part: CollaborativePart) -> Check:
    """The collaborative part of an index must be fitted to the training interactions of this
    folder alone. The hash of these, as they are now, is compared with the one in its record.
    """
    name = "collaborative part of the index"
    training = interactions_in(files_of_interactions(folder), folder.held_out(), Refusals())
    count = int(part.settings.get("interactions", 0))
    if part.settings.get("training") == training_hash(training):
        return Check(name, count)
    problem = (
        f"it was fitted to {count:,} interactions that are not the {len(training.user_of):,} "
        f"training interactions of {folder.path}"
    )
    return Check(name, count, 1, (problem,))


class _Pair(BaseModel):
    model_config = ConfigDict(extra="ignore")

    user_id: Id
    item_id: Id


def pairs_check(
    name: str,
    paths: Iterable[Path],
    held_out: frozenset[tuple[str, str]],
    progress: Progress,
) -> Check:
    """Lines that name the user and the item of a held-out interaction."""
    looked_at, found, refusals = 0, Findings(), Refusals()
    for path in paths:
        if not path.is_file():
            continue
        for number, _, line in read_lines(path, _Pair, refusals):
            progress.advance()
            looked_at += 1
            if (line.user_id, line.item_id) in held_out:
                found.add(f"{path}:{number} is of user {line.user_id!r}, item {line.item_id!r}")
    return found.check(name, looked_at, refusals)


def evidence_check(path: Path, held_out: frozenset[tuple[str, str]], progress: Progress) -> Check:
    """Personas whose evidence names the author of a held-out review."""
    looked_at, found, refusals = 0, Findings(), Refusals()
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


def _provenance(path: Path) -> Provenance | None:
    try:
        return Provenance(**json.loads(provenance_path(path).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
