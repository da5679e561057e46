"""The results of an experiment in the layout of the paper's tables and figures.

The paper's own figures stand beside. Source: Persona4Rec (arXiv 2602.21756).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.evaluation.experiment.ablations import SUMMARY_ONLY
from indexer.evaluation.experiment.paper_figures import (
    MetricGroup,
    MetricRow,
    beside,
    one_request,
)
from indexer.evaluation.experiment.wording import generator_name, line_name, variant_name
from indexer.metrics import metric_names
from indexer.pages.charts import Bar, BarChart, BarGroup

Results = Mapping[str, Any]

NO_PEERS = "the experiment has no [peers]"
NO_BENCH = "latency and memory were not measured: add [peers.bench]"
NO_JUDGE = "no judge was asked: add [peers.judge]"


SEGMENTS = ("warm users", "cold users", "head items", "tail items")
SEGMENT_COLUMNS = [f"{segment} {name}" for segment in SEGMENTS for name in ("HR@10", "NDCG@10")]


@dataclass(frozen=True)
class MissingTable:
    """A table or figure that is left out, and why."""

    name: str
    why: str


def paper_layout(results: Results) -> dict[str, Any]:
    """What the page shows, by name; `missing` says what is left out."""
    bench, judged = results["bench"], results["judged"]
    return {
        "metrics": metric_names(),
        "segments": SEGMENT_COLUMNS,
        "table4": table4([results]),
        "table5": beside(list(_segments(results["peers"])), "table5", SEGMENT_COLUMNS),
        "table6": beside(list(_summary_only(results)), "table6", metric_names()),
        "table10": beside(list(_number_of_personas(results)), "table10", metric_names()),
        "table7": _one_request(bench),
        "their_table7": one_request(),
        "bench": bench,
        "figure4": grown(bench),
        "figures56": list(_win_rates(judged)),
        "controls": list(_controls(judged)),
        "missing": list(_missing(results)),
    }


def _missing(results: Results) -> Iterator[MissingTable]:
    if not results["peers"]:
        yield MissingTable("Tables 4 and 5, LLM rerankers", NO_PEERS)
    if not any(_summary_only(results)):
        why = "the artifacts have no summaries of items"
        yield MissingTable("Table 6, summaries alone", why)
    if not results["bench"]:
        why = NO_BENCH if results["peers"] else NO_PEERS
        yield MissingTable("Table 7 and Figure 4, latency and memory", why)
    if results["judged"] is None:
        why = NO_JUDGE if results["peers"] else NO_PEERS
        yield MissingTable("Figures 5 and 6, explanations and personas", why)
    for one in results["judged"] or ():
        if one["result"] is None:
            name = f"{_figure(one)}, {one['study']} against {one['against']}"
            yield MissingTable(name, one["problem"])
        elif not one["result"]["preferences"]:
            name = f"{_figure(one)}, {one['study']} against {one['against']}"
            yield MissingTable(name, _unfit(one["result"]))


def _unfit(result: Mapping[str, Any]) -> str:
    if result["passed"]:
        return "the judge has given no usable answer"
    failed = (one for one in result["controls"] if not one["passed"])
    named = ", ".join(f"{one['name']}: {one['right']} of {one['of']} right" for one in failed)
    return f"the judge, {result['model']}, fails its controls ({named}), so no win rate is given"


# --- Tables 4 and 5 -------------------------------------------------------------------------------


def table4(experiments: Sequence[Results]) -> list[MetricGroup]:
    """Data set, generator, reranker, as in the paper's Table 4, of the experiments with peers."""
    return beside(
        [group for one in experiments if one["peers"] for group in _reranked(one)],
        "table4",
        metric_names(),
    )


def _reranked(results: Results) -> Iterator[MetricGroup]:
    peers = results["peers"]
    for generator in dict.fromkeys(row["generator"] for row in peers["lines"]):
        yield MetricGroup(
            f"{results['name']}: {generator_name(generator)}, {peers['candidates']} candidates, "
            f"{peers['users']:,} users",
            [
                MetricRow(
                    line_name(row["line"]),
                    [row["metrics"][name]["mean"] for name in metric_names()],
                )
                for row in peers["lines"]
                if row["generator"] == generator
            ],
        )


def _segments(peers: Mapping[str, Any] | None) -> Iterator[MetricGroup]:
    """Each reranker by segment of users and items; None for a segment without users."""
    if not peers:
        return
    known = {(row["generator"], row["line"], row["segment"]): row for row in peers["segments"]}
    for generator in dict.fromkeys(row["generator"] for row in peers["lines"]):
        rows = []
        for line in (row["line"] for row in peers["lines"] if row["generator"] == generator):
            found = [known.get((generator, line, segment), {}) for segment in SEGMENTS]
            values = [one.get(name) for one in found for name in ("hr", "mean")]
            rows.append(MetricRow(line_name(line), values))
        yield MetricGroup(f"{generator_name(generator)}, {peers['candidates']} candidates", rows)


