"""`p4r work`: the jobs that the service enqueued and that need an LLM.

    aspects   a review of an interaction is read (Eq. 2); its vector and the user's follow
    item      metadata and reviews become personas in the index, as `p4r add` would do it
    erase     what came from a user leaves the artifact folder and the ledger

A job is taken away when it is done, never before, and the ledger knows every answer: killed at
any moment, the worker goes on where it was and pays for nothing twice. Where the LLM is away, jobs
wait. One worker at a time per artifact folder: the ledger's lock sees to it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from indexer.artifacts.journal import Journal
from indexer.artifacts.lines import Refusals
from indexer.indexing.items import ItemIndexer
from indexer.ledger import Ledger
from indexer.llm import LLM, NO_ANSWER, EndpointDownError, Usage
from indexer.reasoning.aspects import ReviewAspects
from indexer.reasoning.step import Sources
from indexer.updates.add import Added, StreamingIndexer
from indexer.updates.erase import erase_users
from indexer.updates.item_reasoning import ItemReasoner
from p4r_qdrant.errors import IndexUnavailableError, InputError, P4RError
from p4r_qdrant.records import Item, Review
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.live import Live
from p4r_qdrant.users.records import ItemWork, Job, JobCounts, StoredInteraction
from p4r_qdrant.users.store import UserStore

JOBS_AT_ONCE = 64
POLL_S = 0.5
ATTEMPTS = 5
"""How often a job is tried whose answers cannot be used."""
RETRY_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""How long everything waits where the LLM or Qdrant is away; doubled each time."""
DRAIN_S = 10.0
"""How long jobs under way may take when the worker is asked to end."""

_log = logging.getLogger(__name__)


class Worker:
    """Does jobs until it is asked to end. Needs an open backend."""

    def __init__(self, backend: Backend, sources: Sources, ledger: Ledger) -> None:
        self._backend = backend
        self._sources = sources
        self._ledger = ledger
        self._aspects = ReviewAspects(sources, Refusals())
        self._spent = Usage()
        self._again = set[str]()
        """Items to be reasoned on although nothing new is said of them."""
        self.done: Counter[str] = Counter()
        """Jobs done, by kind; "given up" and "put off" among them."""
        self.problem = ""
        """Why nothing is done now; empty where something is."""

    @property
    def usage(self) -> Usage:
        """What the LLM has cost so far."""
        return self._spent

    @property
    def job_counts(self) -> JobCounts:
        """How many jobs are waiting, and how many were given up. Raises IndexUnavailableError."""
        with self._backend.in_use() as live:
            return live.users.jobs.counts()

    async def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then end what is under way, within DRAIN_S."""
        pause = FIRST_PAUSE_S
        while not stop.is_set():
            batch = asyncio.create_task(self.work_once())
            try:
                found = await _drained(batch, stop)
                pause, self.problem = FIRST_PAUSE_S, ""
                if not found:
                    await _sleep(POLL_S, stop)
            except P4RError as error:
                self.problem = str(error)
                _log.warning("jobs wait %g s: %s", pause, error)
                await _sleep(pause, stop)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def work_once(self) -> int:
        """Do the jobs whose time has come, and count them. Raises what makes all of them wait."""
        if not await asyncio.to_thread(self._backend.open):
            raise IndexUnavailableError("the index cannot be reached")
        await asyncio.to_thread(self._backend.follow)
        with self._backend.in_use() as live:
            return await self._work(live)

    async def _work(self, live: Live) -> int:
        store = live.users
        jobs = await asyncio.to_thread(store.jobs.due, JOBS_AT_ONCE)
        by_kind = {kind: [job for job in jobs if job.kind == kind] for kind in _KINDS}
        for job in by_kind["erase"]:  # first: what follows must not read it any more
            await asyncio.to_thread(self._erase, live, job)
        if by_kind["aspects"] or by_kind["item"]:
            async with LLM(self._sources.llm, self._ledger) as llm:
                try:
                    await self._read_all(live, by_kind["aspects"], llm)
                    await self._add(live, by_kind["item"], llm)
                finally:
                    self._spent = self._spent + llm.usage
                    await asyncio.to_thread(self._ledger.sync)
        return len(jobs)

    # -- aspects ------------------------------------------------------------------------------

    async def _read_all(self, live: Live, jobs: Sequence[Job], llm: LLM) -> None:
        """Read reviews side by side; the first that says the LLM is away ends them all."""
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

    async def _read(self, live: Live, job: Job, llm: LLM) -> None:
        """One review: its aspects, its vector, the user's."""
        store = live.users
        like = StoredInteraction(job.user_id, job.body["item_id"], int(job.body["timestamp"]))
        one = await asyncio.to_thread(store.get, like)
        if one is None:  # erased meanwhile
            await self._finish(store, job)
            return
        question = self._aspects.question(
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
            found = self._aspects.record(question.about, [answer.value for answer in answers])
            aspects = found.aspects if found is not None else {}
        await asyncio.to_thread(_settle, live, replace(one, aspects=aspects))
        await self._finish(store, job)

    # -- items --------------------------------------------------------------------------------

    async def _add(self, live: Live, jobs: Sequence[Job], llm: LLM) -> None:
        """Items and their reviews, through what `p4r add` does."""
        if not jobs:
            return
        added: dict[str, Added] = {}
        store, index, refusals = live.users, live.writer, Refusals()
        works = [ItemWork.model_validate(job.body) for job in jobs]
        with Journal(self._sources.folder) as journal:
            for work in works:
                item_id = work.item_id
                again = work.item is None or item_id in self._again
                if again or not await asyncio.to_thread(index.get, item_id):
                    journal.waiting.add(item_id)  # even if the journal knows it already
            indexer = StreamingIndexer(
                ItemReasoner(self._sources, journal, self._ledger, llm, refusals),
                ItemIndexer(live.encoder, index, refusals),
                settle_s=0,
                reported=lambda one: added.update({one.item_id: one}),
            )
            await indexer.run(
                record for work in works for record in (work.item, *work.reviews) if record
            )
        self._again = {job.body["item_id"] for job in jobs}
        await asyncio.to_thread(self._backend.refresh)
        if not self._backend.is_now(live):  # a publish has switched: done again, for that version
            return
        self._again.clear()
        for job in jobs:
            done = added.get(job.body["item_id"])
            if done is not None and done.problem:
                await self._fail(store, job, done.problem)
            else:
                await self._finish(store, job)

    # -- erasing ------------------------------------------------------------------------------

    def _erase(self, live: Live, job: Job) -> None:
        """What rested on the user's reviews is reasoned on again, without them."""
        store = live.users
        try:
            erased = erase_users(
                self._sources.folder, self._ledger, [job.body["user_id"]], Refusals()
            )
        except InputError:  # in none of the files
            pass
        else:
            for item_id in erased.items:
                store.jobs.add(ItemWork(item_id=item_id).job())
            for item_id in erased.bare:
                live.writer.delete_item(item_id)
        store.jobs.finish(job)
        self.done[job.kind] += 1

    # -- what becomes of a job ----------------------------------------------------------------

    async def _finish(self, store: UserStore, job: Job) -> None:
        await asyncio.to_thread(store.jobs.finish, job)
        self.done[job.kind] += 1

    async def _fail(self, store: UserStore, job: Job, problem: str) -> None:
        """Try again later, or no more. Raises EndpointDownError where nobody has answered."""
        if NO_ANSWER in problem:
            raise EndpointDownError(problem)
        last = job.attempts + 1 >= ATTEMPTS
        if last:
            await asyncio.to_thread(store.jobs.give_up, job, problem)
        else:
            await asyncio.to_thread(store.jobs.postpone, job, problem, RETRY_S * 2**job.attempts)
        self.done["given up" if last else "put off"] += 1


def _settle(live: Live, one: StoredInteraction) -> None:
    vector = live.encoder.encode_texts([one.text])[0] if one.text else None
    live.users.settle(one.encoded(vector))


_KINDS = ("erase", "aspects", "item")


async def _drained(batch: asyncio.Task[int], stop: threading.Event) -> int:
    """The batch's result; once `stop` is set, it has DRAIN_S to come to an end."""
    while not batch.done() and not stop.is_set():
        await asyncio.wait({batch}, timeout=POLL_S)
    await asyncio.wait({batch}, timeout=DRAIN_S)
    if not batch.done():
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)
        return 0
    return batch.result()


