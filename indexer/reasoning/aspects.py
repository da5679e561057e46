"""a_ui: the aspects that a review says of its author, slot by slot (Eq. 2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from indexer.artifacts.aspect_tuples import is_informative
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ASPECTS, REVIEWS
from indexer.reasoning.sanitizing import (
    MOST_PARTS,
    PART_LENGTH,
    cleaned,
    parts,
    problem_with,
)
from indexer.reasoning.step import TEXT_OR_NULL, AnswerForm, Question, Step, an_object
from p4r_qdrant.records import Aspects, Item, Review

MOST_WORDS = 40

_WORD = re.compile(r"\w")


class ReviewAspects(Step):
    """One aspect tuple per review that is not held out; long reviews are asked in parts."""

    name = "aspects"
    artifact = ASPECTS
    templates = ("aspects",)
    answer_tokens = 110

    def questions(self) -> Iterator[Question]:
        """One request per review, or per part of a long review."""
        sources = self.sources
        wanted = sources.wanted_items()
        with sources.folder.items(Refusals()) as items:
            seen: set[tuple[str, str]] = set()
            for _, _, review in read_lines(sources.folder.file(REVIEWS), Review, self.refusals):
                key = (review.user_id, review.item_id)
                item = items.get(review.item_id)
                if key in sources.held_out or (item and wanted and item.item_id not in wanted):
                    continue
                if item is None or key in seen:
                    reason = "reviews of unknown items" if item is None else "repeated reviews"
                    self.left_out[reason] += 1
                    continue
                seen.add(key)
                question = self.question(item, review)
                if question is not None:
                    yield question

    def question(self, item: Item, review: Review) -> Question | None:
        """The question about a review; None if it has no text."""
        text = cleaned(f"{review.title}\n{review.text}")
        self.left_out["sentences that address a model"] += text.removed
        pieces = parts(text.text)
        if len(text.text) > MOST_PARTS * PART_LENGTH:
            self.left_out["reviews so long that only parts of them were read"] += 1
        if not pieces:
            self.left_out["reviews without text"] += 1
            return None
        head = f"{item.title or 'untitled'}, rated {review.rating:g} of 5"
        slots = self.sources.domain.slots
        answer = AnswerForm(
            schema=an_object(**{slot.name: TEXT_OR_NULL for slot in slots}),
            check=_problem,
            about={"user_id": review.user_id, "item_id": review.item_id},
            max_tokens=500,
        )
        return Question(
            review,
            [
                self.request(
                    "aspects",
                    f"{head}\n\n{piece}",
                    answer,
                    slots="\n".join(f"- {slot.name}: {slot.asks}" for slot in slots),
                    form="{" + ", ".join(f'"{slot.name}": "..." or null' for slot in slots) + "}",
                )
                for piece in pieces
            ],
        )

    def record(self, about: Any, values: list[Any]) -> Aspects | None:
        """A line of aspects.jsonl; the phrases of a long review's parts are joined."""
        slots: dict[str, str | None] = {}
        for slot in self.sources.domain.slots:
            phrases = [phrase for one in values if (phrase := _phrase(one[slot.name]))]
            slots[slot.name] = "; ".join(dict.fromkeys(phrases)) or None
        if not is_informative(slots):
            self.left_out["reviews that tell nothing"] += 1
            return None
        return Aspects(
            item_id=about.item_id,
            user_id=about.user_id,
            timestamp=about.timestamp,
            rating=about.rating,
            aspects=slots,
        )


def _phrase(text: str | None) -> str:
    """A slot's text; "" if it holds no word ("...", "-"), as some models write null."""
    return text.strip() if text and _WORD.search(text) else ""


def _problem(value: Any, system: str) -> str | None:
    for slot, text in value.items():
        if not _phrase(text):
            continue
        problem = problem_with(text, system, most_words=MOST_WORDS)
        if problem:
            return f"{slot} {problem}; write a short phrase, or null"
    return None
