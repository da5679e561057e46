"""`p4r serve --workers`: several processes that answer on one socket.

This process only starts them, replaces those that die, and takes signals: SIGTERM and SIGINT end
all of them after their running requests, SIGHUP replaces them one after the other by new ones.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import Settings

DRAIN_S = 20
"""Seconds that running requests may take when a process is asked to end."""
END_S = DRAIN_S + 5
"""Seconds after which a process that was asked to end is killed."""
READY_S = 120.0
"""Seconds within which a new process has to be ready to take an old one's place."""
POLL_S = 0.1
"""How often signals and deaths are looked for."""
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Pauses before a process that died before it was ready is replaced; they double."""

METRICS = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client finds the metrics of all processes."""

_log = logging.getLogger(__name__)


@dataclass
class Worker:
    """One process. alive: it writes a byte there when it is ready."""

    process: subprocess.Popen[bytes]
    alive: int
    is_ready: bool = False

    def look(self) -> bool:
        """Whether it is ready."""
        if not self.is_ready:
            with suppress(BlockingIOError):
                self.is_ready = os.read(self.alive, 1) != b""
        return self.is_ready


@dataclass
class Workers:
    """`count` processes that answer on `listening`."""

    settings: Settings
    listening: socket.socket
    folder: str
    """Where the processes write their metrics."""
    _running: list[Worker] = field(default_factory=list)
    _is_ending: bool = False
    _is_restarting: bool = False
    _pause_s: float = PAUSE_S

    def run(self) -> None:
        """Keep them running until a signal ends it."""
        with self._signals():
            try:
                for _ in range(self.settings.service.workers):
                    self._running.append(self._started())
                while not self._is_ending:
                    time.sleep(POLL_S)
                    self._replace_dead()
                    if self._is_restarting:
                        self._is_restarting = False
                        self._restart()
            finally:
                self._end(self._running)

    def _started(self) -> Worker:
        alive, told = os.pipe()
        os.set_blocking(alive, False)
        handle = self.listening.fileno()
        path = os.pathsep.join(one for one in sys.path if one)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "p4r_qdrant.service.process"],
            stdin=subprocess.PIPE,
            pass_fds=(handle, told),
            env={**os.environ, METRICS: self.folder, "PYTHONPATH": path},
        )
        os.close(told)
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        with suppress(BrokenPipeError):  # it died: `_replace_dead` finds it
            pickle.dump((self.settings, handle, told), process.stdin)
            process.stdin.flush()
        return Worker(process, alive)

    def _replace_dead(self) -> None:
        for place, one in enumerate(self._running):
            if one.look():
                self._pause_s = PAUSE_S
            if (code := one.process.poll()) is None:
                continue
            _log.error("worker process %d ended (%d); another one starts", one.process.pid, code)
            if not one.is_ready:
                self._sleep(self._pause_s)
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._forget(one)
            if self._is_ending:
                return
            self._running[place] = self._started()

    def _restart(self) -> None:
        """Replace each process by a new one that is ready, and only then end the old one."""
        for place, old in enumerate(self._running):
            new = self._started()
            deadline = time.monotonic() + READY_S
            while not new.look() and new.process.poll() is None and not self._is_ending:
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_S)
            if not new.is_ready:
                self._end([new])
                if not self._is_ending:
                    _log.error("a new worker process was not ready; the old ones go on")
                return
            self._running[place] = new
            self._end([old])
            _log.info("worker process %d replaces %d", new.process.pid, old.process.pid)

    def _end(self, workers: list[Worker]) -> None:
        for one in workers:
            one.process.terminate()
        deadline = time.monotonic() + END_S
        for one in workers:
            try:
                one.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            self._forget(one)

    def _forget(self, one: Worker) -> None:
        mark_process_dead(one.process.pid, self.folder)  # type: ignore[no-untyped-call]
        os.close(one.alive)
        if one.process.stdin is not None:
            with suppress(BrokenPipeError):
                one.process.stdin.close()

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._is_ending and time.monotonic() < until:
            time.sleep(POLL_S)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(*_: Any) -> None:
            self._is_ending = True

        def restart(*_: Any) -> None:
            self._is_restarting = True

        wanted = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: restart}
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve_together(settings: Settings, listening: socket.socket) -> None:
    """Answer in `settings.service.workers` processes until a signal ends it. Raises InputError."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="p4r-metrics-")
    except OSError as error:
        raise InputError(
            f"no temporary file can be written ({error.strerror or error}), and several workers "
            "write their metrics there: set TMPDIR to a folder that can be written, or use "
            "--workers 1"
        ) from None
    with folder as path:
        Workers(settings, listening, path).run()
