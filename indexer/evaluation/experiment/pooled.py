"""The primary comparisons of several experiments, and of all their users together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from indexer.evaluation import significance
from indexer.evaluation.experiment.conclusions import Results, gain, is_beyond_chance
from indexer.evaluation.experiment.main_table import gap
from indexer.evaluation.experiment.paper_layout import table4
from indexer.evaluation.experiment.stages import REPORT
from indexer.evaluation.experiment.wording import generator_name, line_name
from indexer.metrics import metric_names, ndcg
from indexer.pages.rendering import render

ALL = "all data sets"
"""Those with a number of candidates that more than one of them has."""


def pooled(experiments: Sequence[Results]) -> list[dict[str, Any]]:
    """The primary comparisons of each experiment, then of all users for each number of candidates.

    All are corrected together. A number of candidates is pooled over the experiments that have it,
    if they are two at least.
    """
    rows = [
        {"data": results["name"], "users": len(row["ranks"]["ours"])} | row
        for results in experiments
        for row in results["primary"]
    ]
    counts = {row["candidates"] for row in rows}
    for count in sorted(counts):
        own = [row for row in rows if row["candidates"] == count]
        if len(own) > 1:
            rows.append(_together(count, own))
    corrected = significance.holm([row["against"]["p"] for row in rows]).tolist()
    for row, holm in zip(rows, corrected, strict=True):
        row["against"] = row["against"] | {"p_holm": holm}
    return rows


def _together(count: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ours, theirs = (
        np.array([rank for row in rows for rank in row["ranks"][whose]], dtype=np.int64)
        for whose in ("ours", "theirs")
    )
    return {
        "data": ALL,
        "users": len(ours),
        "candidates": count,
        "generator": "",
        "line": "",
        "valid": None,
        "ndcg": ndcg(ours),
        "against": {"generator": ""} | gap(ours, theirs),
    }


def pooled_page(experiments: Sequence[Results], folders: Sequence[str]) -> str:
    """The page of several experiments; folders: where each one's report is, from the page."""
    return render(
        "experiments.html",
        rows=[_shown(row) for row in pooled(experiments)],
        table4=table4(experiments),
        metrics=metric_names(),
        reports=[
            (one["name"], f"{quote(folder)}/{REPORT}")
            for one, folder in zip(experiments, folders, strict=True)
        ],
    )


def sentences(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the pooled comparisons say."""
    for row in rows:
        if row["data"] == ALL:
            yield (
                f"Over all {row['users']:,} users, with {row['candidates']} candidates, NDCG@10 is "
                f"{row['ndcg']:.4f}; against the strongest generators that is "
                f"{gain(row['against'])}."
            )


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    ours = " of ".join(
        one for one in (line_name(row["line"]), generator_name(row["generator"])) if one
    )
    if row["line"] == "generator alone":
        ours = generator_name(row["generator"])
    return row | {
        "ours": ours or "each one's choice",
        "theirs": generator_name(row["against"]["generator"]) or "each one's strongest",
        "strong": is_beyond_chance(row["against"]),
    }
