"""The reranked lines of the main table, computed with the index and the reranker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np

from indexer.artifacts.lines import Refusals
from indexer.evaluation.experiment import online
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.embedded import typical_user
from indexer.evaluation.experiment.encoding import Encoded
from indexer.evaluation.experiment.online import Through
from indexer.evaluation.experiment.selection import Choice, Judged, Weighed
from indexer.metrics import Ranks
from p4r_qdrant.errors import P4RError

DISAGREEMENT = 0.01
"""The share of users (at least one user) with different ranks in the index and in NumPy that is
allowed: both add float32 numbers in another order."""


def passes(choice: Choice, judged: Mapping[str, Judged], context: Context) -> int:
    """How many times every user is reranked."""
    return 2 * len(choice.scorers) * len(judged) * len(context.config.candidates)


def reranked_lines(
    encoded: Encoded, choice: Choice, judged: Mapping[str, Judged], context: Context
) -> list[dict[str, Any]]:
    """The lines of each scorer, generator and number of candidates, alone and fused.

    Raises P4RError if the reranker and NumPy rank test items differently.
    """
    rows = []
    profiles = encoded.material.full.newest(choice.length)
    known = np.asarray(np.isfinite(profiles.means(choice.plain.decay)).all(axis=1))
    with served(encoded, choice, context) as through:
        for scorer, (name, widest), count in product(
            choice.scorers, judged.items(), context.config.candidates
        ):
            one = widest.first(count)
            scores = scorer.scores(one.pool, profiles, encoded.material.personas)
            for weight in (None, choice.fusions[Weighed(scorer, name, count)].weight):
                watch = online.Stopwatch()
                rankings = online.reranked(through, one.pool, scorer, weight=weight)
                ranks = online.ranks(rankings, context.data.users, context.data.wanted("test"))
                expected = scores if weight is None else one.pool.fused(scores, weight, known)
                _check_agreement(ranks, one.pool.ranks(expected, one.test))
                rows.append(
                    {
                        "generator": name,
                        "candidates": count,
                        "encoder": encoded.name,
                        "fused": weight is not None,
                        "weight": weight,
                        "ranks": ranks.tolist(),
                        "ms_a_user": watch.ms_a_user(len(ranks)),
                        "options": scorer != choice.plain,
                    }
                )
    return rows


@contextmanager
def served(encoded: Encoded, choice: Choice, context: Context) -> Iterator[Through]:
    """The catalogue in an embedded index, with the typical user that priors need."""
    path = context.output / "index" / encoded.encoder.fingerprint
    path.parent.mkdir(exist_ok=True)
    folder, domain = context.data.folder, context.config.domain
    with online.indexed(folder, path, encoded.encoder, domain, Refusals()) as index:
        profiles = encoded.material.full.newest(choice.length)
        index.record_typical_user(typical_user(profiles.means(choice.plain.decay)))
        yield Through(index, encoded.encoder, context.histories, choice.length, context.progress)


def _check_agreement(ranks: Ranks, expected: Ranks) -> None:
    differing = int(np.sum(ranks != expected))
    if differing > max(1, DISAGREEMENT * len(ranks)):
        raise P4RError(
            f"the reranker and NumPy rank the held-out items of {differing} of {len(ranks)} users "
            "differently; please report this"
        )