async def _sleep(seconds: float, stop: threading.Event) -> None:
    await asyncio.to_thread(stop.wait, seconds)


def publish_metrics(worker: Worker, host: str, port: int) -> int:
    """Answer Prometheus on a port of its own (0: a free one); returns it. Raises InputError."""
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class OfWorker(Collector):
        """Asked at every scrape; the names are those that `p4r serve` uses."""

        def collect(self) -> Iterator[Metric]:
            """See prometheus_client."""
            usage = worker.usage
            yield GaugeMetricFamily("p4r_llm_tokens", "Tokens spent.", usage.tokens)
            yield GaugeMetricFamily("p4r_llm_cost_usd", "US dollars spent.", usage.cost_usd or 0.0)
            done = CounterMetricFamily("p4r_worker", "What became of jobs.", labels=["what"])
            for what, count in list(worker.done.items()):
                done.add_metric([what], count)
            yield done
            waits = bool(worker.problem)
            yield GaugeMetricFamily("p4r_worker_waits", "1 while the LLM or Qdrant is away.", waits)
            with suppress(P4RError):
                jobs = GaugeMetricFamily("p4r_jobs", "Background jobs.", labels=["state"])
                for state, count in worker.job_counts.items():
                    jobs.add_metric([state], count)
                yield jobs

    registry = CollectorRegistry()
    registry.register(OfWorker())
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); choose another "
            "--metrics-port"
        ) from None
    return int(server.server_port)


class WorkerThread:
    """A worker inside `p4r serve`, on a thread and an event loop of its own."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="p4r-worker")

    def _run(self) -> None:
        try:
            asyncio.run(self._worker.run(self._stop))
        except Exception:
            _log.exception("the worker has ended; jobs are kept until the service starts again")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End what is under way, within DRAIN_S."""
        self._stop.set()
        self._thread.join()

    def spent(self) -> tuple[int, float | None]:
        """Tokens and US dollars so far; None where a price is not known."""
        usage = self._worker.usage
        return usage.tokens, usage.cost_usd
