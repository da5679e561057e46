"""Read the vectors of personas that were encoded elsewhere from a file.

    FILE.npy       (n_personas, dim), a row for each persona in the order of personas.jsonl
    FILE.parquet   columns item_id, persona_id, vector; in any order

The vectors stay on disk. The caller names their encoder by a fingerprint, and promises that all
vectors with this fingerprint, those of users too, come from that encoder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import PERSONAS
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import VECTORS
from p4r_qdrant.errors import InputError, MissingExtraError
from p4r_qdrant.records import ItemPersonas

COLUMNS = ["item_id", "persona_id", "vector"]
ROWS_A_BATCH = 4096
"""Rows of a Parquet file in memory at a time."""

_FINGERPRINT = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class VectorFile:
    """The vectors of the personas of an artifact folder, in place of an `Encoder`.

    matrix: (n_personas, dim), any float type. starts: the row of each item's first persona.
    """

    kind = VECTORS
    model = ""
    adapter = ""
    options: Mapping[str, Any] = MappingProxyType({})
    lengths = None
    tolerance = 1e-5
    workers = 1

    def __init__(
        self, matrix: npt.NDArray[np.floating[Any]], starts: dict[str, int], fingerprint: str
    ) -> None:
        self.fingerprint = self.name = fingerprint
        self.dimension = int(matrix.shape[1])
        self._matrix = matrix
        self._starts = starts

    def of(self, item: ItemPersonas, positions: Sequence[int | None] | None = None) -> Floats:
        """The vectors of an item's personas: (n, dim) float32.

        positions: their places in personas.jsonl, where a review has taken some out; a persona
        without one, whose texts are a reviewer's, has no vector.
        """
        own = range(len(item.personas)) if positions is None else positions
        rows = [self._starts[item.item_id] + one for one in own if one is not None]
        with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused
            return np.asarray(self._matrix[rows], dtype=np.float32)

    def hash_of(self, item: ItemPersonas, positions: Sequence[int | None] | None = None) -> str:
        """A hash of the vectors of an item's personas."""
        return hashlib.sha256(self.of(item, positions).tobytes()).hexdigest()[:16]

    def on_all_devices(self) -> AbstractContextManager[None]:
        """Do nothing: there is nothing to encode."""
        return nullcontext()


@contextmanager
def opened(path: Path, folder: ArtifactFolder, fingerprint: str) -> Iterator[VectorFile]:
    """Context manager that yields the vectors of a file.

    Raises: InputError if the file cannot be read or does not match the folder's personas.
    """
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise InputError(
            "--fingerprint names the encoder of the vectors in 1 to 64 letters, digits, hyphens, "
            f"dots and underscores, not {fingerprint[:80]!r}"
        )
    if not path.is_file():
        raise InputError(f"{path} cannot be read: there is no such file")
    if path.suffix == ".npy":
        starts, total = _starts(folder)
        yield VectorFile(_npy(path, total, folder), starts, fingerprint)
    elif path.suffix == ".parquet":
        with tempfile.TemporaryDirectory(prefix="p4r-vectors-") as place:
            matrix, starts = _parquet(path, folder, Path(place) / "vectors.npy")
            yield VectorFile(matrix, starts, fingerprint)
            del matrix
    else:
        raise InputError(f"{path} is not a vector file: name FILE.npy or FILE.parquet")


def _records(folder: ArtifactFolder) -> Iterator[ItemPersonas]:
    """The lines of personas.jsonl. Raises InputError for a broken one: it would shift the rows."""
    broken = Refusals(keep=1)
    for _, _, record in read_lines(folder.personas(), ItemPersonas, broken):
        if broken.total:
            break
        yield record
    if broken.total:
        raise InputError(
            f"{broken.sentences[0]}; repair it: vectors are found by the order of the lines"
        )


def _starts(folder: ArtifactFolder) -> tuple[dict[str, int], int]:
    """(the row of each item's first persona, the number of rows)."""
    starts: dict[str, int] = {}
    total = 0
    for record in _records(folder):
        starts.setdefault(record.item_id, total)  # of a repeated item id the first line counts
        total += len(record.personas)
    return starts, total


