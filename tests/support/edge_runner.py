"""Runs tests.support.edge_process and follows what it prints."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from p4r_qdrant import PersonaIndex
from tests.support import warm
from tests.support.edge_process import ITEMS, vectors_of, version
from tests.support.oracle import DIMENSION, Catalogue, assert_congruent
from tests.support.paths import ROOT

USERS = np.random.default_rng(123).standard_normal((3, DIMENSION))


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


def check_versions(
    index: PersonaIndex, begun: dict[str, int], done: dict[str, int]
) -> dict[str, int]:
    """Each item is in its last acknowledged version, or in the one that was being written.

    Returns in which.
    """
    held = {}
    whole = index.hashes([f"item-{number}" for number in range(ITEMS)])
    catalogue = Catalogue({})
    for item_id in {**done, **begun}:
        found = [one.persona_id for one in index.get(item_id)]
        allowed = [
            number for number in (done.get(item_id), begun.get(item_id)) if number is not None
        ]
        versions = {
            number: [one.persona_id for one in version(item_id, number).personas]
            for number in allowed
        }
        if item_id not in done and not found:
            continue
        assert found in versions.values(), f"{item_id} holds {found}, not {versions}"
        assert item_id in whole or item_id not in begun, f"{item_id} is not settled"
        number = next(number for number, names in versions.items() if names == found)
        catalogue.vectors[item_id] = vectors_of(number)
        held[item_id] = number
    assert_congruent(index, catalogue, USERS, [[*catalogue.vectors, "missing"]] * 3)
    return held
