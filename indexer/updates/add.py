"""`p4r add`: items and reviews in, as they arrive; personas into the index, item by item.

    records -> Journal (journalled) -> summary, aspects, personas -> encode -> index
                                                                  -> artifacts, now and then

An item is reasoned on when nothing has come for it for `settle_s` seconds, so that a burst of
reviews costs one set of personas, not one each. Many items are reasoned on at a time, one never
twice at once. What the ledger or the artifacts know is not asked again; so after any kill the same
input, or none, brings everything to the same end.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.artifacts.index_rows import IndexRow
from indexer.artifacts.journal import Journal, Reasoned
from indexer.artifacts.lines import Refusals, parse_line
from indexer.indexing.items import ItemIndexer
from indexer.ledger import Ledger
from indexer.llm import LLM
from indexer.reasoning.aspects import ReviewAspects
from indexer.reasoning.personas import Personas
from indexer.reasoning.step import Question, Sources, Step
from indexer.reasoning.summaries import Summaries
from indexer.updates.inbox import MAX_LINE, POLL_S, Inbox
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import RecordError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.payload import payload_fields
from p4r_qdrant.records import Aspects, Item, Review, Summary

WRITE_AFTER = 5_000
"""Records in memory after which the artifacts are written."""


WRITE_EVERY_S = 300.0


@dataclass(frozen=True)
class Added:
    """What became of one item.

    `personas` it has now, `reviews` they rest on, whether they were `written` to the index (else
    they are there already); `problem` says why it got none and keeps those it had.
    """

    item_id: str
    personas: int = 0
    reviews: int = 0
    written: bool = False
    problem: str = ""


class Adder:
    """Reasons on what arrives and keeps the index up to date. `told` is called for each item."""

    def __init__(
        self,
        sources: Sources,
        arrivals: Journal,
        ledger: Ledger,
        llm: LLM,
        encoder: Encoder,
        index: PersonaIndex,
        *,
        settle_s: float,
        refusals: Refusals,
        told: Callable[[Added], None],
    ) -> None:
        self._sources = sources
        self._arrivals = arrivals
        self._ledger = ledger
        self._llm = llm
        self._encoder = encoder
        self._index = index
        self._settle_s = settle_s
        self._refusals = refusals
        self._told = told
        self._summaries = Summaries(sources, refusals)
        self._aspects = ReviewAspects(sources, refusals)
        self._personas = Personas(sources, refusals)
        self._number = 0
        self._written_at = self._synced_at = time.monotonic()
        self.lost_alignments = 0
        """Those left out because the personas they name have changed."""

    async def run(self, lines: Iterator[bytes | Item | Review]) -> None:
        """Until the input ends. Raises what the LLM layer raises; everything is kept then."""
        inbox = Inbox(lines)
        due = dict.fromkeys(sorted(self._arrivals.waiting), 0.0)
        tasks: dict[asyncio.Task[_Outcome], str] = {}
        try:
            while due or tasks or not inbox.ended:
                for line in inbox.take(1000):
                    item_id = self._take(line)
                    if item_id is not None:
                        due.pop(item_id, None)  # to the end of the queue: these are in order
                        due[item_id] = time.monotonic() + self._settle_s
                for item_id in self._startable(due, set(tasks.values()), inbox.ended):
                    del due[item_id]
                    tasks[asyncio.create_task(self._reason(item_id))] = item_id
                pause = asyncio.create_task(asyncio.sleep(POLL_S if inbox.empty else 0))
                done, _ = await asyncio.wait({*tasks, pause}, return_when="FIRST_COMPLETED")
                pause.cancel()
                finished = [task for task in tasks if task in done]
                await self._publish([task.result() for task in finished], due)
                for task in finished:
                    del tasks[task]
                await self._keep(time.monotonic())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.lost_alignments += self._arrivals.write()

    def _startable(self, due: Mapping[str, float], busy: set[str], ended: bool) -> list[str]:
        """The items that have settled and that nobody is at, as many as there is room for."""
        now, room = time.monotonic(), self._sources.llm.concurrency - len(busy)
        settled = itertools.takewhile(lambda one: ended or one[1] <= now, due.items())
        free = (item_id for item_id, _ in settled if item_id not in busy)
        return list(itertools.islice(free, max(0, room)))

    def _take(self, line: bytes | Item | Review) -> str | None:
        """The item that a line or record is about; None if it brings nothing new or is refused."""
        if not isinstance(line, bytes):
            return line.item_id if self._arrivals.take(line) else None
        self._number += 1
        where = f"line {self._number}"
        if not line.strip():
            if not line:
                self._refusals.add(f"{where}: it is longer than {MAX_LINE >> 20} MB")
            return None
        try:
            record: Item | Review
            if b'"user_id"' in line:
                record = parse_line(line, Review, where)
            else:
                record = parse_line(line, Item, where)
        except RecordError as error:
            self._refusals.add(str(error))
            return None
        return record.item_id if self._arrivals.take(record) else None

    async def _keep(self, now: float) -> None:
        """Sync about once a second, and write the artifacts now and then."""
        if now - self._synced_at >= 1:
            self._synced_at = now
            self._arrivals.sync()
            await asyncio.to_thread(self._ledger.sync)
        overdue = now - self._written_at >= WRITE_EVERY_S and self._arrivals.unwritten
        if overdue or self._arrivals.unwritten >= WRITE_AFTER:
            self._written_at = now
            self.lost_alignments += self._arrivals.write()

    # -- one item -----------------------------------------------------------------------------

    async def _reason(self, item_id: str) -> _Outcome:
        """Summary, aspects and personas of one item."""
        item = self._arrivals.item(item_id)
        reasoned = Reasoned()
        if item is None:
            problem = "no such item yet: its reviews are kept until it comes"
            return _Outcome(item_id, reasoned, problem=problem)
        reasoned.summary = await self._summary(item)
        users = [
            user_id
            for user_id in self._arrivals.reviewers(item_id)
            if (user_id, item_id) not in self._sources.held_out
        ]
        found = await asyncio.gather(*(self._aspects_of(item, user_id) for user_id in users))
        reasoned.aspects = dict(zip(users, found, strict=True))
        notes = [one for one in found if one is not None]
        summary = reasoned.summary.summary if reasoned.summary else ""
        question = self._personas.question(item_id, summary, notes)
        if question is None:
            return _Outcome(item_id, reasoned, problem="nothing is known of it")
        values, problem = await self._answers(self._personas, question)
        if values is None:
            return _Outcome(item_id, reasoned, problem=problem)
        reasoned.personas = self._personas.record(question.about, values)
        fields = payload_fields(item, summary, self._sources.domain.name)
        row = IndexRow(f"item {item_id!r}", reasoned.personas, summary, fields)
        return _Outcome(item_id, reasoned, row, len(notes))

    async def _summary(self, item: Item) -> Summary | None:
        question = self._summaries.question(item)
        if question is None:
            return None
        values = self._summaries.values(question, self._ledger)
        if values is None and (held := self._arrivals.summary(item.item_id)) is not None:
            return held
        if values is None:
            values, _ = await self._answers(self._summaries, question)
        return self._summaries.record(question.about, values) if values is not None else None

    async def _aspects_of(self, item: Item, user_id: str) -> Aspects | None:
        held = self._arrivals.aspects(item.item_id, user_id)
        review = self._arrivals.review(item.item_id, user_id)
        question = self._aspects.question(item, review) if review is not None else None
        if question is None:
            return held
        values = self._aspects.values(question, self._ledger)
        if values is None and held is not None:
            return held
        if values is None:
            values, _ = await self._answers(self._aspects, question)
        return self._aspects.record(question.about, values) if values is not None else None

    async def _answers(self, step: Step, question: Question) -> tuple[list[Any] | None, str]:
        """The values of a question's answers; or None, and what was wrong with one of them."""
        answers = await asyncio.gather(*(self._llm.ask(one) for one in question.requests))
        for answer in answers:
            if not answer.ok:
                why = answer.problems[-1] if answer.problems else "no answer"
                return None, f"no usable {step.name}: {why}"
        return [answer.value for answer in answers], ""

    async def _publish(self, outcomes: Sequence[_Outcome], due: Mapping[str, float]) -> None:
        """Encode and write together what was reasoned in the meantime."""
        rows = [one.row for one in outcomes if one.row is not None]
        written, unchanged = set[str](), set[str]()
        if rows:
            written, unchanged = await asyncio.to_thread(
                ItemIndexer(self._encoder, self._index, self._refusals).index, rows
            )
        for one in outcomes:
            self._arrivals.settle(one.item_id, one.reasoned, waits=one.item_id in due)
            problem = one.problem
            if not problem and one.item_id not in written | unchanged:
                problem = "the index refuses its personas"
            personas = len(one.row.item.personas) if one.row else 0
            self._told(Added(one.item_id, personas, one.notes, one.item_id in written, problem))


@dataclass(frozen=True)
class _Outcome:
    item_id: str
    reasoned: Reasoned
    row: IndexRow | None = None
    notes: int = 0
    problem: str = ""
