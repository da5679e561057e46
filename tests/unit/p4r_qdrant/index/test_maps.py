"""The file of a map: written, read, broken, named wrongly."""

import io
from pathlib import Path

import numpy as np
import pytest

from p4r_qdrant.errors import InputError
from p4r_qdrant.index.maps import Groups, PersonaMap, keys_of, map_file, persona_key
from p4r_qdrant.index.payload import point_id

IDS = ["item 0_P7", "\udcff", "P1"]
POINTS = [point_id(f"item {number}", number) for number in range(3)]


def written(folder: Path) -> str:
    places = np.array([[0, 65535], [258, 1], [7, 8]], np.uint16)
    groups = Groups(np.array([0, 199, 2], np.uint8), np.array([1, 255, 0], np.uint8))
    name, content = map_file(places, groups, IDS, POINTS)
    (folder / f"{name}.npy").write_bytes(content)
    return name


def test_a_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = PersonaMap(tmp_path, written(tmp_path))
    assert [found.point_id(number) for number in range(len(found))] == POINTS
    assert found.drawn() == b"\0\0\2\1\7\0" + b"\xff\xff\1\0\10\0" + bytes([0, 199, 2, 1, 255, 0])
    assert found.places().tolist() == [[0, 65535], [258, 1], [7, 8]]
    keys = [keys_of(f"item {n}", [persona_key(one)]) for n, one in enumerate(IDS)]
    assert found.keys().tolist() == [one for [one] in keys]
    with pytest.raises(IndexError):
        found.point_id(3)


def test_what_is_no_map(tmp_path: Path) -> None:
    name = written(tmp_path)
    path = tmp_path / f"{name}.npy"
    other = io.BytesIO()
    np.save(other, np.zeros(4))
    whole = path.read_bytes()
    for broken in (b"", b"x", whole[:-1], whole[:40], other.getvalue()):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="run p4r segments again"):
            PersonaMap(tmp_path, name)
    for elsewhere in ("", "0" * 32, f"../{tmp_path.name}/{name}", f"{name}\0", "/etc/passwd"):
        with pytest.raises(InputError, match="has no map"):
            PersonaMap(tmp_path, elsewhere)
