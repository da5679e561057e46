"""P_i: the personas of an item, grounded in its reviews (Eq. 3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import combinations, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.lookup import ItemRecords
from indexer.artifacts.names import ASPECTS, ITEMS, PERSONAS
from indexer.llm import Request
from indexer.reasoning.remarks import earlier_personas, marked_remarks
from indexer.reasoning.sanitizing import problem_with
from indexer.reasoning.step import TEXT, AnswerForm, Question, Step, an_array, an_object, one_of
from indexer.review.decisions import Decision, Decisions
from indexer.review.standing import asked
from p4r_qdrant.moderation import FIELDS, Rules
from p4r_qdrant.records import Aspects, Item, ItemPersonas, Persona, Review

MOST_PERSONAS = 7
MOST_NOTES = 80
"""Reviewers whose notes one prompt holds; of more, the most different ones are chosen."""
ALIKE = 0.6
"""Two personas of an item with a larger word overlap (Jaccard) count as duplicates."""

_WORD = re.compile(r"\w{3,}")

Floats = npt.NDArray[np.float64]


class Personas(Step):
    """Two to seven personas per item; one or two from a single review or from metadata alone."""

    name = "personas"
    artifact = PERSONAS
    templates: tuple[str, ...] = (
        "personas",
        "personas_unseen",
        "personas_again",
        "personas_unseen_again",
    )
    answer_tokens = 650
    reads: tuple[str, ...] = (ASPECTS,)

    @cached_property
    def decisions(self) -> Decisions:
        """The decisions of reviewers as they were when they were last refreshed."""
        found = Decisions(self.sources.folder.path)
        found.refresh()
        return found

    def questions(self) -> Iterator[Question]:
        """One request per item, with its most informative notes."""
        sources = self.sources
        with (
            sources.folder.summaries(Refusals()) as summaries,
            ItemRecords(sources.folder.file(ASPECTS), Aspects, sources.held_out) as notes,
        ):
            lines = read_lines(sources.folder.file(ITEMS), Item, Refusals())
            for _, _, item in islice(lines, sources.limit):
                found = summaries.get(item.item_id)
                summary = found.summary if found else ""
                question = self.question(item, summary, notes.get(item.item_id))
                if question is not None:
                    yield question

    def question(
        self,
        item: Item,
        summary: str,
        notes: Sequence[Aspects],
        reviews: Sequence[Review] = (),  # noqa: ARG002 - notes say what is in them
    ) -> Question | None:
        """The question about an item with these notes; None if nothing is known of it."""
        if not notes and not summary:
            self.left_out["items of which nothing is known"] += 1
            return None
        notes = most_telling(notes, MOST_NOTES)
        labels = {f"R{number}": note.user_id for number, note in enumerate(notes, 1)}
        remarks = self.remarks(item.item_id)
        newest, *earlier = (
            self._request(item, summary, notes, labels, remarks[:count])
            for count in range(len(remarks), -1, -1)
        )
        return Question((item.item_id, labels), [newest], [[one] for one in earlier])

    def _request(
        self,
        item: Item,
        summary: str,
        notes: Sequence[Aspects],
        labels: dict[str, str],
        remarks: Sequence[Decision],
    ) -> Request:
        template, least, most = self.wanted(notes)
        lines = [
            f"R{number} (rated {note.rating:g} of 5): {note_text(note)}"
            for number, note in enumerate(notes, 1)
        ]
        material = f"Description: {summary or 'none'}"
        if notes:
            material += "\n\nNotes:\n" + "\n".join(lines)
        if remarks:
            template = f"{template}_again"
            material += f"\n\n{earlier_personas(remarks)}"
        persona = {"name": TEXT, "description": TEXT, "preference_rationale": TEXT}
        if notes:
            persona["evidence"] = an_array(one_of(labels), least=1, most=len(labels))
        return self.request(
            template,
            material,
            AnswerForm(
                schema=an_object(personas=an_array(an_object(**persona), least=least, most=most)),
                check=partial(self._problem, least=least, most=most, labels=labels),
                about={"item_id": item.item_id},
                max_tokens=1600,
            ),
            least=least,
            most=most,
            **(marked_remarks(remarks) if remarks else {}),
        )

    def remarks(self, item_id: str) -> Sequence[Decision]:
        """The remarks with which reviewers ask for the personas of an item again."""
        return asked(self.decisions.on(item_id))

    def _problem(self, value: Any, system: str, **wanted: Any) -> str | None:
        return _problem(value, system, **wanted) or _against(self.sources.rules, value["personas"])

    def wanted(self, notes: Sequence[Aspects]) -> tuple[str, int, int]:
        """(template, fewest, most personas)."""
        if not notes:
            return "personas_unseen", 1, 2
        return "personas", *((1, 2) if len(notes) < 2 else (2, min(MOST_PERSONAS, len(notes) + 1)))

    def record(self, about: tuple[str, Any], values: list[Any]) -> ItemPersonas | None:
        """A line of personas.jsonl; labels are replaced by the ids of users."""
        item_id, labels = about
        return ItemPersonas(
            item_id=item_id,
            personas=[
                Persona(
                    persona_id=f"{item_id}_P{number}",
                    name=one["name"].strip().rstrip("."),
                    description=one["description"],
                    preference_rationale=one["preference_rationale"],
                    evidence=list(
                        dict.fromkeys(labels[label] for label in _labels(one) if label in labels)
                    ),
                )
                for number, one in enumerate(values[0]["personas"], 1)
            ],
        )


def most_telling(notes: Sequence[Aspects], most: int) -> list[Aspects]:
    """At most `most` notes that represent all, rare opinions included, in their own order.

    Farthest-first selection on weighted words: it starts with the note nearest to the average, and
    each next note differs most from all chosen ones. Rare words weigh more. So an outlier is
    chosen early, and a repeated opinion only once.
    """
    if len(notes) <= most:
        return list(notes)
    words = [set(_WORD.findall(note_text(one).lower())) for one in notes]
    vocabulary = {word: number for number, word in enumerate(sorted(set().union(*words)))}
    used = np.zeros(len(vocabulary))
    for own in words:
        used[[vocabulary[word] for word in own]] += 1
    rarity = np.log(len(notes) / used) + 1
    rows = [np.array(sorted(vocabulary[word] for word in own), dtype=int) for own in words]
    norms: Floats = np.array([np.sqrt((rarity[row] ** 2).sum()) or 1.0 for row in rows])

    def likeness(direction: Floats) -> Floats:
        products: Floats = np.array([(rarity[row] * direction[row]).sum() for row in rows])
        return products / norms

    def direction(number: int) -> Floats:
        one = np.zeros(len(vocabulary))
        one[rows[number]] = rarity[rows[number]] / norms[number]
        return one

    average = np.zeros(len(vocabulary))
    for number, row in enumerate(rows):
        average[row] += rarity[row] / norms[number]
    chosen = [int(np.argmax(likeness(average)))]
    nearest = likeness(direction(chosen[0]))
    while len(chosen) < most:
        nearest[chosen] = np.inf
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, likeness(direction(chosen[-1])))
    return [notes[number] for number in sorted(chosen)]


def note_text(note: Aspects) -> str:
    """An aspect tuple as text for a prompt."""
    slots = note.aspects.items()
    return "; ".join(f"{slot.replace('_', ' ')}: {text}" for slot, text in slots if text)


def _labels(persona: dict[str, Any]) -> list[str]:
    return [str(label).strip().strip("[]").upper() for label in persona.get("evidence", ())]


def _problem(
    value: Any, system: str, *, least: int, most: int, labels: dict[str, str]
) -> str | None:
    personas = value["personas"]
    if not least <= len(personas) <= most:
        return f"there are {len(personas)} personas, {least} to {most} are wanted"
    for number, one in enumerate(personas, 1):
        for field, words in (("name", 8), ("description", 100), ("preference_rationale", 100)):
            problem = problem_with(one[field], system, most_words=words)
            if problem:
                return f"the {field} of persona {number} {problem}"
        if labels and not any(label in labels for label in _labels(one)):
            return (
                f"persona {number} cites none of the reviewers: its evidence must hold labels "
                f"from R1 to R{len(labels)} whose notes support it"
            )
    for (one, first), (other, second) in combinations(enumerate(personas, 1), 2):
        if first["name"].strip().lower() == second["name"].strip().lower():
            return f"personas {one} and {other} have the same name"
        if _in_common(first, second) > ALIKE:
            return f"personas {one} and {other} say the same: make them different, or one of them"
    return None


def _against(rules: Rules, personas: Sequence[dict[str, Any]]) -> str | None:
    for number, one in enumerate(personas, 1):
        for name in FIELDS:
            if problem := rules.problem_with(one[name], name):
                return f"the {name} of persona {number} {problem}: write it without"
    return None


def _in_common(first: dict[str, Any], second: dict[str, Any]) -> float:
    """The word overlap of two personas' texts (Jaccard)."""
    words = [
        set(_WORD.findall(f"{one['description']} {one['preference_rationale']}".lower()))
        for one in (first, second)
    ]
    return len(words[0] & words[1]) / max(1, len(words[0] | words[1]))
