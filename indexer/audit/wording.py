"""An audit in sentences: its sections, what each one says, and the warning of a leak."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from indexer.artifacts.names import ALIGNMENTS, ASPECTS, PERSONAS
from indexer.audit.figures import (
    Agreement,
    AlignmentFigures,
    AspectFigures,
    Audit,
    Distinctness,
    EvidenceFigures,
    Grounding,
    PersonaFigures,
)
from indexer.audit.formats import percent, plural
from indexer.audit.rows import (
    SIGNIFICANT,
    Row,
    agreement_rows,
    alignment_rows,
    aspect_rows,
    distinctness_rows,
    emptiest_slots,
    evidence_rows,
    grounding_rows,
    persona_rows,
)


@dataclass(frozen=True)
class Conclusion:
    """What a section says, in one or two sentences. `problem`: something needs to be fixed."""

    text: str
    problem: bool = False


@dataclass(frozen=True)
class Section:
    """One subject. Without rows, `absent` says why."""

    name: str
    title: str
    rows: tuple[Row, ...] = ()
    conclusion: Conclusion = Conclusion("")
    absent: str = ""

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """Sorts by importance: a leak, another problem, figures, no figures."""
        leak = any(row.alarm for row in self.rows)
        return (not leak, not self.conclusion.problem, not self.rows)


def leak_sentence(audit: Audit) -> str:
    """The warning of a leak; empty without one."""
    if not audit.leaks:
        return ""
    parts = []
    if audit.evidence and audit.evidence.held_out.count:
        parts.append(f"{plural(audit.evidence.held_out.count, 'citation')} in {PERSONAS}")
    if audit.alignments and audit.alignments.held_out.count:
        parts.append(f"{plural(audit.alignments.held_out.count, 'line')} of {ALIGNMENTS}")
    return (
        f"LEAK: {' and '.join(parts)} made from interactions that splits.jsonl holds out, so an "
        "evaluation with these files knows the answers; make them again from training "
        "interactions only"
    )


def sampled(audit: Audit) -> str:
    """The sample and encoder of similarities, and texts that it cannot read whole; else empty."""
    figures = audit.similarity
    if figures is None:
        return ""
    measured = (
        f"Distinctness, grounding and agreement are measured on {figures.items:,} of "
        f"{figures.of_items:,} items with personas (seed {figures.seed}), encoder "
        f"{figures.encoder}. Similarity is the cosine of two text vectors: 1 means the same, near "
        "0 means nothing in common. It depends on the encoder, so compare folders with the same "
        "encoder only."
    )
    return " ".join([measured, *(f"{one}." for one in figures.too_long)])


def sections(audit: Audit) -> list[Section]:
    """All subjects, in the order in which the artifacts build on each other."""
    has_splits = audit.split_pairs is not None
    no_aspects, no_personas, no_alignments = (
        f"there is no {name} in the folder" for name in (ASPECTS, PERSONAS, ALIGNMENTS)
    )
    similarity = audit.similarity
    if audit.personas is None:
        no_similarity = no_personas
    elif similarity is None:
        no_similarity = "no encoder was used, or no item has personas"
    else:
        no_similarity = "the sampled items hold nothing to compare"
    distinctness = similarity.distinctness if similarity else None
    agreement = similarity.agreement if similarity else None
    return [
        _section(
            "aspects",
            "Aspects: what reviews say, slot by slot",
            (aspect_rows(audit.aspects), _aspects(audit.aspects)) if audit.aspects else None,
            no_aspects,
        ),
        _section(
            "personas",
            "Personas: how many per item, and their names",
            (persona_rows(audit.personas), _personas(audit.personas)) if audit.personas else None,
            no_personas,
        ),
        _section(
            "evidence",
            "Evidence: which users the personas cite",
            (evidence_rows(audit.evidence, has_splits=has_splits), _evidence(audit.evidence))
            if audit.evidence
            else None,
            no_personas,
        ),
        _section(
            "distinctness",
            "Distinctness: do the personas of an item differ?",
            (distinctness_rows(distinctness), _distinctness(distinctness))
            if distinctness
            else None,
            no_similarity,
        ),
        _section(
            "grounding",
            "Grounding: do personas say what their evidence says?",
            _grounding_rows(audit),
            no_similarity,
        ),
        _section(
            "alignments",
            "Alignments: which persona explains a choice",
            (
                alignment_rows(audit.alignments, has_splits=has_splits),
                _alignments(audit.alignments),
            )
            if audit.alignments
            else None,
            no_alignments,
        ),
        _section(
            "agreement",
            "Agreement: do alignments choose the nearest persona?",
            (agreement_rows(agreement), _agreement(agreement)) if agreement else None,
            no_similarity if audit.alignments else no_alignments,
        ),
    ]


def _section(
    name: str, title: str, content: tuple[Iterable[Row], Conclusion] | None, absent: str
) -> Section:
    if content is None:
        return Section(name, title, absent=absent)
    rows, conclusion = content
    return Section(name, title, tuple(rows), conclusion)


def groundings(audit: Audit) -> list[tuple[str, Grounding]]:
    """(kind of text, its grounding), for the texts whose grounding was measured."""
    if audit.similarity is None:
        return []
    both = (
        ("rationale", audit.similarity.rationales),
        ("description", audit.similarity.descriptions),
    )
    return [(text, one) for text, one in both if one is not None]


def _grounding_rows(audit: Audit) -> tuple[Iterable[Row], Conclusion] | None:
    measured = groundings(audit)
    if not measured:
        return None
    rows = [row for text, one in measured for row in grounding_rows(text, one)]
    return rows, _grounding(measured)


# --- what each section says -------------------------------------------------------------------


def _problems_first(problems: list[str], facts: list[str]) -> Conclusion:
    return Conclusion(" ".join(problems + facts), problem=bool(problems))


def _aspects(figures: AspectFigures) -> Conclusion:
    problems = []
    if figures.empty:
        problems.append(f"{plural(figures.empty, 'tuple')} without content.")
    if figures.repeated:
        problems.append(f"{plural(figures.repeated, 'repeated tuple')}.")
    facts = [f"{plural(figures.tuples, 'review')} in aspects."]
    slots = emptiest_slots(figures.nulls)
    if slots and slots[0][1] > 0:
        facts.append(f"Users say least about {slots[0][0]}: {percent(slots[0][1])} are empty.")
    return _problems_first(problems, facts)


def _personas(figures: PersonaFigures) -> Conclusion:
    missing, twice = figures.without.count, figures.same_name_items.count
    problems = []
    if missing:
        problems.append(f"{plural(missing, 'item')} without personas, which cannot be reranked.")
    if twice:
        problems.append(f"{plural(twice, 'item')} with two personas of the same name.")
    mean = "no" if figures.mean is None else f"{figures.mean:.1f}"
    facts = [f"{plural(figures.items, 'item')} with {mean} personas on average."]
    if figures.extractive:
        whose = "All" if figures.extractive == figures.personas else f"{figures.extractive:,}"
        facts.append(f"{whose} of them are extractive: they quote reviews, no LLM wrote them.")
    if not missing:
        facts.append("No item is without personas.")
    return _problems_first(problems, facts)


def _evidence(figures: EvidenceFigures) -> Conclusion:
    problems, facts = [], []
    missing = figures.missing.count if figures.missing else 0
    if figures.held_out.count:
        problems.append(f"{plural(figures.held_out.count, 'citation')} of held-out interactions.")
    if missing:
        problems.append(f"{plural(missing, 'citation')} of users who say nothing about the item.")
    if figures.coverage is not None:
        facts.append(f"Personas cite {percent(figures.coverage)} of what users say about an item.")
    if figures.missing is None:
        facts.append(f"Without {ASPECTS} it is unknown whether the cited evidence exists.")
    elif not missing:
        facts.append("All cited evidence exists.")
    return _problems_first(problems, facts)


def _distinctness(figures: Distinctness) -> Conclusion:
    text = f"Two personas of one item have a similarity of {figures.mean:.2f}"
    if figures.others is None:
        return Conclusion(f"{text}; 1 means the same text.")
    return Conclusion(
        f"{text}, personas of different items {figures.others:.2f}. The closer the two numbers, "
        "the better an item's personas differ."
    )


def _grounding(measured: Iterable[tuple[str, Grounding]]) -> Conclusion:
    """A text is grounded where the interval of the difference lies above 0."""
    grounded: list[str] = []
    groundless: list[str] = []
    unsure: list[str] = []
    for text, one in measured:
        low = one.difference.low
        (unsure if low is None else grounded if low > 0 else groundless).append(f"{text}s")
    parts = []
    if groundless:
        parts.append(
            f"The {' and '.join(groundless)} are no closer to their own evidence than to random "
            "reviews: the evidence does not support them."
        )
    if grounded:
        parts.append(
            f"The {' and '.join(grounded)} are closer to their own evidence than to random "
            "reviews: the evidence supports them."
        )
    if unsure:
        parts.append(f"There are too few items to judge the {' and '.join(unsure)}.")
    return Conclusion(" ".join(parts), problem=bool(groundless))


def _alignments(figures: AlignmentFigures) -> Conclusion:
    problems = []
    unknown = figures.unknown.count if figures.unknown else 0
    if figures.held_out.count:
        problems.append(f"{plural(figures.held_out.count, 'alignment')} of held-out interactions.")
    if unknown:
        problems.append(f"{plural(unknown, 'alignment')} to personas that do not exist.")
    if figures.position_p is None:
        facts = ["The effect of a persona's position in its list could not be measured."]
    elif figures.position_p < SIGNIFICANT:
        problems.append(
            "The choice depends on the position of a persona in its list: check the judge."
        )
        facts = []
    else:
        facts = ["The position of a persona in its list has no visible effect on the choice."]
    return _problems_first(problems, facts)


def _agreement(figures: Agreement) -> Conclusion:
    text = (
        f"{figures.agreement:.0%} of the alignments choose the nearest persona; chance would give "
        f"{figures.chance:.0%}."
    )
    low = figures.difference.low
    if low is not None and low <= 0:
        return Conclusion(f"{text} This is not better than chance.", problem=True)
    return Conclusion(text)
