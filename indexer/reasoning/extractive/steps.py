"""Summaries, aspects and personas without an LLM (Eq. 1 to 3): they quote metadata and reviews."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import PERSONAS
from indexer.reasoning.aspects import ReviewAspects
from indexer.reasoning.extractive.extractor import NO_SLOT, Extraction
from indexer.reasoning.extractive.reading import (
    Reviewed,
    item_request,
    numbered,
    reviewed_items,
    sampled_texts,
)
from indexer.reasoning.extractive.sentences import (
    first_words,
    metadata_sentences,
    review_sentences,
)
from indexer.reasoning.extractive.terms import Terms
from indexer.reasoning.personas import Personas
from indexer.reasoning.step import Question, Sources
from indexer.reasoning.summaries import Summaries
from p4r_qdrant.records import Aspects, Item, ItemPersonas, Persona, Review, Summary

SUMMARY_WORDS = 80
QUOTED = 3
"""Sentences that a description quotes; a rationale quotes one."""


class MetadataSummaries(Summaries):
    """The first sentences of an item's metadata in place of a summary."""

    asks = False

    def question(self, item: Item) -> Question | None:
        """The sentences to quote, without a request; None if there is no metadata."""
        found = first_words(metadata_sentences(item, self.left_out), SUMMARY_WORDS)
        if not found:
            self.left_out["items without metadata"] += 1
            return None
        return Question((item.item_id, found), [])

    def record(self, about: Any, values: list[Any]) -> Summary:  # noqa: ARG002
        """A line of summaries.jsonl."""
        item_id, found = about
        return Summary(item_id=item_id, summary=" ".join(found))


class QuotedAspects(ReviewAspects):
    """Each sentence of a review in the slot that is nearest to it.

    The answers are those to the requests of `QuotedPersonas`; so this step asks nothing, and its
    lines are in the order of the items.
    """

    asks = False
    reads = (PERSONAS,)

    def __init__(self, sources: Sources, refusals: Refusals, extraction: Extraction) -> None:
        super().__init__(sources, refusals)
        self._extraction = extraction

    def questions(self) -> Iterator[Question]:
        """Each review, with the request about its item."""
        for item, reviewed in reviewed_items(self.sources, Refusals(), Counter()):
            asked = item_request(item, reviewed, self._extraction)
            for one in reviewed:
                if one.sentences:
                    yield Question(one, [asked])
                else:
                    self.left_out["reviews without a sentence to quote"] += 1

    def question(self, item: Item, review: Review) -> Question | None:
        """The question about a single review; None if it has no sentence to quote."""
        one = Reviewed(review, review_sentences(review, self.left_out))
        if not one.sentences:
            self.left_out["reviews without a sentence to quote"] += 1
            return None
        about = {"user_id": review.user_id, "item_id": item.item_id}
        asked = self._extraction.request(self.name, [one.sentences], about, grouped=False)
        return Question(one, [asked])

    def record(self, about: Any, values: list[Any]) -> Aspects | None:
        """A line of aspects.jsonl."""
        review, names = about.review, [slot.name for slot in self.sources.domain.slots]
        slots: dict[str, list[str]] = {name: [] for name in names}
        for number, sentence in zip(about.numbers, about.sentences, strict=True):
            slot = values[0]["slots"][number]
            if slot == NO_SLOT:
                self.left_out["sentences that the encoder refuses"] += 1
            else:
                slots[names[slot]].append(sentence)
        if not any(slots.values()):
            return None
        return Aspects(
            item_id=review.item_id,
            user_id=review.user_id,
            timestamp=review.timestamp,
            rating=review.rating,
            aspects={name: quoted(own) or None for name, own in slots.items()},
        )


class QuotedPersonas(Personas):
    """One persona for each group of sentences; one from metadata for an item without reviews."""

    reads = ()

    def __init__(self, sources: Sources, refusals: Refusals, extraction: Extraction) -> None:
        super().__init__(sources, refusals)
        self._extraction = extraction

    def questions(self) -> Iterator[Question]:
        """One question for each item, with a request if it is reviewed."""
        for item, reviewed in reviewed_items(self.sources, self.refusals, self.left_out):
            question = self._question(item, reviewed)
            if question is not None:
                yield question

    def question(
        self,
        item: Item,
        summary: str,  # noqa: ARG002 - it quotes the metadata too
        notes: Sequence[Aspects],  # noqa: ARG002 - they quote the reviews
        reviews: Sequence[Review] = (),
    ) -> Question | None:
        """The question about an item with these reviews; None if nothing is known of it."""
        return self._question(item, numbered(reviews, self.left_out))

    def _question(self, item: Item, reviewed: Sequence[Reviewed]) -> Question | None:
        if any(one.sentences for one in reviewed):
            return Question(
                (item.item_id, reviewed), [item_request(item, reviewed, self._extraction)]
            )
        found = metadata_sentences(item, self.left_out)
        if not found:
            self.left_out["items of which nothing is known"] += 1
            return None
        return Question((item.item_id, found), [])

    def record(self, about: tuple[str, Any], values: list[Any]) -> ItemPersonas | None:
        """A line of personas.jsonl."""
        item_id, known = about
        if not values:
            return self._personas(item_id, [(known, [])])
        text_of = list(chain.from_iterable(one.sentences for one in known))
        user_of = [one.review.user_id for one in known for _ in one.sentences]
        found = [
            ([text_of[number] for number in own], [user_of[number] for number in own])
            for own in values[0]["groups"]
        ]
        return self._personas(item_id, found) if found else None

    def _personas(
        self, item_id: str, groups: Sequence[tuple[list[str], list[str]]]
    ) -> ItemPersonas:
        """Personas of (sentences, their authors), the most central sentence of each group first."""
        texts = [list(dict.fromkeys(own)) for own, _ in groups]
        names = self._terms.names(texts)
        return ItemPersonas(
            item_id=item_id,
            personas=[
                Persona(
                    persona_id=f"{item_id}_P{number}",
                    name=name,
                    description=quoted(own[1 : 1 + QUOTED] or own),
                    preference_rationale=quoted(own[:1]),
                    evidence=list(dict.fromkeys(users)),
                    extractive=True,
                )
                for number, (name, own, (_, users)) in enumerate(
                    zip(names, texts, groups, strict=True), 1
                )
            ],
        )

    @cached_property
    def _terms(self) -> Terms:
        return Terms(sampled_texts(self.sources))


def quoted(texts: Sequence[str]) -> str:
    """Sentences, each in quotation marks: the leak checks read no words across two of them."""
    return " ".join(f"“{text}”" for text in texts)
