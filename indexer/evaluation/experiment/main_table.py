"""The lines of the main table, compared with one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from indexer.evaluation import significance
from indexer.evaluation.evaluate import estimates
from indexer.evaluation.experiment.selection import Hybrid
from indexer.evaluation.generators.base import READ_PERSONAS
from indexer.evaluation.segments import Segment
from indexer.metrics import Ranks, ceiling, metric_names, ndcg


@dataclass(frozen=True)
class Line:
    """One way to order candidates, with the rank of each user's test item.

    encoder: None for the generator alone. weight: the share of the persona score, if fused.
    options: whether the reranker's best options on validation items are used instead of Eq. 10.
    """

    generator: str
    candidates: int
    encoder: str | None
    fused: bool
    weight: float | None
    ranks: Ranks
    ms_a_user: float | None = None
    options: bool = False

    @property
    def name(self) -> str:
        """The name for people."""
        if self.encoder is None:
            return "generator alone"
        options = ", options" if self.options else ""
        return f"{'fused' if self.fused else 'personas'}, {self.encoder}{options}"


def main_table(lines: Sequence[Line], strongest: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every line with all metrics, and its NDCG@10 against two others: exploratory.

    own: the line's generator alone. best: the generator alone that is strongest on validation
    items. p_holm: of lines that use personas, whose tests are corrected together.
    """
    alone = {(one.generator, one.candidates): one for one in lines if one.encoder is None}
    rows: list[dict[str, Any]] = []
    tested: list[dict[str, Any]] = []
    for line in lines:
        row = _record(line)
        own = alone[line.generator, line.candidates]
        best = alone[strongest[str(line.candidates)], line.candidates]
        if own is not line:
            row["own"] = _against(line, own)
            tested.append(row["own"])
        if best is own and own is not line:
            row["best"] = row["own"]  # one test, not two
        elif best is not line:
            row["best"] = _against(line, best)
            if line.encoder is not None or line.generator in READ_PERSONAS:
                tested.append(row["best"])
        rows.append(row)
    corrected = significance.holm([one["p"] for one in tested]).tolist()
    for one, holm in zip(tested, corrected, strict=True):
        one["p_holm"] = holm
    return rows


def primary_table(
    lines: Sequence[Line], strongest: Mapping[str, str], hybrids: Mapping[str, Hybrid]
) -> list[dict[str, Any]]:
    """The comparisons that are fixed before a test item is looked at, corrected by themselves.

    For each number of candidates: the order that is best on validation items against the
    strongest generator alone.
    """
    rows: list[dict[str, Any]] = []
    for count, chosen in hybrids.items():
        [ours] = [
            one
            for one in lines
            if (one.generator, str(one.candidates)) == (chosen.generator, count)
            and (one.encoder, one.options) == (chosen.encoder, chosen.options)
            and one.fused is (chosen.encoder is not None)
        ]
        [theirs] = [
            one
            for one in lines
            if (one.generator, str(one.candidates)) == (strongest[count], count)
            and one.encoder is None
        ]
        rows.append(
            {
                "candidates": int(count),
                "generator": ours.generator,
                "line": ours.name,
                "valid": chosen.valid,
                "ndcg": ndcg(ours.ranks),
                "ranks": {"ours": ours.ranks.tolist(), "theirs": theirs.ranks.tolist()},
                "against": _against(ours, theirs),
            }
        )
    corrected = significance.holm([row["against"]["p"] for row in rows]).tolist()
    for row, holm in zip(rows, corrected, strict=True):
        row["against"]["p_holm"] = holm
    return rows


def _against(line: Line, other: Line) -> dict[str, Any]:
    return {"generator": other.generator} | gap(line.ranks, other.ranks)


def gap(ranks: Ranks, others: Ranks) -> dict[str, float | None]:
    """NDCG@10 of ranks against others, with interval and p; `p_holm` is left for a correction."""
    found = significance.compare(ranks, others)
    column = metric_names().index("NDCG@10")
    mean, theirs = float(found.difference[column]), ndcg(others)
    return {
        "mean": mean,
        "relative": mean / theirs if theirs else None,
        "low": float(found.low[column]),
        "high": float(found.high[column]),
        "p": float(found.p[column]),
        "p_holm": None,
    }


def segment_table(lines: Sequence[Line], found: Sequence[Segment]) -> Iterator[dict[str, Any]]:
    """NDCG@10 of every line in every segment."""
    for line in lines:
        for one in found:
            ranks = line.ranks[one.members]
            yield {
                "generator": line.generator,
                "candidates": line.candidates,
                "line": line.name,
                "segment": one.name,
                "rule": one.rule,
                "users": len(ranks),
                "ceiling": ceiling(ranks),
                **asdict(estimates(ranks)["NDCG@10"]),
            }


def _record(line: Line) -> dict[str, Any]:
    return {
        "generator": line.generator,
        "candidates": line.candidates,
        "line": line.name,
        "encoder": line.encoder,
        "fused": line.fused,
        "options": line.options,
        "weight": line.weight,
        "ms_a_user": line.ms_a_user,
        "ceiling": ceiling(line.ranks),
        "metrics": {name: asdict(one) for name, one in estimates(line.ranks).items()},
    }
