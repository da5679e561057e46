"""The page of an experiment: results.json as charts and table rows for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.evaluation.experiment import conclusions
from indexer.evaluation.experiment.conclusions import Results, is_beyond_chance
from indexer.evaluation.experiment.paper_layout import paper_layout
from indexer.evaluation.experiment.wording import (
    LEAKING,
    form_name,
    generator_name,
    line_name,
    named_values,
    variant_name,
)
from indexer.pages.charts import Bar, BarChart, BarGroup
from indexer.pages.rendering import render

_SERIES = {
    "generator alone": 5,
    "personas, untrained": 6,
    "fused, untrained": 1,
    "personas, untrained, options": 8,
    "fused, untrained, options": 3,
    "personas, trained": 7,
    "fused, trained": 2,
    "personas, trained, options": 9,
    "fused, trained, options": 4,
}
"""The colour of each line of the main table."""

_AGAINST = {"own": "Change, own generator", "best": "Change, strongest"}
_OTHER_METRICS = ("HR@10", "MRR@10", "NDCG@5", "NDCG@20")


@dataclass(frozen=True)
class Charts:
    """A chart of the strongest generator, and those of the other generators."""

    first: BarChart
    others: Sequence[BarChart] = ()


def page(results: Results) -> str:
    """The whole page as HTML."""
    return render(
        "experiment.html",
        name=results["name"],
        data=results["data"],
        counts=" or ".join(str(count) for count in results["config"]["candidates"]),
        warnings=list(_warnings(results)),
        overall=list(conclusions.overall(results)),
        trust=conclusions.trust(results),
        checks=results["leaks"],
        vouched=any(check["vouched"] for check in results["leaks"]),
        main=_main_table(results),
        main_says=conclusions.main(results),
        columns={"against": list(_AGAINST.values()), "others": _OTHER_METRICS},
        main_charts=list(_main_charts(results)),
        options=_options(results),
        strongest=_strongest(results),
        segments=results["segments"],
        segments_say=conclusions.segments(results),
        segment_chart=_segment_chart(results),
        peers=results["peers"],
        peers_say=conclusions.peers(results),
        peers_model=results["peers"]["model"] if results["peers"] else "",
        is_beyond_chance=is_beyond_chance,
        paper=paper_layout(results),
        cold=results["cold"],
        cold_says=conclusions.cold(results),
        form_name=form_name,
        encoder=results["ablations_encoder"],
        ablations_say=conclusions.ablations(results),
        ablations=_ablation_groups(results),
        persona_charts=list(_persona_charts(results)),
        history_say=conclusions.history(results),
        history=_history(results),
        decays=results["config"]["decays"],
        chosen=list(_chosen(results)),
        generator_settings=results["chosen"]["settings"],
        tried=results["options"],
        seeds=results["seeds"],
        seed_lines=_seed_lines(results),
        examples=results["examples"],
        settings=named_values(results["config"]),
        environment=named_values(results["environment"]),
        seconds=results["seconds"],
        leaking=LEAKING,
        generator_name=generator_name,
        line_name=line_name,
        variant_name=variant_name,
    )


def _warnings(results: Results) -> Iterator[str]:
    if results["leaking"]:
        yield LEAKING
    yield from (f"{check['vouched']}." for check in results["leaks"] if check["vouched"])


def _strongest(results: Results) -> str:
    return ", ".join(
        f"{generator_name(name)} ({count} candidates)"
        for count, name in results["chosen"]["strongest"].items()
    )


def _options(results: Results) -> str:
    """The options that have lines of their own; empty where there are none."""
    return "; ".join(
        f"{name}, single interests {form['interests']:g} and persona prior {form['prior']:g}"
        for name, one in results["chosen"]["encoders"].items()
        for form in one["forms"][1:]
    )


# --- table rows -------------------------------------------------------------------------------


def _main_table(results: Results) -> dict[str, list[dict[str, Any]]]:
    """The rows of each generator and number of candidates, by the title of the group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in results["main"]:
        title = f"{generator_name(row['generator'])}, {row['candidates']} candidates"
        better = "strong" if is_beyond_chance(row.get("own")) else ""
        groups.setdefault(title, []).append(
            {
                "kind": "quiet" if row["encoder"] is None else better,
                "line": row["line"],
                "ndcg": row["metrics"]["NDCG@10"],
                "against": [row.get(key) for key in _AGAINST],
                "others": [row["metrics"][name]["mean"] for name in _OTHER_METRICS],
                "ceiling": row["ceiling"],
            }
        )
    return groups


