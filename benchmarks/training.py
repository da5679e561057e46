"""Does training help? Seeds, users left out, paired tests: docs of the numbers in training.md.

    P4R_ENCODER__MODEL=all-MiniLM-L6-v2 P4R_TRAINING__TARGET_MODULES=head ... \
        python -m benchmarks.training --artifacts DIR

Settings are those of `p4r train`. The users are cut into folds; for each fold and seed an adapter
is trained without the fold's users, and then measured on

- the alignments of the users left out: reciprocal rank of the aligned persona among all personas
  of the catalogue, among those of items new to the user, and among those of the chosen item;
- the validation items of all users: NDCG@10 and MRR of reranking the first 20 of item-CF, and all
  items that the user has not interacted with.

The state after the last epoch is measured: no epoch is picked by what is reported. Test items are
never looked at.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from transformers import EarlyStoppingCallback, IntervalStrategy, set_seed
from transformers.trainer_utils import SaveStrategy

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.metrics import gains
from indexer.training.pairs import Catalogue, Example, read_pairs, training_data
from indexer.training.tower import HEAD, HeadTower, TowerEncoder, tower
from indexer.training.trainer import PersonaTrainer, training_arguments
from indexer.training.validation import Case, Validation
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.encoder.user_vector import user_vector
from p4r_qdrant.records import Interaction
from p4r_qdrant.settings import Settings

Scores = dict[str, npt.NDArray[np.float64]]

GENERATOR_TOP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON of all means and p values")
    options = parser.parse_args()
    settings = Settings.load()
    study = Study(ArtifactFolder(options.artifacts), settings, options.folds)
    untrained = study.measured(study.untrained)
    print(
        f"{len(study.folds)} folds, {len(study.validation.cases)} users; untrained:",
        means(untrained),
    )
    of_seed = []
    for seed in range(options.seeds):
        began = time.monotonic()
        found = study.trained(seed)
        of_seed.append(found)
        print(f"seed {seed}, {time.monotonic() - began:.0f} s:", means(found), flush=True)
    print(table(untrained, of_seed))
    if options.output:
        options.output.write_text(json.dumps(summary(untrained, of_seed), indent=2))


class Study:
    """The data, and the same measurement for every encoder."""

    def __init__(self, folder: ArtifactFolder, settings: Settings, folds: int) -> None:
        self.folder, self.settings = folder, settings
        self.base = PersonaEncoder(settings.encoder.model, device="cpu", dtype="float32")
        with training_data(folder, Refusals()) as data:
            self.catalogue = data.catalogue
            users = sorted(data.histories.users())
            random.Random(0).shuffle(users)
            self.folds = [users[fold::folds] for fold in range(folds)]
            read = Validation.read(data, Refusals())
            self.validation = replace(
                read, cases=[_of_everything(case, self.catalogue) for case in read.cases]
            )
            self.lists = item_cf(data.histories, self.catalogue)
            judged = settings.training.model_copy(update={"unjudged": "none", "hard_negatives": 0})
            pairs = read_pairs(data, judged, settings.history, Refusals())
            self.alignments = pairs.examples
        head = settings.training.model_copy(update={"target_modules": HEAD})
        untrained = HeadTower(
            self.base.sentence_transformer, head
        )  # LoRA begins with doing nothing
        self._known = untrained.known
        self.untrained = TowerEncoder(untrained)

    def trained(self, seed: int) -> Scores:
        """The measurements of one seed: alignments from the fold that leaves their user out,
        validation items as means over folds."""
        parts = []
        for fold in self.folds:
            encoder = self._fit(seed, fold)
            parts.append(self.measured(encoder, set(fold)))
        joined: Scores = {}
        for name in parts[0]:
            rows = [part[name] for part in parts]
            joined[name] = (
                np.concatenate(rows) if name.startswith("persona") else np.mean(rows, axis=0)
            )
        return joined

    def _fit(self, seed: int, leave_out: Sequence[str]) -> Encoder:
        training = self.settings.training.model_copy(
            update={"seed": seed, "patience": self.settings.training.epochs}
        )
        settings = self.settings.model_copy(update={"training": training})
        with training_data(self.folder, Refusals()) as data:
            pairs = read_pairs(
                data,
                training,
                settings.history,
                Refusals(),
                encoder=self.base,
                leave_out=leave_out,
            )
        set_seed(seed)
        is_head = training.target_modules == HEAD
        model = self.base if is_head else PersonaEncoder(settings.encoder.model, device="cpu")
        learning = tower(model, training)
        if isinstance(learning, HeadTower):
            learning.known = self._known  # the base is the same for all runs
        with tempfile.TemporaryDirectory() as checkpoints:
            folder = Path(checkpoints)
            arguments = training_arguments(folder, len(pairs.examples), settings)
            arguments.load_best_model_at_end = False
            arguments.eval_strategy = IntervalStrategy.NO
            arguments.save_strategy = SaveStrategy.NO
            trainer = PersonaTrainer(learning, pairs, self.validation, arguments, settings)
            trainer.remove_callback(EarlyStoppingCallback)
            trainer.train()
        return TowerEncoder(learning)

    def measured(self, encoder: Encoder, users: set[str] | None = None) -> Scores:
        """All measurements of an encoder; alignments of these users only (None: all, by fold)."""
        history = self.settings.history
        order = [user for fold in self.folds for user in fold if users is None or user in users]
        place = {user: number for number, user in enumerate(order)}
        alignments = sorted(
            (one for one in self.alignments if one.user_id in place),
            key=lambda one: place[one.user_id],
        )
        ranks = persona_ranks(encoder, self.catalogue, alignments, history.decay)
        encoded = self.validation.encoded(encoder, history.length)
        everything = encoded.measure(history.length, history.decay)
        found = {
            **{f"persona, of {what}": 1 / of_each for what, of_each in ranks.items()},
            "catalogue NDCG@10": gains(everything.ranks),
            "catalogue MRR": 1 / everything.ranks,
        }
        lists = [self.lists[case.user_id] for case in self.validation.cases]
        cut = replace(
            self.validation,
            cases=[
                replace(case, candidates=tuple(one))
                for case, one in zip(self.validation.cases, lists, strict=True)
            ],
        )
        ranked = replace(encoded, validation=cut).measure(history.length, history.decay)
        held = np.array([c.target in one for c, one in zip(cut.cases, lists, strict=True)])
        found["item-CF NDCG@10"] = np.where(held, gains(ranked.ranks), 0.0)
        found["item-CF MRR"] = np.where(held, 1 / ranked.ranks, 0.0)
        return found


def _of_everything(case: Case, catalogue: Catalogue) -> Case:
    """A case whose candidates are all items the user has not interacted with in training."""
    seen = {catalogue.items.get(one.item_id) for one in case.history}
    unseen = (item for item in range(len(catalogue.items)) if item not in seen)
    return replace(case, candidates=tuple(unseen))


def persona_ranks(
    encoder: Encoder, catalogue: Catalogue, alignments: Sequence[Example], decay: float
) -> dict[str, npt.NDArray[np.int64]]:
    """Ranks of the aligned personas from 1, each (n,): of all personas of the catalogue, of those
    that could be recommended (the user's other items left out), of those of the chosen item."""
    texts = list(dict.fromkeys(text for one in alignments for text in one.texts))
    vectors = dict(zip(texts, encoder.encode_texts(texts), strict=True))
    personas = encoder.encode_texts(catalogue.texts)
    ranks: dict[str, list[int]] = {"all": [], "all new to the user": [], "its item": []}
    for one in alignments:
        stand_ins = [Interaction(str(number), -number) for number in range(len(one.texts))]
        user = user_vector(stand_ins, np.stack([vectors[text] for text in one.texts]), decay)
        assert user is not None
        scores = personas @ user.vector
        better = scores > scores[one.positives[0]]
        ranks["all"].append(1 + int(better.sum()))
        ranks["its item"].append(1 + int(better[list(catalogue.personas_of(one.item))].sum()))
        for item in set(one.interacted) - {one.item}:
            better[list(catalogue.personas_of(item))] = False
        ranks["all new to the user"].append(1 + int(better.sum()))
    return {what: np.array(of_each) for what, of_each in ranks.items()}


def item_cf(histories: Histories, catalogue: Catalogue) -> dict[str, list[int]]:
    """The first 20 of item-CF (cosine over training interactions) for each user."""
    users = list(histories.users())
    matrix = np.zeros((len(users), len(catalogue.items)))
    for row, user in enumerate(users):
        for one in histories.get(user):
            if one.item_id in catalogue.items:
                matrix[row, catalogue.items[one.item_id]] = 1
    both = matrix.T @ matrix
    norms = np.sqrt(np.diag(both)) + 1e-9
    alike = both / norms[:, None] / norms
    np.fill_diagonal(alike, 0)
    scores = np.where(matrix > 0, -1, matrix @ alike)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :GENERATOR_TOP]
    return {user: row.tolist() for user, row in zip(users, best, strict=True)}


