"""The figures in words, for table and page: what each means and which direction is good."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from indexer.artifacts.names import ALIGNMENTS, ASPECTS, PERSONAS
from indexer.audit.figures import (
    Agreement,
    AlignmentFigures,
    AspectFigures,
    Audit,
    Distinctness,
    EvidenceFigures,
    Found,
    Grounding,
    Interval,
    PersonaFigures,
)

Good = Literal["low", "high", "none", ""]
"""Which direction is good; "none": any at all is a defect."""

MOST_SLOTS = 12
"""Slots that are told one by one."""
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Row:
    """One figure. `alarm`: it is a defect that spoils what is built on it."""

    name: str
    value: str
    meaning: str
    good: Good = ""
    alarm: bool = False


@dataclass(frozen=True)
class Section:
    """One subject; without rows, `absent` says why."""

    name: str
    title: str
    rows: tuple[Row, ...] = ()
    absent: str = ""


def leak_sentence(audit: Audit) -> str:
    """What is said loudly; empty where nothing leaks."""
    if not audit.leaks:
        return ""
    parts = []
    if audit.evidence and audit.evidence.held_out.count:
        parts.append(f"{_many(audit.evidence.held_out.count, 'citation')} in {PERSONAS}")
    if audit.alignments and audit.alignments.held_out.count:
        parts.append(f"{_many(audit.alignments.held_out.count, 'line')} of {ALIGNMENTS}")
    return (
        f"LEAK: {' and '.join(parts)} made from interactions that splits.jsonl holds out; "
        "an evaluation with these files knows the answers: make them again from training "
        "interactions only"
    )


def sections(audit: Audit) -> list[Section]:
    """All subjects, in the order the artifacts build on each other."""
    no_personas = f"there is no {PERSONAS} in the folder"
    similarity = audit.similarity
    if audit.personas is None:
        no_encoder = no_personas
    elif similarity is None:
        no_encoder = "left out: no encoder, or no item with personas"
    else:
        no_encoder = "nothing to compare in the sampled items"
    distinct = similarity.distinctness if similarity else None
    grounded = [
        (name, one)
        for name, one in (
            ("rationale", similarity.rationales if similarity else None),
            ("description", similarity.descriptions if similarity else None),
        )
        if one is not None
    ]
    agreement = similarity.agreement if similarity else None
    told: list[tuple[str, str, Iterator[Row] | None, str]] = [
        (
            "aspects",
            "Aspects: what reviews tell, slot by slot",
            _aspects(audit.aspects) if audit.aspects else None,
            f"there is no {ASPECTS} in the folder",
        ),
        (
            "personas",
            "Personas of an item, and their names",
            _personas(audit.personas) if audit.personas else None,
            no_personas,
        ),
        (
            "evidence",
            "Evidence: whom personas cite",
            _evidence(audit.evidence, audit) if audit.evidence else None,
            no_personas,
        ),
        (
            "distinctness",
            "Distinctness: do an item's personas differ",
            _distinctness(distinct) if distinct else None,
            no_encoder,
        ),
        (
            "grounding",
            "Grounding: do personas say what their evidence says",
            (row for name, one in grounded for row in _grounding(name, one)) if grounded else None,
            no_encoder,
        ),
        (
            "alignments",
            "Alignments: which persona explains a choice",
            _alignments(audit.alignments, audit) if audit.alignments else None,
            f"there is no {ALIGNMENTS} in the folder",
        ),
        (
            "agreement",
            "Agreement of the alignments with the nearest persona",
            _agreement(agreement) if agreement else None,
            no_encoder if audit.alignments else f"there is no {ALIGNMENTS} in the folder",
        ),
    ]
    return [
        Section(name, title, tuple(rows)) if rows is not None else Section(name, title, (), absent)
        for name, title, rows, absent in told
    ]


def sampled(audit: Audit) -> str:
    """What the figures that need an encoder were measured on; empty without them."""
    one = audit.similarity
    if one is None:
        return ""
    return (
        f"Distinctness, grounding and agreement: {one.items:,} of {one.of_items:,} items with "
        f"personas (seed {one.seed}), encoder {one.encoder}. Similarity is the cosine of two "
        "texts' vectors: 1 says the same, near 0 has nothing in common. It depends on the encoder: "
        "compare folders with the same one only."
    )


def percent(share: float | None) -> str:
    """A share for people."""
    return "-" if share is None else f"{share:.1%}"


def _aspects(figures: AspectFigures) -> Iterator[Row]:
    yield Row(
        "tuples",
        f"{figures.tuples:,}",
        f"of {figures.items:,} items by {figures.users:,} users",
    )
    slots = sorted(figures.nulls.items(), key=lambda one: (-one[1], one[0]))
    for slot, share in slots[:MOST_SLOTS]:
        yield Row(f"empty: {slot}", percent(share), "share of tuples without it", "low")
    if len(slots) > MOST_SLOTS:
        yield Row("more slots", f"{len(slots) - MOST_SLOTS:,}", "filled more often than these")
    yield Row(
        "tuples with nothing",
        _of(figures.empty, figures.tuples),
        "all slots empty: they support nothing and cost space",
        "none",
    )
    yield Row(
        "repeated tuples", f"{figures.repeated:,}", "a user and item that came before", "none"
    )
    yield Row(
        "tuples of held-out interactions",
        f"{figures.held_out:,}",
        "no harm as long as nothing is made from them; no figure but this counts them as aspects",
        "low",
    )


def _personas(figures: PersonaFigures) -> Iterator[Row]:
    spread = ", ".join(f"{count}: {items:,}" for count, items in figures.per_item.items())
    mean = "-" if figures.mean is None else f"{figures.mean:.2f}"
    yield Row("personas", f"{figures.personas:,}", f"of {figures.items:,} items, {mean} an item")
    yield Row("items by number of personas", spread or "-", "two to seven are usual")
    yield Row(
        "items without personas",
        _seen(figures.without),
        "they cannot be reranked and keep the generator's order",
        "none",
    )
    yield Row(
        "items that use a name twice",
        _seen(figures.same_name_items),
        "two personas of one item that people cannot tell apart",
        "none",
    )
    yield Row(
        "names used by several items",
        _of(figures.shared_names, figures.names),
        "few are natural; many say that personas are stereotypes, not of this item",
        "low",
    )
    if figures.top_names:
        names = ", ".join(f"{name} ({count:,})" for name, count in figures.top_names)
        yield Row("most used names", names, "with the number of items")


def _evidence(figures: EvidenceFigures, audit: Audit) -> Iterator[Row]:
    yield Row("citations", f"{figures.cited:,}", "users that personas name as evidence")
    yield _leak(figures.held_out, "citations", audit)
    if figures.missing is None:
        yield Row("citations of nobody", "-", f"there is no {ASPECTS} to look in")
    else:
        yield Row(
            "citations of nobody",
            _seen(figures.missing, figures.cited),
            "the user says nothing of that item: the evidence does not exist",
            "none",
        )
    yield Row(
        "personas without evidence",
        f"{figures.unsupported:,}",
        "cite nobody though somebody says something of their item",
        "low",
    )
    yield Row("personas of unreviewed items", f"{figures.unseen:,}", "cite nobody: nobody is there")
    yield Row(
        "coverage",
        percent(figures.coverage),
        "share of an item's tuples that some persona cites, mean over items: whose voice is heard",
        "high",
    )
    yield Row(
        "coverage of all tuples",
        percent(figures.coverage_of_tuples),
        "the same over all tuples: much lower where items with many reviews lose voices",
        "high",
    )


def _alignments(figures: AlignmentFigures, audit: Audit) -> Iterator[Row]:
    yield Row(
        "alignments",
        f"{figures.alignments:,}",
        f"of {figures.users:,} users with {figures.items:,} items",
    )
    yield _leak(figures.held_out, "alignments", audit)
    yield Row(
        "alignments to unknown personas",
        _seen(figures.unknown, figures.alignments) if figures.unknown else "-",
        "no such persona: training cannot use them",
        "none",
    )
    yield Row(
        "alignments without a justification",
        _of(figures.unjustified, figures.alignments),
        "nobody can check why",
        "low",
    )
    if figures.evenness is not None and figures.evenness_uniform is not None:
        yield Row(
            "balance",
            f"{figures.evenness:.2f} (uniform choice: {figures.evenness_uniform:.2f})",
            "entropy of an item's choices, 1 when each persona is chosen alike; far below uniform: "
            "few personas take all, and the rest learn nothing",
            "high",
        )
    if figures.position_p is not None:
        places = ", ".join(
            f"P{place} {one.chosen:,} ({one.expected:,.0f})"
            for place, one in enumerate(figures.positions[:10], 1)
        )
        yield Row("chosen by place in the list", places, "beside what uniform choice would give")
        matters = figures.position_p < SIGNIFICANT
        yield Row(
            "position bias",
            f"{'uneven' if matters else 'even'}, p = {figures.position_p:.4f}",
            (
                "the place in the list matters: a biased judge, or personas listed by how many "
                "they speak for"
                if matters
                else "no more uneven than uniform choice would be"
            ),
        )


def _distinctness(figures: Distinctness) -> Iterator[Row]:
    others = "" if figures.others is None else f" (of different items: {figures.others:.2f})"
    yield Row(
        "mean similarity of an item's personas",
        f"{figures.mean:.2f}{others}",
        f"over {figures.items:,} items with two personas or more",
        "low",
    )
    yield Row(
        "similarity of its most alike pair",
        f"{figures.maximum:.2f}",
        "mean over items; near 1, two personas are one",
        "low",
    )


def _grounding(what: str, figures: Grounding) -> Iterator[Row]:
    yield Row(
        f"{what} to what it cites",
        f"{figures.cited:.2f} (random aspects: {figures.random:.2f})",
        f"mean similarity over {figures.personas:,} personas of {figures.items:,} items; "
        "random ones are of other items",
        "high",
    )
    yield Row(
        f"grounding of the {what}",
        difference(figures.difference),
        "the difference, with its 95 % interval; about 0: the evidence is decoration",
        "high",
    )


def _agreement(figures: Agreement) -> Iterator[Row]:
    yield Row(
        "agreement",
        f"{figures.agreement:.1%} (chance: {figures.chance:.1%})",
        f"of {figures.alignments:,} alignments of {figures.items:,} items, those with the persona "
        "nearest to what the user says of the item",
        "high",
    )
    yield Row(
        "agreement over chance",
        difference(figures.difference, scale=100, unit=" points"),
        "with its 95 % interval; about 0: the alignments say nothing of the user. A judge that "
        "sees other things than the user's own words need not reach 100 %",
        "high",
    )


def difference(found: Interval, scale: float = 1, unit: str = "") -> str:
    """A difference and its interval for people."""
    digits = 2 if scale == 1 else 1
    mean = f"{scale * found.mean:+.{digits}f}{unit}"
    if found.low is None or found.high is None:
        return f"{mean} (too few items for an interval)"
    return f"{mean} ({scale * found.low:+.{digits}f} to {scale * found.high:+.{digits}f})"


def _leak(found: Found, what: str, audit: Audit) -> Row:
    name = f"LEAK: held-out {what}" if found.count else f"held-out {what}"
    if audit.split_pairs is None:
        return Row(name, "-", "there is no splits.jsonl to tell what is held out")
    meaning = "made from interactions that training must not see: evaluation knows the answers"
    return Row(name, _seen(found), meaning, "none", alarm=bool(found.count))


def _seen(found: Found, of: int | None = None) -> str:
    count = f"{found.count:,}" if of is None else _of(found.count, of)
    if not found.examples:
        return count
    return f"{count}: {found.examples[0]}{' ...' if found.count > 1 else ''}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _of(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else f"{count:,}"
