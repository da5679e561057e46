"""Results that are kept as they come, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import portalocker

import p4r_qdrant
from indexer import evaluation
from indexer.artifacts.writing import written_whole
from indexer.evaluation.experiment.data import files_hash
from p4r_qdrant.errors import InputError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and keep it to this process; raises InputError where another one has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
    with lock:
        try:
            portalocker.lock(lock, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.LockException:
            raise InputError(
                f"another experiment is writing to {folder}; wait until it has ended, or name "
                "another folder"
            ) from None
        yield


class Stages:
    """Results of stages in a folder, each with what it was made from.

    A stage is done again where its inputs, or the code that evaluates, have changed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._code = _code_hash()
        self.seconds: dict[str, float] = {}

    def result(self, name: str, inputs: Any, make: Callable[[], Any]) -> Any:
        """The stage's result (any JSON value), made now unless it is there."""
        path = self._folder / f"{name}.json"
        key = hashlib.sha256(json.dumps([self._code, inputs], sort_keys=True).encode()).hexdigest()
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        if kept.get("key") != key:
            began = time.perf_counter()
            result = make()
            kept = {"key": key, "seconds": time.perf_counter() - began, "result": result}
            with written_whole(path) as write:
                write(json.dumps(kept))
        self.seconds[name] = kept["seconds"]
        return kept["result"]


_SHOWS_ONLY = {"report.py", "figures.py"}


def _code_hash() -> str:
    folders = [Path(module.__path__[0]) for module in (evaluation, p4r_qdrant)]
    return files_hash(path for folder in folders for path in _sources(folder))


def _sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if path.name not in _SHOWS_ONLY)
