"""Finished parts of a long fit on disk, so that a killed fit goes on where it stopped.

    FOLDER/fitting/HASH/NAME.npz    the arrays of one part; HASH is that of the fit's inputs

Parts of other inputs are deleted when a fit begins, and its own when it has ended.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.artifacts.names import FITTING
from p4r_qdrant.whole_files import whole_file

_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile)

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Finished:
    """The parts of one fit. folder: None keeps nothing."""

    folder: Path | None = None

    def get(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """A part, made now unless it is there whole. Where it cannot be written, it is not kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.npz"
        with suppress(*_UNREADABLE), np.load(path) as held:
            return {key: held[key] for key in held.files}
        made: dict[str, Any] = {**make()}
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                np.savez(file, **made)
        return made


KEPT_NOWHERE = Finished()


@contextmanager
def finished_parts(folder: Path, digest: str) -> Iterator[Finished]:
    """The parts of the fit with this hash of its inputs; deleted if the block ends well."""
    own = folder / FITTING / digest
    for other in (folder / FITTING).glob("*"):
        if other != own:
            shutil.rmtree(other, ignore_errors=True)
    yield Finished(own)
    forget_parts(folder)


def forget_parts(folder: Path) -> None:
    """Delete the parts of all fits."""
    shutil.rmtree(folder / FITTING, ignore_errors=True)
