"""Choose settings by NDCG@10 on validation items, before any test item is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.embedded import Personas, Profiles
from indexer.evaluation.experiment.encoding import Encoded, EncoderName
from indexer.evaluation.experiment.pool import NOBODY, Indexes, Pool, read_pool
from indexer.evaluation.experiment.scoring import Scorer
from indexer.metrics import Floats, ndcg
from p4r_qdrant.errors import InputError


@dataclass(frozen=True)
class Judged:
    """The pool of a generator with the held-out items of its users.

    valid, test: (n_users,) positions in the pool's items; -1 if no list holds the item, NOBODY if
    the user has none.
    """

    pool: Pool
    valid: Indexes
    test: Indexes

    def first(self, count: int) -> Judged:
        """The first `count` candidates of each user."""
        return Judged(self.pool.first(count), self.valid, self.test)


class Weighed(NamedTuple):
    """The case that a fusion weight is chosen for."""

    scorer: Scorer
    generator: str
    candidates: int


class Fusion(NamedTuple):
    """A weight of the persona score in fusion, and its NDCG@10 on validation items."""

    weight: float
    valid: float


@dataclass(frozen=True)
class Choice:
    """The best settings for one encoder.

    scorers: Eq. 10 and, if they are better, options of the reranker. fusions: the weights of the
    persona score in fusion and their NDCG@10.
    """

    length: int
    scorers: tuple[Scorer, ...]
    fusions: Mapping[Weighed, Fusion]

    @property
    def plain(self) -> Scorer:
        """Eq. 10."""
        return self.scorers[0]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "length": self.length,
            "decay": self.plain.decay,
            "forms": [
                {
                    "interests": scorer.interests,
                    "prior": scorer.prior,
                    "weights": {
                        f"{generator}, {count}": fusion.weight
                        for (which, generator, count), fusion in self.fusions.items()
                        if which == scorer
                    },
                }
                for scorer in self.scorers
            ],
        }


def read_judged(path: Path, context: Context) -> Judged:
    """Read a file of lists. Raises InputError if no list holds its user's validation item."""
    data = context.data
    pool = read_pool(path, data.users).first(max(context.config.candidates))
    valid, test = pool.targets(data.wanted("valid")), pool.targets(data.wanted("test"))
    if not (pool.generator_ranks(valid) > 0).any():
        raise InputError(
            f"no list of {path} holds its user's validation item, so no settings can be chosen; "
            "make the lists from training interactions alone"
        )
    return Judged(pool, valid, test)


def generator_values(judged: Mapping[str, Judged], count: int) -> dict[str, float]:
    """NDCG@10 of each generator alone, with `count` candidates."""
    values = {}
    for name, widest in judged.items():
        one = widest.first(count)
        values[name] = ndcg(one.pool.generator_ranks(one.valid)[one.valid != NOBODY])
    return values


def history(encoded: Encoded, judged: Sequence[Judged], context: Context) -> list[dict[str, Any]]:
    """NDCG@10 of persona reranking for each length and decay: the mean over generators."""
    rows = []
    for length in context.config.lengths:
        profiles = encoded.material.full.newest(length)
        for decay in context.config.decays:
            value = mean_ndcg(Scorer(decay=decay), judged, profiles, encoded.material.personas)
            rows.append({"length": length, "decay": decay, "valid": value})
    return rows


def options(
    encoded: Encoded, judged: Sequence[Judged], context: Context, length: int, decay: float
) -> list[dict[str, Any]]:
    """As `history`, for each share of single interests and each prior."""
    profiles, personas = encoded.material.full.newest(length), encoded.material.personas
    rows = []
    for share in context.config.interests:
        for prior in context.config.priors:
            scorer = Scorer(decay=decay, interests=share, prior=prior)
            value = mean_ndcg(scorer, judged, profiles, personas)
            rows.append({"interests": share, "prior": prior, "valid": value})
    return rows


def choice(
    encoded: Encoded,
    judged: Mapping[str, Judged],
    context: Context,
    best_history: Mapping[str, Any],
    best_options: Mapping[str, Any],
) -> Choice:
    """The best history and options, with the fusion weights that are best for them."""
    plain = Scorer(decay=best_history["decay"])
    scorers = [plain]
    if best_options["interests"] or best_options["prior"]:
        chosen = {name: best_options[name] for name in ("interests", "prior")}
        scorers.append(replace(plain, **chosen))
    profiles = encoded.material.full.newest(best_history["length"])
    fusions = {}
    for scorer in scorers:
        for name, one in judged.items():
            scores = scorer.scores(one.pool, profiles, encoded.material.personas)
            for count in context.config.candidates:
                fusions[Weighed(scorer, name, count)] = fusion_weight(
                    one.first(count), scores[:, :count], context.config.weights
                )
    return Choice(best_history["length"], tuple(scorers), fusions)


class Hybrid(NamedTuple):
    """The best order on validation items; without an encoder it is a generator's own.

    options: whether the reranker's options are used instead of Eq. 10. valid: its NDCG@10 on
    validation items.
    """

    generator: str
    encoder: EncoderName | None
    options: bool
    valid: float


def hybrid(
    judged: Mapping[str, Judged], choices: Mapping[EncoderName, Choice], count: int
) -> Hybrid:
    """The best generator, alone or fused with personas; the simplest if several are equal."""
    values = generator_values(judged, count)
    found = [Hybrid(name, None, False, valid) for name, valid in values.items()]
    found += [
        Hybrid(weighed.generator, encoder, weighed.scorer != choice.plain, fusion.valid)
        for encoder, choice in choices.items()
        for weighed, fusion in choice.fusions.items()
        if weighed.candidates == count
    ]
    return max(found, key=lambda one: one.valid)


def mean_ndcg(
    scorer: Scorer, judged: Sequence[Judged], profiles: Profiles, personas: Personas
) -> float:
    """NDCG@10 on the validation items, the mean over generators."""
    scores = scorer.scores_of([one.pool for one in judged], profiles, personas)
    values = [valid_ndcg(one, own) for one, own in zip(judged, scores, strict=True)]
    return float(np.mean(values))


def fusion_weight(judged: Judged, scores: Floats, weights: Iterable[float]) -> Fusion:
    """The best of `weights`; the first if several are equal."""
    found = (Fusion(one, valid_ndcg(judged, judged.pool.fused(scores, one))) for one in weights)
    return max(found, key=lambda one: one.valid)


def valid_ndcg(judged: Judged, scores: Floats) -> float:
    """NDCG@10 on the validation items, over the users who have one."""
    has = judged.valid != NOBODY
    return ndcg(judged.pool.ranks(scores, judged.valid)[has])


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row with the highest `valid`; the first if several are equal."""
    return max(rows, key=lambda row: row["valid"])