def means(scores: Scores) -> str:
    return ", ".join(f"{name} {values.mean():.4f}" for name, values in scores.items())


def summary(untrained: Scores, of_seed: Sequence[Scores]) -> Mapping[str, Any]:
    rows = {}
    for name, before in untrained.items():
        after = np.array([scores[name] for scores in of_seed])
        paired = after.mean(axis=0)
        rows[name] = {
            "n": len(before),
            "untrained": before.mean(),
            "trained": after.mean(),
            "spread": after.mean(axis=1).std(ddof=1) if len(of_seed) > 1 else 0.0,
            "worst seed": after.mean(axis=1).min(),
            "p (t-test)": stats.ttest_rel(paired, before).pvalue,
            "p (Wilcoxon)": stats.wilcoxon(paired, before).pvalue,
        }
    return rows


def table(untrained: Scores, of_seed: Sequence[Scores]) -> str:
    lines = [
        "| | n | untrained | trained: mean ± sd of seeds | worst seed | paired t | Wilcoxon |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in summary(untrained, of_seed).items():
        lines.append(
            f"| {name} | {row['n']} | {row['untrained']:.4f} | {row['trained']:.4f} ± "
            f"{row['spread']:.4f} | {row['worst seed']:.4f} | p = {row['p (t-test)']:.1e} | "
            f"p = {row['p (Wilcoxon)']:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
