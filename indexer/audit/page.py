"""The audit as one self-contained page: no scripts, no outside resources, light and dark.

The texts of a data set are untrusted. They get into the page through `_text` alone, never into a
plot, and the page's own policy forbids a browser to run or fetch anything.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from string import Template
from typing import TYPE_CHECKING, Any

from indexer.audit.figures import Alike, Audit, Found, Grounded, Grounding, Histogram
from indexer.audit.wording import (
    MOST_SLOTS,
    SIGNIFICANT,
    Section,
    difference,
    leak_sentence,
    percent,
    sampled,
    sections,
)
from p4r_qdrant.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#010203"
"""Stands for the text colour of the page, light or dark."""
_FIRST, _SECOND = "#3b7dd8", "#e08a1e"
_GOOD = {"low": "lower is better", "high": "higher is better", "none": "none is right", "": ""}


def check_plots() -> None:
    """Raise MissingExtraError where plots cannot be drawn: better before the audit than after."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "a page with plots needs matplotlib: pip install 'p4r-qdrant[data]'"
        )


def page(audit: Audit, name: str) -> str:
    """The whole page about the folder `name`. Raises MissingExtraError without matplotlib."""
    check_plots()
    leak = leak_sentence(audit)
    told = sections(audit)
    return _PAGE.substitute(
        name=_text(name),
        leak=f'<p class="leak">{_text(leak)}</p>' if leak else "",
        tiles="".join(_tiles(audit)),
        sections="".join(_section(one, audit) for one in told),
        sampled=_text(sampled(audit)),
    )


def _text(value: str) -> str:
    """Untrusted text: escaped, and kept from turning the direction of what follows."""
    return f"<bdi>{html.escape(value)}</bdi>"


def _tiles(audit: Audit) -> Iterator[str]:
    """The headline figures."""
    if audit.split_pairs is not None:
        yield _tile(f"{audit.leaks:,}", "held-out interactions used", bad=audit.leaks > 0)
    if audit.personas:
        mean = "-" if audit.personas.mean is None else f"{audit.personas.mean:.1f}"
        yield _tile(mean, f"personas an item, {audit.personas.items:,} items")
        missing = audit.personas.without.count
        yield _tile(f"{missing:,}", "items without personas", bad=missing > 0)
    if audit.evidence and audit.evidence.coverage is not None:
        yield _tile(percent(audit.evidence.coverage), "of what reviewers say is cited")
    if audit.evidence and audit.evidence.missing is not None:
        missing = audit.evidence.missing.count
        yield _tile(f"{missing:,}", "citations that do not exist", bad=missing > 0)
    if audit.similarity and audit.similarity.rationales:
        found = audit.similarity.rationales.difference
        groundless = found.low is not None and found.low <= 0
        yield _tile(f"{found.mean:+.2f}", "similarity to evidence, over random", bad=groundless)
    if audit.similarity and audit.similarity.distinctness:
        yield _tile(
            f"{audit.similarity.distinctness.mean:.2f}", "similarity among an item's personas"
        )
    if audit.alignments and audit.alignments.position_p is not None:
        chance = audit.alignments.position_p
        uneven = chance < SIGNIFICANT
        yield _tile(
            "uneven" if uneven else "even",
            f"choices over the places of an item's list (p = {chance:.4f})",
            bad=uneven,
        )
    if audit.similarity and audit.similarity.agreement:
        one = audit.similarity.agreement
        yield _tile(
            percent(one.agreement), f"agree with the nearest persona (chance {one.chance:.0%})"
        )


def _tile(value: str, what: str, *, bad: bool = False) -> str:
    kind = "tile bad" if bad else "tile"
    return f'<div class="{kind}"><b>{_text(value)}</b><span>{_text(what)}</span></div>'


def _section(section: Section, audit: Audit) -> str:
    head = f'<section id="{section.name}"><h2>{_text(section.title)}</h2>'
    if not section.rows:
        return f'{head}<p class="absent">Not there: {_text(section.absent)}.</p></section>'
    rows = "".join(
        f"<tr{' class=alarm' if row.alarm else ''}><th>{_text(row.name)}</th>"
        f"<td>{_text(row.value)}</td><td>{_text(row.meaning)}"
        f"{f' <em>{_GOOD[row.good]}</em>' if row.good else ''}</td></tr>"
        for row in section.rows
    )
    plot, more = _plot(section.name, audit), _more(section.name, audit)
    return f"{head}{plot}<table>{rows}</table>{more}</section>"


