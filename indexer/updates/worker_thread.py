"""Run a worker inside `p4r serve`."""

from __future__ import annotations

import asyncio
import logging
import threading

from indexer.updates.worker import Worker

_log = logging.getLogger(__name__)


class WorkerThread:
    """A worker on a thread and an event loop of its own."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="p4r-worker")

    def _run(self) -> None:
        try:
            asyncio.run(self._worker.run(self._stop))
        except Exception:
            _log.exception("the worker stopped; jobs are kept until the service starts again")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the worker and wait for it; jobs in progress get DRAIN_S seconds."""
        self._stop.set()
        self._thread.join()

    def spent(self) -> tuple[int, float | None]:
        """Tokens and US dollars spent so far; None if a price is unknown."""
        usage = self._worker.usage
        return usage.tokens, usage.cost_usd
