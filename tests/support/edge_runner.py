"""Runs tests.support.edge_process and follows what it prints."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import warm
from tests.support.paths import ROOT


class Process:
    """A running tests.support.edge_process, with the events that were read so far."""

    def __init__(self, folder: Path, task: str, first: int = 0) -> None:
        command = [sys.executable, "-m", "tests.support.edge_process"]
        self.popen = warm.Popen(
            [*command, str(folder), task, str(first)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.begun: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.words: list[str] = []
        self.last = ""

    def read(self, until: str = "", times: int = 1) -> bool:
        """Read events until `until` has come so many times; False at the end of the output."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.last = line.strip()
            event, *words = self.last.split(" ", 2)
            if event in ("begin", "done") and len(words) == 2 and line.endswith("\n"):
                (self.begun if event == "begin" else self.done)[words[0]] = int(words[1])
            times -= bool(until) and event == until
            if not times:
                return True
        return False

    def kill(self, *, with_children: bool = True) -> None:
        """kill -9, then read the events that are left."""
        if with_children:
            os.killpg(self.popen.pid, signal.SIGKILL)
        else:
            self.popen.kill()
        self.read()
        self.end()

    def end(self) -> int:
        self.popen.communicate()
        return self.popen.wait()


@contextmanager
def process(folder: Path, task: str, first: int = 0) -> Iterator[Process]:
    running = Process(folder, task, first)
    try:
        yield running
    finally:
        if running.popen.poll() is None:
            running.kill()
