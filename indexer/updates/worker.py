"""`p4r work`: do the jobs that the service enqueued and that need an LLM, or an extractor.

    aspects   extract the aspects of a review (Eq. 2); then update its vector and the user's
    item      make personas of metadata and reviews and index them, as `p4r add` does
    erase     erase a user from artifacts, results, stored users and all versions of the index
    purge     take what was erased out of the files of the storage

A job is removed when it is done, not before, and the ledger holds every answer. So after a kill
the worker goes on and pays for no answer twice. If the LLM cannot be reached, jobs wait. The
ledger's lock allows one worker per artifact folder.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from indexer.artifacts.journal import Journal
from indexer.artifacts.lines import Refusals
from indexer.indexing.items import ItemIndexer
from indexer.ledger import Ledger
from indexer.llm import LLM, NO_ANSWER, Budget, EndpointDownError, Usage
from indexer.reasoning.answering import Answerer
from indexer.reasoning.item_steps import ItemSteps, extractor, item_steps
from indexer.reasoning.step import Sources
from indexer.updates.add import Added, StreamingIndexer
from indexer.updates.erasing.report import Erased, append
from indexer.updates.erasing.run import UnknownUserError, erasing
from indexer.updates.erasing.stored import Stored
from indexer.updates.item_reasoning import ItemReasoner
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import IndexLockedError, IndexUnavailableError, P4RError, for_log
from p4r_qdrant.records import Item, Review
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.live import Live
from p4r_qdrant.users.records import ItemWork, Job, JobCounts, StoredInteraction
from p4r_qdrant.users.store import BEGUN, UserStore

JOBS_AT_ONCE = 64
POLL_S = 0.5
PURGE_EVERY_S = 3600.0
"""How often what was erased is taken out of the files of the storage, which rewrites them."""
ATTEMPTS = 5
"""How often a job is tried if the answers are unusable."""
RETRY_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""How long all jobs wait if the LLM or Qdrant cannot be reached; doubled each time."""
DRAIN_S = 10.0
"""How long jobs in progress may take after a request to stop."""

_log = logging.getLogger(__name__)