def _plot(name: str, audit: Audit) -> str:
    """The section's plot with a sentence on how to read it; empty where it has none."""
    similarity = audit.similarity
    if name == "aspects" and audit.aspects:
        bars = sorted(audit.aspects.nulls.items(), key=lambda one: (-one[1], one[0]))
        return "".join(
            f'<div class="bar"><span>{_text(slot)}</span>'
            f'<i><i style="width: {share:.1%}"></i></i>'
            f"<span>{percent(share)} empty</span></div>"
            for slot, share in bars[:MOST_SLOTS]
        )
    if name == "personas" and audit.personas and audit.personas.per_item:
        counts = audit.personas.per_item
        return _figure(
            _bars([str(one) for one in counts], list(counts.values()), "personas", "items"),
            "How many items have so many personas. One alone cannot tell readers apart.",
        )
    if name == "evidence" and audit.evidence and audit.evidence.coverage_of_items:
        return _figure(
            _histograms({"items": audit.evidence.coverage_of_items}, "share cited", "items"),
            "Items by the share of their reviewers' aspects that some persona cites. Items far to "
            "the left have lost voices.",
        )
    if name == "alignments" and audit.alignments and audit.alignments.positions:
        shown = audit.alignments.positions[:10]
        return _figure(
            _bars(
                [f"P{place}" for place in range(1, len(shown) + 1)],
                [one.chosen for one in shown],
                "place of the chosen persona in its item's list",
                "alignments",
                [one.expected for one in shown],
            ),
            "Bars: how often the persona at that place was chosen. Marks: what uniform choice "
            "would give. Bars that fall from left to right say that the place matters.",
        )
    if name == "distinctness" and similarity and similarity.distinctness:
        one = similarity.distinctness
        return _figure(
            _histograms(
                {"mean of all pairs": one.means, "most alike pair": one.maxima},
                "similarity of an item's personas",
                "items",
                one.others,
            ),
            "Items by how alike their personas are. The dashed line is the similarity of personas "
            "of different items: the nearer to it, the more distinct.",
        )
    if name == "grounding" and similarity:
        told = [
            (what, one)
            for what, one in (
                ("rationale", similarity.rationales),
                ("description", similarity.descriptions),
            )
            if one
        ]
        return "".join(_grounding(what, one) for what, one in told)
    return ""


def _grounding(what: str, one: Grounding) -> str:
    return _figure(
        _histograms(
            {"what it cites": one.cited_of_personas, "random aspects": one.random_of_personas},
            f"similarity of the {what}",
            "personas",
        ),
        f"Personas by the similarity of their {what} to what they cite and to as many random "
        f"aspects of other items. Difference: {difference(one.difference)}. Two hills apart: the "
        "evidence carries the persona. One hill: it is decoration.",
    )


def _more(name: str, audit: Audit) -> str:
    """Examples."""
    similarity = audit.similarity
    if name == "distinctness" and similarity and similarity.distinctness:
        return _examples("Most alike pairs", map(_alike, similarity.distinctness.most_alike))
    if name == "grounding" and similarity:
        return _examples("Best grounded", map(_grounded, similarity.best_grounded)) + _examples(
            "Worst grounded", map(_grounded, similarity.worst_grounded)
        )
    return "".join(
        _examples(f"{title}: {one.count:,}, the first", map(_line, one.examples))
        for title, one in _defects(name, audit)
        if one and one.count
    )


def _defects(name: str, audit: Audit) -> list[tuple[str, Found | None]]:
    """What a section found wrong, with its title."""
    if name == "personas" and audit.personas:
        return [
            ("Items without personas", audit.personas.without),
            ("Items that use a name twice", audit.personas.same_name_items),
        ]
    if name == "evidence" and audit.evidence:
        return [
            ("Citations of held-out interactions", audit.evidence.held_out),
            ("Citations of nobody", audit.evidence.missing),
        ]
    if name == "alignments" and audit.alignments:
        return [
            ("Alignments of held-out interactions", audit.alignments.held_out),
            ("Alignments to unknown personas", audit.alignments.unknown),
        ]
    return []


def _examples(title: str, cards: Iterable[str]) -> str:
    told = "".join(cards)
    return f"<h3>{_text(title)}</h3>{told}" if told else ""


