"""`p4r work` for all tenants of an index: one worker each in one process, which take turns."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from indexer.ledger import LEDGER, Ledger
from indexer.llm import Usage
from indexer.reasoning.step import Sources
from indexer.updates.worker import POLL_S, Worker, pause
from p4r_qdrant.errors import P4RError, for_log
from p4r_qdrant.index.opening import open_tenants
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.settings import Settings
from p4r_qdrant.users.records import JobCounts

LIST_EVERY_S = 10.0
"""How often the tenants are listed, for those that were added or dropped."""

_log = logging.getLogger(__name__)


@dataclass
class _Open:
    """The worker of a tenant, with what has to be closed after it."""

    worker: Worker
    held: ExitStack = field(repr=False)


class TenantWorkers:
    """The workers of all tenants that something was published to.

    Batches of jobs of different tenants are done one after the other, so the limits of the LLM hold
    for all of them together. A tenant whose jobs must wait keeps no other one from its turn. One
    whose ledger is in use, by a `p4r work --tenant` say, is left to that process.
    """

    def __init__(self, settings: Settings, sources_of: Callable[[str], Sources]) -> None:
        """sources_of: the artifact folder and the prompts of a tenant."""
        self._settings = settings
        self._sources_of = sources_of
        self._shared = Backend(settings)  # whose encoders and cache all tenants use
        self._open: dict[str, _Open] = {}
        self._listed_at = float("-inf")
        self._reported: dict[str, str] = {}
        """Why a tenant has no worker, as the log says."""
        self._done: Counter[str] = Counter()
        """Of workers that are closed."""
        self._used = Usage()

    @property
    def _workers(self) -> list[Worker]:
        return [one.worker for one in [*self._open.values()]]

    @property
    def done(self) -> Counter[str]:
        """See `Worker.done`: of all tenants together."""
        return sum((one.done for one in self._workers), self._done.copy())

    @property
    def usage(self) -> Usage:
        """Tokens and cost of the LLM so far, of all tenants together."""
        return sum((one.usage for one in self._workers), self._used)

    @property
    def problem(self) -> str:
        """Why the jobs of a tenant wait now; empty if those of none do."""
        return next((one.problem for one in self._workers if one.problem), "")

    @property
    def job_counts(self) -> JobCounts:
        """Numbers of jobs by state, of all tenants that can be asked."""
        counts: JobCounts = {"waiting": 0, "failed": 0}
        for one in self._workers:
            with suppress(P4RError):
                for state, count in one.job_counts.items():
                    counts[state] += count
        return counts

    async def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then jobs in progress get DRAIN_S seconds."""
        while not stop.is_set():
            if time.monotonic() - self._listed_at > LIST_EVERY_S:
                self._listed_at = time.monotonic()
                try:
                    await asyncio.to_thread(self._list)
                except P4RError as error:
                    _log.warning("the tenants cannot be listed: %s", for_log(error))
            found = 0
            for worker in self._workers:
                found += await worker.turn(stop)
            if not found:
                await pause(POLL_S, stop)

    async def run_once(self, stop: threading.Event) -> None:
        """Work until no job is due. Raises the first P4RError, after the other tenants' turns."""
        await asyncio.to_thread(self._list)
        problems = []
        for name, one in self._open.items():
            try:
                await one.worker.run_once(stop)
            except P4RError as error:
                _log.error("the jobs of %s wait: %s", name, for_log(error))
                problems.append(error)
        if problems:
            raise problems[0]

    def _list(self) -> None:
        """Open the workers of new tenants, and close those of tenants that were dropped."""
        with open_tenants(self._settings) as tenants:
            served = {one.name for one in tenants.all() if one.live}
        for name in self._open.keys() - served:
            self._close(name)
        for name in sorted(served - self._open.keys()):
            try:
                self._open[name] = self._opened(name)
            except P4RError as error:
                if self._reported.get(name) != str(error):
                    _log.warning("no jobs of %s are done here: %s", name, for_log(error))
                self._reported[name] = str(error)
            else:
                self._reported.pop(name, None)

    def _opened(self, name: str) -> _Open:
        sources = self._sources_of(name)
        with ExitStack() as held:
            ledger = held.enter_context(Ledger(sources.folder.path / LEDGER))
            backend = self._shared.of_tenant(name)
            held.callback(backend.close)
            return _Open(Worker(backend, sources, ledger), held.pop_all())

    def _close(self, name: str) -> None:
        one = self._open.pop(name)
        self._done += one.worker.done
        self._used += one.worker.usage
        one.held.close()

    def close(self) -> None:
        """Close everything."""
        for name in [*self._open]:
            self._close(name)
        self._shared.close()
