"""Places in the plane: near vectors lie near each other, the same ones at the same place."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from indexer.segments.mapping import KEPT, MOST_CATEGORIES, grouped, places, write_map
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.maps import OTHER, Groups, PersonaMap
from p4r_qdrant.index.payload import point_id


def test_the_plane_of_most_variance_on_one_scale() -> None:
    rng = np.random.default_rng(3)
    plane = rng.normal(size=(500, 2)) * [5, 2]
    turned, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    noise = rng.normal(size=(500, 6)) * 0.01
    vectors = (plane @ turned[:2] + noise).astype(np.float32)
    found = places(vectors).astype(float)
    assert found.min() == 0
    assert found.max() == 65535
    between = np.linalg.norm(plane[:250] - plane[250:], axis=1)
    drawn = np.linalg.norm(found[:250] - found[250:], axis=1)
    scale = np.median(drawn / between)
    assert np.allclose(drawn, between * scale, atol=0.05 * scale), "distances stay"
    assert np.ptp(found[:, 0]) > np.ptp(found[:, 1]), "the first component lies across"
    assert (places(vectors) == found).all()


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements=st.floats(-1, 1, width=32),
    )
)
def test_any_vectors_have_places(
    vectors: "np.ndarray[tuple[int, int], np.dtype[np.float32]]",
) -> None:
    found = places(vectors)
    assert found.shape == (len(vectors), 2)
    if (vectors == vectors[0]).all():
        assert len(np.unique(found, axis=0)) == 1


def none(count: int) -> Groups:
    return Groups(np.zeros(count, np.uint8), np.zeros(count, np.uint8))


def test_only_the_newest_maps_stay(tmp_path: Path) -> None:
    names = []
    for number in range(KEPT + 2):
        vectors = np.eye(4, dtype=np.float32)[: 2 + number % 3]
        points = [point_id(f"item {number}", place) for place in range(len(vectors))]
        name = write_map(tmp_path, vectors, none(len(vectors)), ["p"] * len(vectors), points)
        os.utime(tmp_path / "maps" / f"{name}.npy", (number, number))
        names.append(name)
    assert {one.stem for one in (tmp_path / "maps").iterdir()} == set(names[-KEPT:])
    assert len(PersonaMap(tmp_path / "maps", names[-1])) == len(vectors)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        write_map(tmp_path, np.eye(1, dtype=np.float32), none(1), ["p"], [point_id("a", 0)])


def test_the_largest_categories_have_places() -> None:
    names = [f"c{number}" for number in range(MOST_CATEGORIES + 2)]
    found, at = grouped([*names, "c3", "c3", "c9", "", "c9"])
    assert found[:2] == ["c3", "c9"]
    assert len(found) == MOST_CATEGORIES
    assert at[3] == at[-4] == at[-5] == 0
    assert (at[-2], at[-1]) == (OTHER, 1)