def _line(example: str) -> str:
    return f'<p class="card">{_text(example)}</p>'


def _alike(pair: Alike) -> str:
    both = "".join(
        f"<p><b>{_text(name)}</b> {_text(description)}</p>"
        for name, description in zip(pair.names, pair.descriptions, strict=True)
    )
    return (
        f'<div class="card"><p class="of">{_text(pair.item)}, similarity '
        f"{pair.similarity:.2f}</p>{both}</div>"
    )


def _grounded(one: Grounded) -> str:
    cited = "".join(f"<li>{_text(text)}</li>" for text in one.cited)
    return (
        f'<div class="card"><p class="of">{_text(one.item)}, similarity {one.similarity:.2f}</p>'
        f"<p><b>{_text(one.name)}</b> {_text(one.rationale)}</p>"
        f"<p>cites</p><ul>{cited}</ul></div>"
    )


# --- plots: they hold numbers and our own words, never a text of the data -----------------------


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{_text(caption)}</figcaption></figure>"


def _axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel, color=_INK)
    axes.set_ylabel(ylabel, color=_INK)
    axes.tick_params(colors=_INK)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_color(_INK)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _bars(
    names: Sequence[str],
    counts: Sequence[float],
    xlabel: str,
    ylabel: str,
    marks: Sequence[float] = (),
) -> str:
    figure, axes = _axes(xlabel, ylabel)
    drawn = axes.bar(names, counts, color=_FIRST)
    axes.bar_label(drawn, [f"{count:,}" for count in counts], color=_INK, fontsize=8)
    axes.margins(y=0.15)
    if marks:
        axes.scatter(
            names, marks, marker="_", s=500, linewidths=3, color=_SECOND, label="uniform choice"
        )
        _legend(axes)
    return _svg(figure, f"{ylabel} by {xlabel}")


def _histograms(
    told: dict[str, Histogram], xlabel: str, ylabel: str, line: float | None = None
) -> str:
    figure, axes = _axes(xlabel, ylabel)
    for (name, one), colour in zip(told.items(), (_FIRST, _SECOND), strict=False):
        axes.stairs(
            one.counts, one.edges, fill=True, alpha=0.55, color=colour, edgecolor=colour, label=name
        )
    if line is not None:
        axes.axvline(line, color=_INK, linestyle="--", linewidth=1, label="different items")
    if len(told) > 1:
        _legend(axes)
    return _svg(figure, f"{ylabel} by {xlabel}")


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, labelcolor=_INK, fontsize=8)


def _svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element in the page's own text colour."""
    import matplotlib

    file = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # A salt makes the same figures the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": label, "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Audit</title>
<style>
:root { color-scheme: light dark; --ink: #1d2129; --paper: #fff; --soft: #667; --line: #ccd2dc;
  --card: #f4f6f9; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --paper: #15181d; --soft: #9aa3b2;
  --line: #333a46; --card: #1f242c; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.leak { border: 2px solid var(--bad); color: var(--bad); padding: .8rem 1rem; font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: .8rem; }
.tile { background: var(--card); border-radius: .5rem; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.5rem; } .tile span { color: var(--soft); font-size: .9rem; }
.tile.bad b, .alarm th, .alarm td { color: var(--bad); font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem;
  border-top: 1px solid var(--line); }
th { width: 24%; } td + td { color: var(--soft); width: 44%; } em { color: var(--ink); }
figure { margin: 1rem 0; } figure svg { width: 100%; max-width: 42rem; height: auto; }
figcaption, .absent, .of, footer { color: var(--soft); font-size: .9rem; }
.bar { display: grid; grid-template-columns: 14rem 1fr 7rem; gap: .8rem; align-items: center; }
.bar > i { background: var(--line); height: .6rem; } .bar i i { display: block; height: 100%;
  background: #e08a1e; }
.card { background: var(--card); border-radius: .5rem; padding: .6rem 1rem; margin: .6rem 0; }
.card p { margin: .3rem 0; }
@media (max-width: 40rem) { .bar { grid-template-columns: 1fr; gap: 0; } }
</style>
</head>
<body>
<h1>Audit of $name</h1>
<p>What the personas of a catalogue are worth: whether they stand on what reviewers said, whether
they differ, and whether the alignments that a model is trained with can be trusted.</p>
$leak
<div class="tiles">$tiles</div>
$sections
<footer><p>$sampled</p></footer>
</body>
</html>""")
