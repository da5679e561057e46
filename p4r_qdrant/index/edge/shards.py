"""Make a shard, also from the points of another one.

The segments and the write-ahead log of a shard keep deleted data. A new shard that gets the
remaining points does not. A copy cannot leave out the log: points have the numbers of their last
writes, and writes with lower numbers are ignored.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from p4r_qdrant.errors import IndexUnavailableError, SettingsError
from p4r_qdrant.index import payload as names
from p4r_qdrant.settings import IndexSettings

POINTS_A_CALL = 1000


def check_settings(settings: IndexSettings) -> None:
    """Raise SettingsError for a setting that only a server has."""
    only_server = {
        "QUANTIZATION": settings.quantization != "none",
        "SHARDS": settings.shards > 1,
        "REPLICATION": settings.replication > 1,
        "WRITE_CONSISTENCY": settings.write_consistency > 1,
        "READ_FAN_OUT": settings.read_fan_out > 0,
    }
    for name, is_set in only_server.items():
        if is_set:
            raise SettingsError(
                f"P4R_INDEX__{name} needs a Qdrant server: set P4R_QDRANT__URL, or unset it"
            )


def create_shard(path: Path, dimension: int, settings: IndexSettings) -> edge.EdgeShard:
    """An empty shard with its payload indexes."""
    path.mkdir(exist_ok=True)
    shard = edge.EdgeShard.create(str(path), _config(dimension, settings))
    for field, kind in (
        (names.ITEM_ID, edge.PayloadSchemaType.Keyword),
        (names.POSITION, edge.PayloadSchemaType.Integer),
        (names.UNSETTLED, edge.PayloadSchemaType.Integer),
    ):
        shard.update(edge.UpdateOperation.create_field_index(field, kind))
    shard.flush()
    return shard


def rebuild_shard(source: Path, target: Path, dimension: int, settings: IndexSettings) -> None:
    """Make a shard with the points of another that no process has open, and optimize it.

    It is done in a process of its own, since Qdrant Edge holds the GIL.
    Raises IndexUnavailableError.
    """
    made = json.dumps([dimension, settings.model_dump(mode="json")])
    command = [sys.executable, "-m", __name__, str(source), str(target), made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise IndexUnavailableError(f"optimizing {source} failed: {done.stderr.strip()[-300:]}")


def _rebuild(source: str, target: str, made: str) -> None:
    dimension, settings = json.loads(made)
    old = edge.EdgeShard.load(source)
    new = create_shard(Path(target), dimension, IndexSettings(**settings))
    offset: Any = None
    while True:
        request = edge.ScrollRequest(
            offset=offset, limit=POINTS_A_CALL, with_payload=True, with_vector=True
        )
        page, offset = old.scroll(request)
        points = [edge.Point(one.id, _vector(one), one.payload) for one in page]
        if points:
            new.update(edge.UpdateOperation.upsert_points(points))
        if offset is None:
            break
    new.flush()
    new.optimize()
    new.close()
    old.close()


def _vector(point: edge.Record) -> Any:
    return point.vector  # which was asked for


def _config(dimension: int, settings: IndexSettings) -> edge.EdgeConfig:
    datatype = {
        "float32": edge.VectorStorageDatatype.Float32,
        "float16": edge.VectorStorageDatatype.Float16,
    }[settings.datatype]
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            size=dimension,
            distance=edge.Distance.Cosine,
            memory=edge.Memory.Cold if settings.on_disk_vectors else edge.Memory.Cached,
            datatype=datatype,
        ),
        hnsw_config=edge.HnswIndexConfig(
            m=16 if settings.hnsw else 0,
            ef_construct=100,
            full_scan_threshold=10_000,
            payload_m=0,
        ),
        payload_memory=edge.Memory.Cold if settings.on_disk_payload else edge.Memory.Cached,
    )


if __name__ == "__main__":
    _rebuild(*sys.argv[1:])
