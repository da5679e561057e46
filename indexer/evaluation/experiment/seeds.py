"""How much the results of random generators depend on the seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.encoding import Encoded
from indexer.evaluation.experiment.generating import Generated
from indexer.evaluation.experiment.selection import Choice, fusion_weight, read_judged
from indexer.evaluation.generators.base import SEEDED
from indexer.metrics import ndcg


def seed_table(
    lists: Mapping[Generated, Path], encoded: Encoded, choice: Choice, context: Context
) -> list[dict[str, Any]]:
    """NDCG@10 on test items for each seed: generator alone, personas, fused.

    Empty if the configuration has only one seed.
    """
    if len(context.config.seeds) < 2:
        return []
    rows = []
    profiles = encoded.material.full.newest(choice.length)
    for (generator, seed), path in lists.items():
        if generator not in SEEDED:
            continue
        widest = read_judged(path, context)
        all_scores = choice.plain.scores(widest.pool, profiles, encoded.material.personas)
        for count in context.config.candidates:
            one, scores = widest.first(count), all_scores[:, :count]
            fused = one.pool.fused(
                scores, fusion_weight(one, scores, context.config.weights).weight
            )
            rows.append(
                {
                    "generator": generator,
                    "candidates": count,
                    "seed": seed,
                    "generator alone": ndcg(one.pool.generator_ranks(one.test)),
                    f"personas, {encoded.name}": ndcg(one.pool.ranks(scores, one.test)),
                    f"fused, {encoded.name}": ndcg(one.pool.ranks(fused, one.test)),
                }
            )
    return rows
