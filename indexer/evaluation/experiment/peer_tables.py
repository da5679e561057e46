"""The tables of an experiment's peers, in the layout of the paper's tables 4 and 5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from indexer.evaluation import significance
from indexer.evaluation.evaluate import estimates
from indexer.evaluation.experiment.main_table import Line, gap
from indexer.evaluation.experiment.peer_study import PeerRun, PeerStudy
from indexer.evaluation.segments import Segment
from indexer.metrics import Floats, Ranks, ceiling, ndcg


@dataclass(frozen=True)
class _Row:
    """One reranker of one generator; `run` is None for the generator and for personas."""

    generator: str
    name: str
    kind: str
    ranks: Ranks
    run: PeerRun | None = None


def peer_tables(
    study: PeerStudy, runs: Sequence[PeerRun], lines: Sequence[Line], found: Sequence[Segment]
) -> dict[str, Any]:
    """Every reranker on the same users and lists, as JSON.

    Each is compared with its generator alone; p_holm corrects over these comparisons.
    """
    rows = list(_rows(study, runs, lines))
    alone = {row.generator: row.ranks for row in rows if row.kind == "generator"}
    table = [_record(row, alone[row.generator], study.count) for row in rows]
    tested = [one["own"] for one in table if one["own"]]
    corrected = significance.holm([one["p"] for one in tested]).tolist()
    for one, holm in zip(tested, corrected, strict=True):
        one["p_holm"] = holm
    return {
        "users": len(study.members),
        "model": study.model,
        "candidates": study.count,
        "lines": table,
        "segments": list(_segments(rows, study, found)),
    }


def _rows(study: PeerStudy, runs: Sequence[PeerRun], lines: Sequence[Line]) -> Iterator[_Row]:
    for generator in study.queries:
        for line in lines:
            if (line.generator, line.candidates) == (generator, study.count):
                kind = "generator" if line.encoder is None else "personas"
                yield _Row(generator, line.name, kind, line.ranks[study.members])
        for run in runs:
            if run.generator == generator:
                yield _Row(generator, run.name, "peer", run.ranks, run)


def _record(row: _Row, alone: Ranks, count: int) -> dict[str, Any]:
    return {
        "generator": row.generator,
        "candidates": count,
        "line": row.name,
        "kind": row.kind,
        "ceiling": ceiling(row.ranks),
        "metrics": {name: asdict(one) for name, one in estimates(row.ranks).items()},
        "own": None if row.kind == "generator" else gap(row.ranks, alone),
        "asked": None if row.run is None else _asked(row.run),
    }


def _asked(run: PeerRun) -> dict[str, Any]:
    """What the peer needed, and how much the order of its prompts decides."""
    totals = run.totals
    return {
        "calls": totals.usage.calls,
        "prompt_tokens": totals.usage.prompt_tokens,
        "completion_tokens": totals.usage.completion_tokens,
        "cost_usd": totals.usage.cost_usd,
        "repaired": totals.repaired,
        "failed": totals.failed,
        "failed_share": totals.failed_share,
        "notes": dict(totals.notes),
        "shuffled_ndcg": None if run.shuffled is None else ndcg(run.shuffled),
        "tau": None if run.taus is None or not len(run.taus) else _mean_with_interval(run.taus),
    }


def _mean_with_interval(values: Floats) -> dict[str, float]:
    """The mean, with a percentile bootstrap interval (95 %) over users."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(values), (significance.CHUNK, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def _segments(
    rows: Sequence[_Row], study: PeerStudy, found: Sequence[Segment]
) -> Iterator[dict[str, Any]]:
    """HR@10 (hr) and NDCG@10 of every line in every segment that has users of the study."""
    for row in rows:
        for one in found:
            ranks = row.ranks[one.members[study.members]]
            if len(ranks):
                measured = estimates(ranks)
                yield {
                    "generator": row.generator,
                    "line": row.name,
                    "segment": one.name,
                    "rule": one.rule,
                    "users": len(ranks),
                    "ceiling": ceiling(ranks),
                    "hr": measured["HR@10"].mean,
                    **asdict(measured["NDCG@10"]),
                }
