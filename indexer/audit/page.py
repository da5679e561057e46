"""The audit as an HTML page: its headline figures, charts and examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from indexer.audit.figures import Audit, Found, Grounding, Histogram
from indexer.audit.formats import percent, plural
from indexer.audit.rows import MOST_POSITIONS, MOST_SLOTS, SIGNIFICANT, emptiest_slots
from indexer.audit.wording import groundings, leak_sentence, sampled, sections
from indexer.pages.charts import Bar, BarChart, BarGroup, HistogramChart, Series
from indexer.pages.rendering import render

_GOOD = {"low": "lower", "high": "higher", "none": "should be 0", "": ""}


@dataclass(frozen=True)
class Tile:
    """A headline figure."""

    value: str
    name: str
    bad: bool = False


def page(audit: Audit, name: str) -> str:
    """The page about the folder `name`; the most important sections come first."""
    parts = sorted(sections(audit), key=lambda section: section.rank)
    similarity = audit.similarity
    distinctness = similarity.distinctness if similarity else None
    return render(
        "audit.html",
        name=name,
        leak=leak_sentence(audit),
        problems=[one for one in parts if one.conclusion.problem],
        parts=parts,
        tiles=sorted(_tiles(audit), key=lambda tile: not tile.bad),
        bars={one.name: list(_bars(one.name, audit)) for one in parts},
        histograms={one.name: list(_histograms(one.name, audit)) for one in parts},
        defects={one.name: list(_defects(one.name, audit)) for one in parts},
        most_alike=distinctness.most_alike if distinctness else (),
        best_grounded=similarity.best_grounded if similarity else (),
        worst_grounded=similarity.worst_grounded if similarity else (),
        good=_GOOD,
        sampled=sampled(audit),
    )


def _tiles(audit: Audit) -> Iterator[Tile]:
    if audit.split_pairs is not None:
        yield Tile(f"{audit.leaks:,}", "held-out interactions used", bad=audit.leaks > 0)
    if audit.personas:
        mean = "-" if audit.personas.mean is None else f"{audit.personas.mean:.1f}"
        yield Tile(mean, f"personas per item, {audit.personas.items:,} items")
        if audit.personas.extractive:
            yield Tile(f"{audit.personas.extractive:,}", "extractive personas, made without an LLM")
        missing = audit.personas.without.count
        yield Tile(f"{missing:,}", "items without personas", bad=missing > 0)
    if audit.evidence and audit.evidence.coverage is not None:
        yield Tile(percent(audit.evidence.coverage), "of what users say is cited")
    if audit.evidence and audit.evidence.missing is not None:
        missing = audit.evidence.missing.count
        yield Tile(f"{missing:,}", "citations without evidence", bad=missing > 0)
    if audit.similarity and audit.similarity.rationales:
        found = audit.similarity.rationales.difference
        groundless = found.low is not None and found.low <= 0
        yield Tile(
            f"{found.mean:+.2f}",
            "similarity to the evidence, above random reviews",
            bad=groundless,
        )
    if audit.similarity and audit.similarity.distinctness:
        yield Tile(
            f"{audit.similarity.distinctness.mean:.2f}", "similarity among an item's personas"
        )
    if audit.alignments and audit.alignments.position_p is not None:
        p = audit.alignments.position_p
        biased = p < SIGNIFICANT
        yield Tile("found" if biased else "not found", f"position bias (p = {p:.4f})", bad=biased)
    if audit.similarity and audit.similarity.agreement:
        one = audit.similarity.agreement
        low = one.difference.low
        yield Tile(
            percent(one.agreement),
            f"of alignments choose the nearest persona (chance {one.chance:.0%})",
            bad=low is not None and low <= 0,
        )


def _bars(name: str, audit: Audit) -> Iterator[BarChart]:
    if name == "aspects" and audit.aspects and audit.aspects.nulls:
        slots = emptiest_slots(audit.aspects.nulls)[:MOST_SLOTS]
        bars = [Bar(slot, share, f"{percent(share)} empty") for slot, share in slots]
        yield BarChart(
            "How often each slot is empty. Every slot that is empty says less about the user.",
            [BarGroup("", bars)],
            maximum=1,
        )
    if name == "personas" and audit.personas and audit.personas.per_item:
        bars = [
            Bar(plural(count, "persona"), items, plural(items, "item"))
            for count, items in audit.personas.per_item.items()
        ]
        yield BarChart(
            "How many items have how many personas. A single persona cannot separate users.",
            [BarGroup("", bars)],
        )
    if name == "alignments" and audit.alignments and audit.alignments.positions:
        bars = [
            Bar(
                f"position {number}",
                one.chosen,
                f"{one.chosen:,} ({one.expected:,.0f} expected)",
                mark=one.expected,
            )
            for number, one in enumerate(audit.alignments.positions[:MOST_POSITIONS], 1)
        ]
        yield BarChart(
            "How often the persona at each position of its item's list is chosen. The dashed mark "
            "is the expected count under uniform choice.",
            [BarGroup("", bars)],
        )


def _histograms(name: str, audit: Audit) -> Iterator[HistogramChart]:
    similarity = audit.similarity
    if name == "evidence" and audit.evidence and audit.evidence.coverage_of_items:
        yield _histogram(
            "Items by the share of their aspect tuples that at least one persona cites. Items on "
            "the left lose the opinion of many users.",
            "share of tuples that is cited",
            "items",
            {"items": audit.evidence.coverage_of_items},
        )
    if name == "distinctness" and similarity and similarity.distinctness:
        one = similarity.distinctness
        yield _histogram(
            "Items by the similarity of their personas. The nearer an item is to the dashed line, "
            "the more its personas differ.",
            "similarity of an item's personas",
            "items",
            {"mean of all pairs": one.means, "most similar pair": one.maxima},
            None if one.others is None else (one.others, "personas of different items"),
        )
    if name == "grounding":
        yield from (_grounding(text, one) for text, one in groundings(audit))


def _grounding(text: str, one: Grounding) -> HistogramChart:
    return _histogram(
        f"Personas by the similarity of their {text} to their evidence and to as many random "
        "aspects of other items. Two separate hills: the evidence supports the persona.",
        f"similarity of the {text}",
        "personas",
        {"to its evidence": one.cited_of_personas, "to random aspects": one.random_of_personas},
    )


def _histogram(
    caption: str,
    axis: str,
    unit: str,
    series: Mapping[str, Histogram],
    line: tuple[float, str] | None = None,
) -> HistogramChart:
    edges: Sequence[float] = next(iter(series.values())).edges
    drawn = [Series(name, one.counts) for name, one in series.items()]
    return HistogramChart(caption, axis, unit, edges, drawn, line)


def _defects(name: str, audit: Audit) -> Iterator[tuple[str, Sequence[str]]]:
    """(title, examples) of each kind of defect that a section found."""
    found: list[tuple[str, Found | None]] = []
    if name == "personas" and audit.personas:
        found = [
            ("Items without personas", audit.personas.without),
            ("Items that use a name twice", audit.personas.same_name_items),
        ]
    if name == "evidence" and audit.evidence:
        found = [
            ("Citations of held-out interactions", audit.evidence.held_out),
            ("Citations of unknown users", audit.evidence.missing),
        ]
    if name == "alignments" and audit.alignments:
        found = [
            ("Alignments of held-out interactions", audit.alignments.held_out),
            ("Alignments to unknown personas", audit.alignments.unknown),
        ]
    for title, one in found:
        if one and one.count:
            shown = len(one.examples)
            more = f", the first {shown}" if one.count > shown else ""
            yield f"{title}: {one.count:,}{more}", one.examples
