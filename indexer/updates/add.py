"""`p4r add`: index items and reviews as they arrive.

    records -> Journal -> ItemReasoner (summary, aspects, personas) -> ItemIndexer -> index
                                                                    -> artifacts, now and then

An item is reasoned on when no record of it has arrived for `settle_s` seconds, so that a burst of
reviews costs one set of personas. Several items are reasoned on at a time, each only once at a
time. After a kill, the same input, or none, leads to the same end state.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.artifacts.lines import parse_line
from indexer.artifacts.opening import TOO_LONG
from indexer.indexing.items import ItemIndexer
from indexer.updates.inbox import POLL_S, Inbox, Line
from indexer.updates.item_reasoning import ItemReasoner, Outcome
from p4r_qdrant.errors import RecordError
from p4r_qdrant.records import Item, Review

WRITE_AFTER = 5_000
"""Records in memory after which the artifacts are written."""
WRITE_EVERY_S = 300.0
"""Seconds after which they are written although there are fewer."""
LINES_AT_ONCE = 1000
"""Lines taken from the inbox before other work gets its turn."""


@dataclass(frozen=True)
class Added:
    """What became of one item.

    personas: how many it has now. reviews: how many they rest on. written: whether the index
    changed. problem: why it got no personas; earlier ones are kept. withheld: how many personas
    decisions of reviewers, rules or the policy of the publish do not let through. is_withheld: all
    of them; the index has none of it but approved ones of before. notice: what else to say.
    """

    item_id: str
    personas: int = 0
    reviews: int = 0
    written: bool = False
    problem: str = ""
    is_withheld: bool = False
    withheld: int = 0
    notice: str = ""


class StreamingIndexer:
    """Reasons on records that arrive and keeps the index up to date.

    settle_s: seconds without a new record of an item before it is reasoned on.
    reported: is called for each item that is done.
    """

    def __init__(
        self,
        reasoner: ItemReasoner,
        indexer: ItemIndexer,
        *,
        settle_s: float,
        reported: Callable[[Added], None],
    ) -> None:
        self._reasoner = reasoner
        self._journal = reasoner.journal
        self._indexer = indexer
        self._settle_s = settle_s
        self._reported = reported
        self._number = 0
        self._written_at = self._synced_at = time.monotonic()
        self.lost_alignments = 0
        """Alignments that were dropped because the personas they name have changed."""

    async def run(self, lines: Iterator[Line]) -> None:
        """Work until the input ends. Raises what the LLM layer raises; everything is kept then.

        lines: JSON lines, or records.
        """
        inbox = Inbox(lines)
        due = dict.fromkeys(sorted(self._journal.waiting), 0.0)
        tasks: dict[asyncio.Task[Outcome], str] = {}
        try:
            while due or tasks or not inbox.ended:
                for line in inbox.take(LINES_AT_ONCE):
                    item_id = self._take(line)
                    if item_id is not None:
                        due.pop(item_id, None)  # to the end of the queue, which is in order of time
                        due[item_id] = time.monotonic() + self._settle_s
                for item_id in self._startable(due, set(tasks.values()), inbox.ended):
                    del due[item_id]
                    tasks[asyncio.create_task(self._reasoner.reason(item_id))] = item_id
                pause = asyncio.create_task(asyncio.sleep(POLL_S if inbox.empty else 0))
                done, _ = await asyncio.wait({*tasks, pause}, return_when="FIRST_COMPLETED")
                pause.cancel()
                finished = [task for task in tasks if task in done]
                await self._index([task.result() for task in finished], due)
                for task in finished:
                    del tasks[task]
                await self._save(time.monotonic())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.lost_alignments += self._journal.write()

    def _startable(self, due: Mapping[str, float], busy: set[str], ended: bool) -> list[str]:
        """The items that have settled and are not in work, as many as there are permits for."""
        now, permits = time.monotonic(), self._reasoner.sources.llm.concurrency - len(busy)
        settled = itertools.takewhile(lambda one: ended or one[1] <= now, due.items())
        free = (item_id for item_id, _ in settled if item_id not in busy)
        return list(itertools.islice(free, max(0, permits)))

    def _take(self, line: Line) -> str | None:
        """Journal the record on a line; its item id, or None if it is known or refused."""
        if not isinstance(line, bytes):
            return line.item_id if self._journal.take(line) else None
        self._number += 1
        where = f"line {self._number}"
        if not line.strip():
            if not line:
                self._indexer.refusals.add(f"{where}: {TOO_LONG}")
            return None
        try:
            record: Item | Review
            if b'"user_id"' in line:
                record = parse_line(line, Review, where)
            else:
                record = parse_line(line, Item, where)
        except RecordError as error:
            self._indexer.refusals.add(str(error))
            return None
        return record.item_id if self._journal.take(record) else None

    async def _index(self, outcomes: Sequence[Outcome], due: Mapping[str, float]) -> None:
        """Encode and write the items that are reasoned on, together."""
        rows = [outcome.row for outcome in outcomes if outcome.row is not None]
        written, unchanged = set[str](), set[str]()
        if rows:
            written, unchanged = await asyncio.to_thread(self._indexer.index_rows, rows)
        for one in outcomes:
            self._journal.settle(one.item_id, one.reasoned, waits=one.item_id in due)
            told: dict[str, Any] = {"withheld": one.withheld, "notice": one.notice}
            if one.is_withheld:
                gone = await asyncio.to_thread(self._reasoner.withdraw, one.item_id)
                self._reported(Added(one.item_id, 0, one.notes, gone, is_withheld=True, **told))
                continue
            problem = one.problem
            if not problem and one.item_id not in written | unchanged:
                problem = "the index refused its personas"
            personas = len(one.row.item.personas) if one.row else 0
            is_written = one.item_id in written
            self._reported(Added(one.item_id, personas, one.notes, is_written, problem, **told))

    async def _save(self, now: float) -> None:
        """Sync about once a second; write the artifacts now and then."""
        if now - self._synced_at >= 1:
            self._synced_at = now
            self._journal.sync()
            await asyncio.to_thread(self._reasoner.ledger.sync)
        overdue = now - self._written_at >= WRITE_EVERY_S and self._journal.unwritten
        if overdue or self._journal.unwritten >= WRITE_AFTER:
            self._written_at = now
            self.lost_alignments += self._journal.write()
