"""Lists of point ids: what a kill leaves is right, a position beyond all points is found out."""

import shutil
from pathlib import Path

import pytest

from p4r_qdrant import open_index
from p4r_qdrant.errors import IndexUnavailableError
from p4r_qdrant.index.edge.trackers import damage_of
from tests.support.engines import embedded, opened
from tests.support.index_data import rows
from tests.support.messages import sentence
from tests.support.oracle import Catalogue

CATALOGUE = Catalogue({f"i{n}": rows(n, 3) for n in range(20)})
UUID = 21
"""Bytes of an insertion."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a kill leaves it: replaced and deleted items, and no checksums."""
    with opened(embedded(tmp_path / "index")) as index:
        index.load(CATALOGUE.rows())
        index.load(Catalogue({"i3": rows(9, 7)}).rows())
        index.delete_item("i5")
    (tmp_path / "index" / "sums.json").unlink()
    return tmp_path / "index"


def tracker(folder: Path) -> Path:
    found = folder.glob("shard-*/segments/*/mutable_id_tracker.mappings")
    return max(found, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("bit", [6, 24, 30, 31])
def test_a_position_beyond_all_points(folder: Path, bit: int) -> None:
    """Qdrant Edge made room for it: gigabytes, and minutes."""
    path = tracker(folder)
    content = bytearray(path.read_bytes())
    content[UUID - 4 + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with pytest.raises(IndexUnavailableError) as caught:
        open_index(embedded(folder))
    assert "is damaged (shard-1/segments/" in sentence(caught)


def test_every_end_that_a_kill_may_leave(folder: Path, tmp_path: Path) -> None:
    shard = folder / "shard-1"
    assert damage_of(shard) == ""
    content = tracker(folder).read_bytes()
    for end in range(len(content)):
        tracker(folder).write_bytes(content[:end])
        assert damage_of(shard) == "", end
        tracker(folder).write_bytes(content[:end] + bytes(len(content) - end))
        assert damage_of(shard) == "", end
    tracker(folder).write_bytes(content)
    with open_index(embedded(folder)) as index:
        assert len(index.get("i3")) == 7
    shutil.rmtree(folder)
