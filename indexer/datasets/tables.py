"""Read and write Parquet files and data frames through Arrow (extra `data`).

A data frame is an object with Arrow's C stream interface: a pandas, polars or Arrow table. Reading
and writing go batch by batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from indexer.artifacts.opening import BOM, opened_lines
from p4r_qdrant.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 4096
_INT64 = 2**63


@runtime_checkable
class Frame(Protocol):
    """A data frame: what pandas, polars and Arrow tables have in common."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows, as an Arrow stream."""


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (where, row) of a Parquet file. Raises InputError if it is not one."""
    check_installed()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _rows(file.iter_batches(batch_size=_BATCH), str(path))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def frame_rows(frame: Frame) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (where, row) of a data frame."""
    check_installed()
    import pyarrow as pa

    yield from _rows(pa.RecordBatchReader.from_stream(frame), "data frame")


def _rows(batches: Iterable[pa.RecordBatch], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in batches:
        for row in _plain_times(batch).to_pylist():
            number += 1
            yield f"{name}, row {number}", row


def _plain_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Convert time stamps to seconds, because Python cannot hold every zone and nanosecond.

    Drops a pandas index that was kept as a column.
    """
    import pyarrow as pa

    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name.startswith("__index_level_"):
            continue
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("s", column.type.tz), safe=False).cast(pa.int64())
        columns[name] = column
    return pa.RecordBatch.from_pydict(columns)


def read_table(path: Path) -> pa.Table:
    """An artifact file (JSON Lines) as an Arrow table: `.to_pandas()`, or `polars.from_arrow`.

    Texts, numbers and lists of texts keep their types; other values become JSON text.
    """
    check_installed()
    import pyarrow as pa

    schema = _schema(path)
    return pa.Table.from_batches(_batches(path, schema), schema)


def write_parquet(path: Path, parquet: Path) -> None:
    """Write an artifact file (JSON Lines) as a Parquet file; columns as in `read_table`."""
    check_installed()
    import pyarrow.parquet as pq

    schema = _schema(path)
    with pq.ParquetWriter(parquet, schema) as writer:
        for batch in _batches(path, schema):
            writer.write_batch(batch)


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    as_json = {
        field.name for field in schema if (field.metadata or {}).get(b"form", b"") == b"json"
    }
    rows: list[dict[str, Any]] = []
    for row in _records(path):
        for name in as_json & row.keys():
            row[name] = json.dumps(row[name], ensure_ascii=False)
        rows.append(row)
        if len(rows) == _BATCH:
            yield pa.RecordBatch.from_pylist(rows, schema)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema)


def _schema(path: Path) -> pa.Schema:
    """The columns of a file, from all of its lines: the first ones may hold only nulls."""
    import pyarrow as pa

    kinds: dict[str, set[str]] = {}
    for row in _records(path):
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
    types = {
        frozenset({"bool"}): pa.bool_(),
        frozenset({"int"}): pa.int64(),
        frozenset({"float"}): pa.float64(),
        frozenset({"int", "float"}): pa.float64(),
        frozenset({"texts"}): pa.list_(pa.string()),
        frozenset({"text"}): pa.string(),
        frozenset(): pa.string(),
    }
    fields = []
    for name, found in kinds.items():
        known = types.get(frozenset(found - {"null"}))
        metadata = {"form": "json"} if known is None else None
        fields.append(pa.field(name, known or pa.string(), metadata=metadata))
    return pa.schema(fields)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() if -_INT64 <= value < _INT64:
            return "int"
        case float():
            return "float"
        case str():
            return "text"
        case list() if all(isinstance(one, str) for one in value):
            return "texts"
    return "other"


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with opened_lines(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.removeprefix(BOM).strip():
                continue
            try:
                record = json.loads(line.removeprefix(BOM))
            except ValueError as error:
                raise InputError(f"{path}:{number}: is not JSON: {error}") from None
            if not isinstance(record, dict):
                raise InputError(f"{path}:{number}: is not a JSON object")
            yield record


def check_installed() -> None:
    """Raise MissingExtraError if pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise MissingExtraError(
            "Parquet files and data frames need pyarrow: pip install 'p4r-qdrant[data]'"
        )