def _npy(path: Path, total: int, folder: ArtifactFolder) -> npt.NDArray[np.floating[Any]]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of heads that Python 2 wrote
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged head raises whatever parses it
        if "object" in str(error):  # NumPy advises to run what is in it
            raise InputError(
                f"{path} holds Python objects (a pickle), or no array at all: save the vectors by "
                "numpy.save as one array of floats"
            ) from None
        why = " ".join(str(error).split())
        raise InputError(f"{path} is not an array that NumPy can map: {why}") from None
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind != "f":
        what = f"{matrix.dtype} {matrix.shape}" if isinstance(matrix, np.ndarray) else "several"
        raise InputError(f"{path} must be one array of floats (personas, dimension), not {what}")
    if len(matrix) != total or not matrix.shape[1]:
        raise InputError(
            f"{path} has {len(matrix)} rows of {matrix.shape[1]} numbers, but "
            f"{folder.path / PERSONAS} has {total} personas: give one row for each, in their order"
        )
    return matrix


def _parquet(
    path: Path, folder: ArtifactFolder, place: Path
) -> tuple[npt.NDArray[np.floating[Any]], dict[str, int]]:
    """(matrix on disk in the order of personas.jsonl, the row of each item's first persona)."""
    starts: dict[str, int] = {}
    row_of: dict[tuple[str, str], int] = {}
    total = 0
    for record in _records(folder):
        if record.item_id not in starts:
            starts[record.item_id] = total
            for row, persona in enumerate(record.personas, start=total):
                row_of.setdefault((record.item_id, persona.persona_id), row)
            total += len(record.personas)
    missing = set(row_of)
    matrix: npt.NDArray[np.float32] | None = None
    for names, vectors in _parquet_batches(path):
        if matrix is None:
            shape = (total, vectors.shape[1])
            matrix = np.lib.format.open_memmap(place, "w+", np.float32, shape=shape)
        if vectors.shape[1] != matrix.shape[1]:
            raise InputError(
                f"{path} has vectors of {vectors.shape[1]} numbers, and others of {matrix.shape[1]}"
            )
        for name, vector in zip(names, vectors, strict=True):
            if name in missing:
                matrix[row_of[name]] = vector
                missing.discard(name)
            elif name in row_of:
                raise InputError(f"{path} has the persona {name[1]!r} of item {name[0]!r} twice")
    if missing or matrix is None:
        item_id, persona_id = min(missing, default=("", ""))
        raise InputError(
            f"{path} has no vector for {len(missing)} personas of {folder.path / PERSONAS} "
            f"(first: {persona_id!r} of item {item_id!r})"
        )
    return matrix, starts


def _parquet_batches(path: Path) -> Iterator[tuple[list[tuple[str, str]], Floats]]:
    """Stream batches: the (item id, persona id) of each row, and the vectors (n, dim)."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("Parquet files need pyarrow: pip install 'p4r-qdrant[data]'")
    import pyarrow as arrow
    from pyarrow import compute, parquet

    try:
        with parquet.ParquetFile(path) as file:
            if lacking := set(COLUMNS) - set(file.schema_arrow.names):
                raise InputError(f"{path} has no column {min(lacking)!r}")
            for batch in file.iter_batches(ROWS_A_BATCH, columns=COLUMNS):
                items, personas, vectors = (batch.column(one) for one in COLUMNS)
                names = zip(
                    items.cast(arrow.string()).to_pylist(),
                    personas.cast(arrow.string()).to_pylist(),
                    strict=True,
                )
                widths = compute.unique(compute.list_value_length(vectors)).to_pylist()
                if not widths:
                    continue
                if len(widths) > 1 or not widths[0]:
                    raise InputError(
                        f"{path} has vectors of {widths} numbers; all must have the same length"
                    )
                flat = vectors.flatten().to_numpy(zero_copy_only=False)
                yield list(names), flat.astype(np.float32).reshape(-1, widths[0])
    except (arrow.ArrowException, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a Parquet file of vectors: {reason}") from None