class Worker:
    """Does jobs until it is stopped. Needs an open backend."""

    def __init__(self, backend: Backend, sources: Sources, ledger: Ledger) -> None:
        self._backend = backend
        self._sources = sources
        self._ledger = ledger
        self._steps: tuple[str, ItemSteps] | None = None
        """The steps, and the fingerprint of the encoder that they are for."""
        self._budget = Budget(
            sources.llm, ledger
        )  # one for all batches: the ceilings bind the process
        self._again = set[str]()
        """Items to reason on although the journal has no new record of them."""
        self.done: Counter[str] = Counter()
        """Numbers of jobs done, by kind, of jobs "given up" and "put off", of items whose answer
        to a remark could not be used ("without the remark"), and of personas "withheld" by
        decisions, rules or the policy of the publish."""
        self.problem = ""
        """Why jobs wait now; empty if they do not."""
        self._waits_until = float("-inf")
        self._pause_s = FIRST_PAUSE_S

    @property
    def usage(self) -> Usage:
        """Tokens and cost of the LLM so far."""
        return self._budget.usage

    @property
    def job_counts(self) -> JobCounts:
        """Numbers of jobs by state. Raises IndexUnavailableError."""
        with self._backend.in_use() as live:
            return live.users.jobs.counts()

    async def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then jobs in progress get DRAIN_S seconds."""
        while not stop.is_set():
            if not await self.turn(stop):
                await pause(POLL_S, stop)

    async def run_once(self, stop: threading.Event) -> None:
        """Work until no job is due, or `stop` is set. Raises P4RError if all jobs must wait."""
        while not stop.is_set() and await self.work_once():
            pass

    async def turn(self, stop: threading.Event) -> int:
        """Do the jobs that are due; returns their number, and 0 while all jobs must wait."""
        if time.monotonic() < self._waits_until:
            return 0
        batch = asyncio.create_task(self.work_once())
        try:
            found = await _drained(batch, stop)
        except P4RError as error:
            self.problem = str(error)
            _log.warning("jobs wait %g s: %s", self._pause_s, for_log(error))
            self._waits_until = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return 0
        self._pause_s, self.problem = FIRST_PAUSE_S, ""
        return found

    async def work_once(self) -> int:
        """Do the jobs that are due; returns their number. Raises P4RError if all jobs must wait."""
        if not await asyncio.to_thread(self._backend.open):
            raise IndexUnavailableError("the index cannot be reached")
        await asyncio.to_thread(self._backend.follow)
        with self._backend.in_use() as live:
            return await self._work(live)

    async def _work(self, live: Live) -> int:
        store = live.users
        jobs = await asyncio.to_thread(store.jobs.due, JOBS_AT_ONCE)
        erasures = [job for job in jobs if job.kind == "erase"]
        for job in erasures:
            await asyncio.to_thread(self._erase, live, job)
        for job in jobs:
            if job.kind == "purge":
                await asyncio.to_thread(self._purge, live, job)
        if erasures:  # the other jobs may hold what is erased: they are read again
            return len(erasures)
        by_kind = {kind: [job for job in jobs if job.kind == kind] for kind in _KINDS}
        if by_kind["aspects"] or by_kind["item"]:
            async with self._answerer(live.encoder) as llm:
                try:
                    await self._read_all(live, by_kind["aspects"], llm)
                    await self._add(live, by_kind["item"], llm)
                finally:
                    await asyncio.to_thread(self._ledger.sync)
        return len(jobs)

    def _answerer(self, encoder: Encoder) -> AbstractAsyncContextManager[Answerer]:
        if self._sources.extractive:
            return extractor(encoder, self._ledger)
        return LLM(self._sources.llm, self._ledger, budget=self._budget)

    def _steps_for(self, encoder: Encoder) -> ItemSteps:
        """The steps, made once for each encoder: extractive ones learn terms of the catalogue."""
        if self._steps is None or self._steps[0] != encoder.fingerprint:
            made = item_steps(self._sources, Refusals(), encoder)
            self._steps = encoder.fingerprint, made
        return self._steps[1]

    # -- aspects ------------------------------------------------------------------------------

    async def _read_all(self, live: Live, jobs: Sequence[Job], llm: Answerer) -> None:
        """Read reviews concurrently; then raise the first error, if there is one."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._caught(self._read(live, job, llm))) for job in jobs]
        for task in tasks:
            if (error := task.result()) is not None:
                raise error

    async def _caught(self, reading: Any) -> P4RError | None:
        try:
            await reading
        except P4RError as error:
            return error
        return None

    async def _read(self, live: Live, job: Job, llm: Answerer) -> None:
        """Extract the aspects of one review and update the vectors."""
        store = live.users
        like = StoredInteraction(job.user_id, job.body["item_id"], int(job.body["timestamp"]))
        one = await asyncio.to_thread(store.get, like)
        if one is None:  # erased meanwhile
            await self._finish(store, job)
            return
        reading = self._steps_for(live.encoder).aspects
        question = reading.question(
            Item(item_id=one.item_id, title=one.title),
            Review(
                user_id=one.user_id,
                item_id=one.item_id,
                rating=one.rating or 0.0,
                timestamp=one.timestamp,
                title=one.review_title,
                text=one.review_text,
            ),
        )
        aspects: dict[str, str | None] = {}
        if question is not None:
            answers = await asyncio.gather(*(llm.ask(request) for request in question.requests))
            wrong = next((answer for answer in answers if not answer.ok), None)
            if wrong is not None:
                await self._fail(store, job, "; ".join(wrong.problems) or "no usable answer")
                return
            found = reading.record(question.about, [answer.value for answer in answers])
            aspects = found.aspects if found is not None else {}
        await asyncio.to_thread(_settle, live, replace(one, aspects=aspects))
        await self._finish(store, job)

    # -- items --------------------------------------------------------------------------------

    async def _add(self, live: Live, jobs: Sequence[Job], llm: Answerer) -> None:
        """Reason on items and their reviews and index them, as `p4r add` does."""
        if not jobs:
            return
        added: dict[str, Added] = {}
        steps = self._steps_for(live.encoder)
        store, index, refusals = live.users, live.writer, Refusals()
        works = [ItemWork.model_validate(job.body) for job in jobs]
        with Journal(self._sources.folder) as journal:
            for work in works:
                item_id = work.item_id
                again = work.item is None or item_id in self._again
                if again or not await asyncio.to_thread(index.get, item_id):
                    journal.ask_again(item_id)
            indexer = StreamingIndexer(
                ItemReasoner(self._sources, journal, self._ledger, llm, steps, index),
                ItemIndexer(live.encoder, index, refusals, provisional=True),
                settle_s=0,
                reported=lambda one: added.update({one.item_id: one}),
            )
            await indexer.run(
                record for work in works for record in (work.item, *work.reviews) if record
            )
        self._again = {job.body["item_id"] for job in jobs}
        await asyncio.to_thread(self._backend.refresh)
        if not self._backend.is_now(
            live
        ):  # after a publish, the jobs are done again for its version
            return
        self._again.clear()
        for job in jobs:
            done = added.get(job.body["item_id"])
            if done is not None and done.withheld:
                self.done["withheld"] += done.withheld
                _log.info("item %r: %d personas are withheld", done.item_id, done.withheld)
            if done is not None and done.notice:
                self.done["without the remark"] += 1
                _log.warning("item %r: %s", done.item_id, done.notice)
            if done is not None and done.problem:
                await self._fail(store, job, done.problem)
            else:
                await self._finish(store, job)

    # -- erasing ------------------------------------------------------------------------------

    def _erase(self, live: Live, job: Job) -> None:
        """Erase a user, and enqueue the items whose personas rested on the user's reviews."""
        store, folder, user_id = live.users, self._sources.folder, job.body["user_id"]
        if job.body.get(BEGUN):  # by a service that was killed, or goes on just now
            store.erase_here(user_id)
        self._backend.cache.clear()  # a vector tells something of its text
        stored = Stored(self._backend.settings, live.writer, store, purges=False)
        try:
            with erasing(folder, self._ledger, [user_id], Refusals(), stored=stored) as erased:
                for item_id in erased.items:
                    store.jobs.add(ItemWork(item_id=item_id).job())
        except UnknownUserError:  # erased already, or never there
            pass
        except IndexLockedError as error:  # by a publish, say: the rest goes when it has ended
            _log.warning("an erasure is not complete yet: %s", for_log(error))
            store.jobs.postpone(job, str(error), RETRY_S)
            self.done["put off"] += 1
            return
        store.jobs.add(_purge_job(time.time()))
        store.jobs.finish(job)
        self.done[job.kind] += 1

    def _purge(self, live: Live, job: Job) -> None:
        """Take what was erased out of the files of the storage, and report what remains."""
        done = Erased(places=Stored(self._backend.settings, live.writer, live.users).purge())
        append(self._sources.folder.path, {"purged": True, **done.record()})
        if done.problem is not None:
            raise done.problem
        live.users.jobs.finish(job)
        self.done[job.kind] += 1

    # -- what becomes of a job ----------------------------------------------------------------

    async def _finish(self, store: UserStore, job: Job) -> None:
        await asyncio.to_thread(store.jobs.finish, job)
        self.done[job.kind] += 1

    async def _fail(self, store: UserStore, job: Job, problem: str) -> None:
        """Try a job again later, or give it up. Raises EndpointDownError if no answer came."""
        if NO_ANSWER in problem:
            raise EndpointDownError(problem)
        last = job.attempts + 1 >= ATTEMPTS
        if last:
            await asyncio.to_thread(store.jobs.give_up, job, problem)
        else:
            await asyncio.to_thread(store.jobs.postpone, job, problem, RETRY_S * 2**job.attempts)
        self.done["given up" if last else "put off"] += 1


def _settle(live: Live, one: StoredInteraction) -> None:
    vector = live.encoder.encode_queries([one.text])[0] if one.text else None
    live.users.settle(one.encoded(vector))


_KINDS = ("aspects", "item")


def _purge_job(now: float) -> Job:
    """The purge of all that is erased within PURGE_EVERY_S, at the end of it."""
    window = int(now // PURGE_EVERY_S)
    return Job(f"purge {window}", "purge", not_before=(window + 1) * PURGE_EVERY_S)


async def _drained(batch: asyncio.Task[int], stop: threading.Event) -> int:
    """The result of the batch; 0 if it is cancelled, DRAIN_S after `stop` is set."""
    while not batch.done() and not stop.is_set():
        await asyncio.wait({batch}, timeout=POLL_S)
    await asyncio.wait({batch}, timeout=DRAIN_S)
    if not batch.done():
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)
        return 0
    return batch.result()


async def pause(seconds: float, stop: threading.Event) -> None:
    """Sleep for some seconds, or until `stop` is set."""
    await asyncio.to_thread(stop.wait, seconds)