def _ablation_groups(results: Results) -> dict[str, list[dict[str, Any]]]:
    """The rows of each group: a variant alone and fused, side by side."""
    fused = {_variant(row): row for row in results["ablations"] if row["fused"]}
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in results["ablations"]:
        if not row["fused"]:
            groups.setdefault(row["group"], []).append(
                {
                    "name": row["name"],
                    "form": form_name(row["form"]),
                    "generator": row["generator"],
                    "candidates": row["candidates"],
                    "both": [("alone", row), ("fused", fused[_variant(row)])],
                }
            )
    return groups


def _variant(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["group"], row["name"], row["generator"], row["candidates"])


def _history(results: Results) -> list[tuple[int, list[tuple[float, int]]]]:
    """(history length, (NDCG@10, its shade in percent) for each decay)."""
    values = {(row["length"], row["decay"]): row["valid"] for row in results["history"]}
    low, high = min(values.values()), max(values.values())
    spread = (high - low) or 1
    return [
        (
            length,
            [
                (value, round(60 * (value - low) / spread))
                for value in (values[length, decay] for decay in results["config"]["decays"])
            ],
        )
        for length in results["config"]["lengths"]
    ]


def _chosen(results: Results) -> Iterator[dict[str, Any]]:
    for name, one in results["chosen"]["encoders"].items():
        for form in one["forms"]:
            weights = ", ".join(
                f"{generator_name(generator)}, {count} candidates: {weight:g}"
                for where, weight in form["weights"].items()
                for generator, _, count in [where.rpartition(", ")]
            )
            yield {
                "encoder": f"{name} ({one['name']})",
                "length": one["length"],
                "decay": one["decay"],
                "interests": form["interests"],
                "prior": form["prior"],
                "weights": weights,
            }


def _seed_lines(results: Results) -> list[str]:
    first = results["seeds"][0] if results["seeds"] else {}
    return [name for name in first if name not in ("generator", "candidates", "seed")]


# --- charts -----------------------------------------------------------------------------------


def _main_charts(results: Results) -> Iterator[Charts]:
    for count in results["config"]["candidates"]:
        rows = [row for row in results["main"] if row["candidates"] == count]
        groups = {
            generator: [
                _estimate(row["line"], row["metrics"]["NDCG@10"])
                for row in rows
                if row["generator"] == generator
            ]
            for generator in dict.fromkeys(row["generator"] for row in rows)
        }
        yield _charts(results, count, groups, "NDCG@10 on test items, with 95% intervals")


def _persona_charts(results: Results) -> Iterator[Charts]:
    for count in results["config"]["candidates"]:
        groups: dict[str, list[Bar]] = {}
        for row in results["ablations"]:
            if (row["candidates"], row["fused"]) == (count, False) and (
                row["group"] == "number of personas"
            ):
                label = variant_name(row["name"])
                bar = Bar(label, row["mean"], _with_interval(row), row["low"], row["high"])
                groups.setdefault(row["generator"], []).append(bar)
        if groups:
            yield _charts(results, count, groups, "NDCG@10 by the number of personas per item")


def _charts(
    results: Results, count: int, groups: Mapping[str, Sequence[Bar]], caption: str
) -> Charts:
    """The strongest generator's group as the first chart; all are on one scale."""
    strongest = results["chosen"]["strongest"][str(count)]
    scale = BarChart("", [BarGroup("", bars) for bars in groups.values()]).scale
    charts = {
        generator: BarChart(
            f"{caption}: {count} candidates of {generator_name(generator)}",
            [BarGroup("", bars)],
            scale,
        )
        for generator, bars in groups.items()
    }
    first = charts.pop(strongest)
    return Charts(first, list(charts.values()))


def _segment_chart(results: Results) -> BarChart | None:
    count = results["config"]["candidates"][0]
    generator = results["chosen"]["strongest"][str(count)]
    groups: dict[str, list[Bar]] = {}
    for row in results["segments"]:
        if (row["candidates"], row["generator"]) == (count, generator):
            title = f"{row['segment']} ({row['rule']}; {row['users']:,} users)"
            groups.setdefault(title, []).append(_estimate(row["line"], row))
    if not groups:
        return None
    return BarChart(
        f"NDCG@10 by segment, with 95% intervals: {count} candidates of "
        f"{generator_name(generator)}",
        [BarGroup(title, bars) for title, bars in groups.items()],
    )


def _estimate(line: str, found: Mapping[str, float]) -> Bar:
    return Bar(
        line_name(line),
        found["mean"],
        _with_interval(found),
        found["low"],
        found["high"],
        series=_SERIES.get(line, 1),
    )


def _with_interval(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3f} [{found['low']:.2f}, {found['high']:.2f}]"
