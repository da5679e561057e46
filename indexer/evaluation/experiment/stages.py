"""Results of stages on disk, so that a killed run resumes where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from indexer.artifacts.writing import written_whole
from indexer.evaluation.experiment.dependencies import ROOT, code_hash
from p4r_qdrant import file_lock
from p4r_qdrant.errors import InputError

RESULTS, REPORT = "results.json", "report.html"
LOCK = ".lock"


def written_in(folder: Path) -> list[Path]:
    """The files of a folder that an experiment would write, or has written."""
    drawn = [*folder.glob("*.png"), *folder.glob("*.csv")] if folder.is_dir() else []
    return [folder / RESULTS, folder / REPORT, *drawn]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder of an experiment and lock it.

    Raises: InputError if another process holds the lock, or if the folder holds other results.
    """
    try:
        foreign = [] if (folder / LOCK).exists() else [*filter(Path.exists, written_in(folder))]
        if foreign:
            raise InputError(f"no experiment wrote {foreign[0]}; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock.take(folder / LOCK)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
    if lock is None:
        raise InputError(
            f"another experiment is writing to {folder}; wait until it has ended, or name "
            "another folder"
        )
    with lock:
        yield


class Stages:
    """Results of stages in a folder, each with a hash of what it was made from.

    A stage is run again when its inputs change, or the code that it uses.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}

    def result(
        self, name: str, uses: Sequence[ModuleType], inputs: Any, make: Callable[[], Any]
    ) -> Any:
        """The result of a stage (any JSON value), made now unless it is there.

        uses: the modules whose code makes the result. With all that they import they decide
        whether a kept result still holds. inputs: any JSON value; results of earlier stages that
        this one uses are inputs too, so that it is run again when they change.
        """
        path = self._folder / f"{name}.json"
        key = stage_key(uses, inputs)
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


def stage_key(uses: Sequence[ModuleType], inputs: Any, root: Path = ROOT) -> str:
    """A hash of code and inputs."""
    code = code_hash([module.__name__ for module in uses], root)
    return hashlib.sha256(json.dumps([code, inputs], sort_keys=True).encode()).hexdigest()
