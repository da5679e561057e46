"""The results of an experiment in the layout of the paper's tables and figures.

Tables 4 and 5 are those of the peers (see peer_tables.py). Source of the layout: Persona4Rec
(arXiv 2602.21756).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.evaluation.experiment.ablations import SUMMARY_ONLY
from indexer.metrics import metric_names
from indexer.pages.charts import Bar, BarChart, BarGroup

Results = Mapping[str, Any]

NO_PEERS = "the experiment has no [peers]"
NO_BENCH = "latency and memory were not measured: add [peers.bench]"
NO_JUDGE = "no judge was asked: add [peers.judge]"


@dataclass(frozen=True)
class MetricRow:
    """One line of a table of metrics; `values`: in the order of `metric_names`."""

    line: str
    values: Sequence[float]


@dataclass(frozen=True)
class MetricGroup:
    """The lines of one generator and number of candidates."""

    generator: str
    candidates: int
    rows: Sequence[MetricRow]


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
        "table6": list(_summary_only(results)),
        "table10": list(_number_of_personas(results)),
        "table7": _one_request(bench),
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
                *place,
                [
                    MetricRow("generator alone", alone),
                    *(MetricRow(row["name"], _values(row)) for row in own),
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