# --- Tables 6 and 10 ------------------------------------------------------------------------------


def _summary_only(results: Results) -> Iterator[MetricGroup]:
    """Generator, summaries in place of personas, personas: each alone."""
    yield from _groups(
        results, lambda row: row["name"] in (SUMMARY_ONLY, "Eq. 10"), only_with=SUMMARY_ONLY
    )


def _number_of_personas(results: Results) -> Iterator[MetricGroup]:
    """At most so many personas of each item."""
    yield from _groups(
        results,
        lambda row: row["group"] == "number of personas" and row["name"].startswith("at most"),
    )


def _groups(results: Results, wanted: Any, only_with: str = "") -> Iterator[MetricGroup]:
    rows = [row for row in results["ablations"] if not row["fused"] and wanted(row)]
    rows.sort(key=lambda row: row["name"] == "Eq. 10")  # the paper's method stands last
    for line in results["main"]:
        if line["encoder"] is not None:
            continue
        place = (line["generator"], line["candidates"])
        own = [row for row in rows if (row["generator"], row["candidates"]) == place]
        if own and (not only_with or any(row["name"] == only_with for row in own)):
            alone = [line["metrics"][name]["mean"] for name in metric_names()]
            yield MetricGroup(
                f"{generator_name(line['generator'])}, {line['candidates']} candidates",
                [
                    MetricRow("generator alone", alone),
                    *(MetricRow(variant_name(row["name"]), _values(row)) for row in own),
                ],
            )


def _values(row: Mapping[str, Any]) -> list[float]:
    return [row["metrics"][name] for name in metric_names()]


# --- Table 7, Figure 4 ----------------------------------------------------------------------------


def _one_request(bench: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The cells of one user with the fewest candidates."""
    if not bench:
        return []
    fewest = min(one["candidates"] for one in bench["cells"])
    return [one for one in bench["cells"] if (one["users"], one["candidates"]) == (1, fewest)]


def grown(bench: Mapping[str, Any] | None) -> list[tuple[str, list[int], list[Any]]]:
    """(what grows, its values, (peer, the cell of each value)); the other one is at its least."""
    if not bench:
        return []
    found = []
    for axis, other in (("users", "candidates"), ("candidates", "users")):
        least = min(one[other] for one in bench["cells"])
        cells = [one for one in bench["cells"] if one[other] == least]
        values = sorted({one[axis] for one in cells})
        peers = dict.fromkeys(one["peer"] for one in cells)
        rows = [
            (peer, sorted((one for one in cells if one["peer"] == peer), key=lambda o: o[axis]))
            for peer in peers
        ]
        found.append((f"{axis}, with {least} {other if least > 1 else other[:-1]}", values, rows))
    return found


# --- Figures 5 and 6 ------------------------------------------------------------------------------


def _controls(judged: Sequence[Mapping[str, Any]] | None) -> Iterator[dict[str, Any]]:
    """Every control of every comparison: what says whether the judge can be believed."""
    for one in judged or ():
        for control in one["result"]["controls"] if one["result"] else ():
            name = f"{_figure(one)}, {one['study']} against {one['against']}"
            yield control | {"comparison": name, "fit": one["result"]["passed"]}


def _figure(one: Mapping[str, Any]) -> str:
    return "Figure 5" if one["study"] == "explanations" else "Figure 6"


def _win_rates(judged: Sequence[Mapping[str, Any]] | None) -> Iterator[BarChart]:
    """How often ours wins and loses on each criterion."""
    for one in judged or ():
        if one["result"] is None or not one["result"]["preferences"]:
            continue
        groups = [
            BarGroup(found["criterion"], [_bar("ours wins", found["won"], 2), _lost(one, found)])
            for found in one["result"]["preferences"]
        ]
        caption = (
            f"{_figure(one)}: {one['study']} of personas against {one['against']}, by "
            f"{one['result']['model']}; shares with 95% intervals, the rest are ties"
        )
        yield BarChart(caption, groups, 1.0)


def _lost(one: Mapping[str, Any], found: Mapping[str, Any]) -> Bar:
    return _bar(f"{one['against']} wins", found["lost"], 5)


def _bar(label: str, share: Mapping[str, Any], series: int) -> Bar:
    value = share["count"] / share["of"]
    text = f"{value:.0%} [{share['low']:.0%}, {share['high']:.0%}]"
    return Bar(label, value, text, share["low"], share["high"], series=series)
