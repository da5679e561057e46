"""The figures of an experiment as pictures for slides and papers, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from indexer.evaluation.experiment.ablations import SUMMARY_ONLY
from indexer.evaluation.experiment.conclusions import Results
from indexer.evaluation.experiment.paper_layout import grown
from indexer.evaluation.experiment.wording import generator_name, line_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "generator alone": "#9aa5b1",
    "personas, untrained": "#7fb3d5",
    "fused, untrained": "#1f618d",
    "personas, untrained, options": "#7dcea0",
    "fused, untrained, options": "#1e8449",
    "personas, trained": "#f0b27a",
    "fused, trained": "#b9770e",
    "personas, trained, options": "#d7bde2",
    "fused, trained, options": "#76448a",
}
"""The colour of each line of the main table."""


def figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of each picture."""
    yield "main.png", _main(results)
    yield "personas.png", _personas(results)
    yield "history.png", _history(results)
    if results["segments"]:
        yield "segments.png", _segments(results)
    if results["bench"]:
        yield "latency.png", _latency(results)


def _main(results: Results) -> Figure:
    counts = results["config"]["candidates"]
    figure, axes = _figure(len(counts), 5.6)
    for count, one in zip(counts, axes, strict=True):
        rows = [row for row in results["main"] if row["candidates"] == count]
        lines = _ordered(row["line"] for row in rows)
        generators = _ordered(row["generator"] for row in rows)
        width = 0.8 / len(lines)
        for number, line in enumerate(lines):
            own = [row["metrics"]["NDCG@10"] for row in rows if row["line"] == line]
            one.bar(
                [at + (number - (len(lines) - 1) / 2) * width for at in range(len(own))],
                [value["mean"] for value in own],
                width,
                yerr=_errors(own),
                label=line_name(line),
                color=COLOURS[line],
                error_kw={"elinewidth": 1, "ecolor": "#444444"},
            )
        one.set_xticks(range(len(generators)), [generator_name(one) for one in generators])
        one.set(title=f"{count} candidates", ylabel="NDCG@10")
        one.grid(visible=True, axis="y", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return _titled(figure, results)


def _personas(results: Results) -> Figure:
    counts = results["config"]["candidates"]
    figure, axes = _figure(len(counts), 4.2)
    for count, one in zip(counts, axes, strict=True):
        rows = [
            row for row in results["ablations"] if row["candidates"] == count and not row["fused"]
        ]
        most = results["config"]["personas"]
        for generator in _ordered(row["generator"] for row in rows):
            own = {row["name"]: row for row in rows if row["generator"] == generator}
            line = [own[f"at most {number} personas an item"]["mean"] for number in most]
            [drawn] = one.plot(most, line, "o-", label=generator_name(generator))
            if SUMMARY_ONLY in own:
                level = own[SUMMARY_ONLY]["mean"]
                one.axhline(level, ls=":", lw=1, color=drawn.get_color())
        one.set(
            title=f"{count} candidates (dotted: summaries alone)",
            xlabel="personas an item may have",
            ylabel="NDCG@10",
        )
        one.set_xticks(most)
        one.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize=8)
    return _titled(figure, results)


def _history(results: Results) -> Figure:
    lengths, decays = results["config"]["lengths"], results["config"]["decays"]
    value = {(row["length"], row["decay"]): row["valid"] for row in results["history"]}
    grid = [[value[length, decay] for decay in decays] for length in lengths]
    figure, [axes] = _figure(1, 3.6)
    image = axes.imshow(grid, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(decays)), [f"{decay:g}" for decay in decays])
    axes.set_yticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set(xlabel="decay", ylabel="interactions", title="validation NDCG@10, mean of generators")
    middle = (image.norm.vmin + image.norm.vmax) / 2
    for row, length in enumerate(lengths):
        for column, decay in enumerate(decays):
            shown = value[length, decay]
            colour = "white" if shown > middle else "black"
            axes.text(column, row, f"{shown:.4f}", ha="center", va="center", color=colour)
    return _titled(figure, results)


def _segments(results: Results) -> Figure:
    count = results["config"]["candidates"][0]
    generator = results["chosen"]["strongest"][str(count)]
    rows = [
        row
        for row in results["segments"]
        if row["candidates"] == count and row["generator"] == generator
    ]
    figure, [axes] = _figure(1, 4.2)
    lines = _ordered(row["line"] for row in rows)
    names = _ordered(f"{row['segment']}\n{row['rule']}: {row['users']}" for row in rows)
    width = 0.8 / len(lines)
    for number, line in enumerate(lines):
        own = [row for row in rows if row["line"] == line]
        axes.bar(
            [at + (number - (len(lines) - 1) / 2) * width for at in range(len(own))],
            [row["mean"] for row in own],
            width,
            yerr=_errors(own),
            label=line_name(line),
            color=COLOURS[line],
            error_kw={"elinewidth": 1, "ecolor": "#444444"},
        )
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(title=f"{generator_name(generator)}, {count} candidates", ylabel="NDCG@10")
    axes.grid(visible=True, axis="y", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return _titled(figure, results)


def _latency(results: Results) -> Figure:
    """Seconds until the last answer, by users and by candidates; measured cells are filled."""
    axes_of = grown(results["bench"])
    figure, axes = _figure(len(axes_of), 4.2)
    for (caption, values, rows), one in zip(axes_of, axes, strict=True):
        for peer, cells in rows:
            seconds = [cell["wall_s"] for cell in cells]
            [drawn] = one.plot(values, seconds, "o-", fillstyle="none", label=peer)
            measured = [place for place, cell in enumerate(cells) if cell["measured"]]
            one.plot(
                [values[place] for place in measured],
                [seconds[place] for place in measured],
                "o",
                color=drawn.get_color(),
            )
        one.set(xscale="log", yscale="log", xlabel=caption, ylabel="seconds")
        one.set_xticks(values, [str(value) for value in values])
        one.grid(visible=True, alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return _titled(figure, results)


def _figure(columns: int, height: float) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 5.6 * columns), height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _titled(figure: Figure, results: Results) -> Figure:
    if results["leaking"]:
        figure.suptitle("One variant of this experiment leaks, on purpose", color="#b03a2e", size=9)
    return figure


def _errors(rows: Sequence[Mapping[str, float]]) -> list[list[float]]:
    return [
        [row["mean"] - row["low"] for row in rows],
        [row["high"] - row["mean"] for row in rows],
    ]


def _ordered(values: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(values))
