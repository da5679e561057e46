"""The table rows of an audit: each figure with its name, its meaning and the good direction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from indexer.artifacts.names import ASPECTS
from indexer.audit.figures import (
    Agreement,
    AlignmentFigures,
    AspectFigures,
    Distinctness,
    EvidenceFigures,
    Found,
    Grounding,
    PersonaFigures,
)
from indexer.audit.formats import count_of, difference, found_of, percent, slot_name

Good = Literal["low", "high", "none", ""]
"""The good direction; "none": every occurrence is a defect."""

MOST_SLOTS = 12
"""Number of slots that get a row of their own."""
MOST_POSITIONS = 10
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Row:
    """One figure.

    alarm: a leak, which invalidates every result that is built on it. charted: the page shows it
    as a chart and needs no row.
    """

    name: str
    value: str
    meaning: str
    good: Good = ""
    alarm: bool = False
    charted: bool = False


def emptiest_slots(nulls: Mapping[str, float]) -> list[tuple[str, float]]:
    """(slot as words, share of tuples without it), the emptiest first."""
    ordered = sorted(nulls.items(), key=lambda slot: (-slot[1], slot[0]))
    return [(slot_name(slot), share) for slot, share in ordered]


def aspect_rows(figures: AspectFigures) -> Iterator[Row]:
    """Rows on aspects.jsonl."""
    yield Row(
        "aspect tuples",
        f"{figures.tuples:,}",
        f"from {figures.users:,} users on {figures.items:,} items; one tuple holds what one "
        "review says, slot by slot",
    )
    slots = emptiest_slots(figures.nulls)
    for slot, share in slots[:MOST_SLOTS]:
        yield Row(
            f"empty: {slot}",
            percent(share),
            "share of tuples without this slot",
            "low",
            charted=True,
        )
    if len(slots) > MOST_SLOTS:
        yield Row(
            "other slots", f"{len(slots) - MOST_SLOTS:,}", "filled more often than the slots above"
        )
    yield Row(
        "tuples without content",
        count_of(figures.empty, figures.tuples),
        "all slots are empty, so the tuple supports no persona",
        "none",
    )
    yield Row(
        "repeated tuples", f"{figures.repeated:,}", "the same user and item appear again", "none"
    )
    yield Row(
        "tuples of held-out interactions",
        f"{figures.held_out:,}",
        "harmless while no persona and no alignment is made from them; evidence, grounding and "
        "agreement leave them out",
        "low",
    )


def persona_rows(figures: PersonaFigures) -> Iterator[Row]:
    """Rows on personas.jsonl."""
    mean = "-" if figures.mean is None else f"{figures.mean:.2f}"
    spread = ", ".join(f"{count}: {items:,}" for count, items in figures.per_item.items())
    yield Row("personas", f"{figures.personas:,}", f"of {figures.items:,} items, {mean} per item")
    yield Row(
        "extractive personas",
        count_of(figures.extractive, figures.personas),
        "quote sentences of reviews; no LLM wrote them",
    )
    yield Row(
        "items by number of personas",
        spread or "-",
        "number of personas: number of items; two to seven personas are usual",
        charted=True,
    )
    yield Row(
        "items without personas",
        found_of(figures.without),
        "cannot be reranked and keep the order of the candidate generator",
        "none",
    )
    yield Row(
        "items that use a name twice",
        found_of(figures.same_name_items),
        "two personas of the item have the same name, so readers cannot tell them apart",
        "none",
    )
    yield Row(
        "names used by several items",
        count_of(figures.shared_names, figures.names),
        "a few are normal; many suggest stereotypes instead of personas of this item",
        "low",
    )
    if figures.top_names:
        names = ", ".join(f"{name} ({count:,})" for name, count in figures.top_names)
        yield Row("most used names", names, "in brackets: the number of items")


def evidence_rows(figures: EvidenceFigures, *, has_splits: bool) -> Iterator[Row]:
    """Rows on the users that personas cite."""
    yield Row("citations", f"{figures.cited:,}", "users that personas cite as evidence")
    yield _leak_row(figures.held_out, "citations", has_splits=has_splits)
    if figures.missing is None:
        yield Row("citations of unknown users", "-", f"not checked: there is no {ASPECTS}")
    else:
        yield Row(
            "citations of unknown users",
            found_of(figures.missing, figures.cited),
            "the user says nothing about the item: the evidence does not exist",
            "none",
        )
    yield Row(
        "personas without evidence",
        f"{figures.unsupported:,}",
        "cite no user although users describe the item",
        "low",
    )
    yield Row(
        "personas of undescribed items",
        f"{figures.unseen:,}",
        "cite no user because no user describes the item",
    )
    yield Row(
        "coverage",
        percent(figures.coverage),
        "share of an item's aspect tuples that at least one persona cites, averaged over items: "
        "are all reviewers heard?",
        "high",
    )
    yield Row(
        "coverage of all tuples",
        percent(figures.coverage_of_tuples),
        "the same share over all tuples; much lower than coverage where items with many reviews "
        "lose reviewers",
        "high",
    )


def alignment_rows(figures: AlignmentFigures, *, has_splits: bool) -> Iterator[Row]:
    """Rows on alignments.jsonl."""
    yield Row(
        "alignments",
        f"{figures.alignments:,}",
        f"of {figures.users:,} users with {figures.items:,} items",
    )
    yield _leak_row(figures.held_out, "alignments", has_splits=has_splits)
    yield Row(
        "alignments to unknown personas",
        found_of(figures.unknown, figures.alignments) if figures.unknown else "-",
        "the item has no such persona, so training cannot use the line",
        "none",
    )
    yield Row(
        "alignments without a justification",
        count_of(figures.unjustified, figures.alignments),
        "the reason for the choice cannot be checked",
        "low",
    )
    if figures.evenness is not None and figures.evenness_uniform is not None:
        yield Row(
            "balance",
            f"{figures.evenness:.2f} (uniform choice: {figures.evenness_uniform:.2f})",
            "1: the personas of an item are chosen equally often (entropy of the choices); far "
            "below uniform choice: a few personas get all choices, the others are not trained",
            "high",
        )
    if figures.position_p is not None:
        positions = ", ".join(
            f"P{number} {one.chosen:,} ({one.expected:,.0f})"
            for number, one in enumerate(figures.positions[:MOST_POSITIONS], 1)
        )
        yield Row(
            "choices by position",
            positions,
            "in brackets: expected under uniform choice",
            charted=True,
        )
        biased = figures.position_p < SIGNIFICANT
        yield Row(
            "position bias",
            f"{'found' if biased else 'not found'}, p = {figures.position_p:.4f}",
            (
                "the position in the list matters: the judge is biased, or the list is sorted by "
                "the number of supporting users"
                if biased
                else "the choices are no more uneven than uniform choice"
            ),
        )


def distinctness_rows(figures: Distinctness) -> Iterator[Row]:
    """Rows on how similar the personas of an item are."""
    others = "" if figures.others is None else f" (different items: {figures.others:.2f})"
    yield Row(
        "mean similarity of an item's personas",
        f"{figures.mean:.2f}{others}",
        f"average over {figures.items:,} items with two personas or more",
        "low",
    )
    yield Row(
        "similarity of the most similar pair",
        f"{figures.maximum:.2f}",
        "average over items; near 1, two personas say the same",
        "low",
    )


def grounding_rows(text: str, figures: Grounding) -> Iterator[Row]:
    """Rows on how similar a text of personas ("rationale", "description") is to its evidence."""
    yield Row(
        f"similarity of the {text} to its evidence",
        f"{figures.cited:.2f} (random aspects: {figures.random:.2f})",
        f"average over {figures.personas:,} personas of {figures.items:,} items; random aspects "
        "come from other items",
        "high",
    )
    yield Row(
        f"grounding of the {text}",
        difference(figures.difference),
        "difference of the two, with 95% interval; near 0, the text does not use its evidence",
        "high",
    )


def agreement_rows(figures: Agreement) -> Iterator[Row]:
    """Rows on how often an alignment is the persona nearest to the user's words."""
    yield Row(
        "agreement",
        f"{figures.agreement:.1%} (chance: {figures.chance:.1%})",
        f"share of {figures.alignments:,} alignments ({figures.items:,} items) that choose the "
        "persona nearest to what the user says about the item",
        "high",
    )
    yield Row(
        "agreement above chance",
        difference(figures.difference, scale=100, unit=" points"),
        "with 95% interval; near 0, the choice does not depend on what the user says. A judge "
        "that sees more than the user's own words need not reach 100%",
        "high",
    )


def _leak_row(found: Found, what: str, *, has_splits: bool) -> Row:
    name = f"LEAK: held-out {what}" if found.count else f"held-out {what}"
    if not has_splits:
        return Row(name, "-", "not checked: there is no splits.jsonl")
    meaning = "made from interactions that training must not see: an evaluation knows the answers"
    return Row(name, found_of(found), meaning, "none", alarm=bool(found.count))
