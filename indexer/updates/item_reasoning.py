"""Run the steps on one item: summary, aspects of each review, personas."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from indexer.artifacts.index_rows import IndexRow
from indexer.artifacts.journal import Journal, Reasoned
from indexer.ledger import Ledger
from indexer.llm import NO_ANSWER
from indexer.reasoning.answering import Answerer
from indexer.reasoning.item_steps import ItemSteps
from indexer.reasoning.step import Question, Sources, Step
from indexer.review.screening import Policy, Screening
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.payload import payload_fields
from p4r_qdrant.records import Aspects, Item, Summary


@dataclass(frozen=True)
class Outcome:
    """What the steps made of an item.

    row: what to index; None if there are no personas, and then `problem` says why. notes: the
    number of aspect tuples that the personas rest on. withheld: how many of its personas decisions
    of reviewers, rules or the policy of the publish do not let through. is_withheld: all of them.
    notice: why an earlier answer serves in place of the one to a reviewer's remark.
    """

    item_id: str
    reasoned: Reasoned
    row: IndexRow | None = None
    notes: int = 0
    problem: str = ""
    is_withheld: bool = False
    withheld: int = 0
    notice: str = ""


class ItemReasoner:
    """Runs the steps on single items; answers in the ledger or the artifacts are used again."""

    def __init__(
        self,
        sources: Sources,
        journal: Journal,
        ledger: Ledger,
        llm: Answerer,
        steps: ItemSteps,
        index: PersonaIndex,
    ) -> None:
        """index: where the items go; its policy says which personas may be served."""
        self.sources = sources
        self.journal = journal
        self.ledger = ledger
        self._llm = llm
        self._index = index
        self.screening = Screening(sources.folder.path, self._policy())
        self._summaries, self._aspects, self._personas = steps

    async def reason(self, item_id: str) -> Outcome:
        """Summary, aspects and personas of one item. Raises what the LLM layer raises."""
        item = self.journal.item(item_id)
        reasoned = Reasoned()
        if item is None:
            problem = "the item is not known yet; its reviews are kept until it arrives"
            return Outcome(item_id, reasoned, problem=problem)
        reasoned.summary = await self._summary(item)
        users = [
            user_id
            for user_id in self.journal.reviewers(item_id)
            if (user_id, item_id) not in self.sources.held_out
        ]
        found = await asyncio.gather(*(self._aspects_of(item, user_id) for user_id in users))
        reasoned.aspects = dict(zip(users, found, strict=True))
        notes = [aspects for aspects in found if aspects is not None]
        summary = reasoned.summary.summary if reasoned.summary else ""
        self._personas.decisions.refresh()
        reviews = [self.journal.review(item_id, user_id) for user_id in users]
        question = self._personas.question(item, summary, notes, list(filter(None, reviews)))
        if question is None:
            problem = "the item has no text and no review with aspects"
            return Outcome(item_id, reasoned, problem=problem)
        values, problem = await self._answers(self._personas, question)
        if values is None and question.earlier and NO_ANSWER not in problem:
            values = self._personas.values(question, self.ledger)
        if values is None:
            return Outcome(item_id, reasoned, problem=problem)
        notice = f"{problem}; the answer without the remark serves" if problem else ""
        reasoned.personas = self._personas.record(question.about, values)
        if reasoned.personas is None:
            return Outcome(item_id, reasoned, problem="the encoder refuses all of its reviews")
        await asyncio.to_thread(self._index.refresh)  # a publish may have another policy
        self.screening.refresh(self._policy())
        screened = self.screening.screened(reasoned.personas)
        if screened is None:
            made = len(reasoned.personas.personas)
            return Outcome(
                item_id, reasoned, notes=len(notes), is_withheld=True, withheld=made, notice=notice
            )
        fields = payload_fields(item, summary, self.sources.domain.name)
        row = IndexRow(f"item {item_id!r}", screened.item, summary, fields)
        withheld = max(0, len(reasoned.personas.personas) - len(screened.item.personas))
        return Outcome(item_id, reasoned, row, len(notes), withheld=withheld, notice=notice)

    def withdraw(self, item_id: str) -> bool:
        """Take the personas of an item out of the index; approved ones may stay."""
        may_stay = self.screening.may_stay
        return self._index.drop_personas([item_id], lambda one: not may_stay(one)) > 0

    def _policy(self) -> Policy:
        return Policy.of_version(self.sources.rules, self._index.metadata)

    async def _summary(self, item: Item) -> Summary | None:
        question = self._summaries.question(item)
        if question is None:
            return None
        values = self._summaries.values(question, self.ledger)
        if values is None and (held := self.journal.summary(item.item_id)) is not None:
            return held
        if values is None:
            values, _ = await self._answers(self._summaries, question)
        return self._summaries.record(question.about, values) if values is not None else None

    async def _aspects_of(self, item: Item, user_id: str) -> Aspects | None:
        held = self.journal.aspects(item.item_id, user_id)
        review = self.journal.review(item.item_id, user_id)
        question = self._aspects.question(item, review) if review is not None else None
        if question is None:
            return held
        values = self._aspects.values(question, self.ledger)
        if values is None and held is not None:
            return held
        if values is None:
            values, _ = await self._answers(self._aspects, question)
        return self._aspects.record(question.about, values) if values is not None else None

    async def _answers(self, step: Step, question: Question) -> tuple[list[Any] | None, str]:
        """The values of a question's answers; or None, and the problem of one of them."""
        answers = await asyncio.gather(*(self._llm.ask(request) for request in question.requests))
        for answer in answers:
            if not answer.ok:
                why = answer.problems[-1] if answer.problems else "no answer"
                return None, f"no usable {step.name}: {why}"
        return [answer.value for answer in answers], ""
