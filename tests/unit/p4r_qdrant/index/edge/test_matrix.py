"""The matrix of scoring rows against a brute force, and what it does with files that lie."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p4r_qdrant.arrays import Floats
from p4r_qdrant.index.edge import matrix as module
from p4r_qdrant.index.edge.matrix import FIRST_ROWS, ScoreMatrix
from tests.support.damage import flip

DIMENSION = 5


def unit(*rows: list[float]) -> Floats:
    matrix = np.array(rows, dtype=np.float32).reshape(-1, DIMENSION)
    scaled: Floats = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def random_rows(count: int, seed: int = 0) -> Floats:
    return unit(*np.random.default_rng(seed).normal(size=(count, DIMENSION)).tolist())


def truth(items: dict[str, Floats], vector: Floats, asked: list[str]) -> dict[str, float]:
    return {one: float((items[one] @ vector).max()) for one in asked if one in items}


def assert_same(rows: ScoreMatrix, items: dict[str, Floats], tolerance: float = 1e-6) -> None:
    vector = random_rows(1, seed=99)[0]
    asked = ["missing", *items, "\x00nobody"]
    best = rows.best(vector, asked)
    expected = truth(items, vector, asked)
    assert list(best) == list(expected)
    for item_id, (score, slot) in best.items():
        assert abs(score - expected[item_id]) <= tolerance
        assert abs(float(items[item_id][slot] @ vector) - score) <= tolerance


ITEMS = st.sampled_from(["a", "b", "c", "émoji 🎻", 'quote"\\'])
ACTIONS = st.one_of(
    st.tuples(st.just("put"), ITEMS, st.integers(1, 7), st.integers(0, 5)),
    st.tuples(st.just("drop"), ITEMS),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("crash")),
)


@pytest.mark.parametrize(("datatype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
@settings(max_examples=60)
@given(actions=st.lists(ACTIONS, max_size=12))
def test_whatever_is_done_the_scores_are_those_of_a_brute_force(
    datatype: str,
    tolerance: float,
    actions: list[tuple[Any, ...]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = ScoreMatrix(folder, DIMENSION, datatype)
    items: dict[str, Floats] = {}
    for action, *details in actions:
        if action == "put":
            item_id, count, seed = details
            items[item_id] = random_rows(count, seed)
            rows.begin_write()
            rows.put(item_id, items[item_id])
        elif action == "drop":
            rows.begin_write()
            rows.drop([details[0], "never there"])
            items.pop(details[0], None)
        else:
            if action == "reopen":
                rows.save()
            rows = ScoreMatrix(folder, DIMENSION, datatype)
            if not rows.load():
                for item_id, vectors in items.items():
                    rows.put(item_id, vectors)
        assert_same(rows, items, tolerance)
    shutil.rmtree(folder)


@pytest.mark.parametrize("gathered", [1, DIMENSION, 3 * DIMENSION, 10**6])
def test_many_rows_are_multiplied_in_parts(
    gathered: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHERED", gathered)
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    items = {f"item-{number}": random_rows(1 + number % 7, number) for number in range(50)}
    for item_id, vectors in items.items():
        rows.put(item_id, vectors)
    assert_same(rows, items)


def test_more_rows_than_the_file_had_room_for(tmp_path: Path) -> None:
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    items = {str(number): random_rows(7, number) for number in range(2 * FIRST_ROWS // 7)}
    for item_id, vectors in items.items():
        rows.put(item_id, vectors)
    assert_same(rows, items)
    rows.save()
    again = ScoreMatrix(tmp_path, DIMENSION, "float32")
    assert again.load()
    assert_same(again, items)


def test_of_equals_the_lower_slot_wins(tmp_path: Path) -> None:
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    same = [0.0, 1.0, 0.0, 0.0, 0.0]
    rows.put("first", unit([1, 0, 0, 0, 0]))
    rows.put("twins", unit([1, 0, 0, 0, 0], same, same, same))
    vector = unit(same)[0]
    assert rows.best(vector, ["first", "twins"]) == {"first": (0.0, 0), "twins": (1.0, 1)}


def test_negative_scores_have_a_best_too(tmp_path: Path) -> None:
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    rows.put("a", unit([-1, 0, 0, 0, 0], [-0.6, 0.8, 0, 0, 0]))
    [(score, slot)] = rows.best(unit([1, 0, 0, 0, 0])[0], ["a"]).values()
    assert (round(score, 6), slot) == (-0.6, 1)


def test_an_empty_matrix(tmp_path: Path) -> None:
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    assert rows.best(random_rows(1)[0], ["a"]) == {}
    rows.save()
    assert ScoreMatrix(tmp_path, DIMENSION, "float32").load()


def test_a_reader_keeps_its_rows_while_others_are_written(tmp_path: Path) -> None:
    """A mapping that is in use stays valid when the file grows."""
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    rows.put("a", random_rows(3))
    held = rows._matrix
    before = held[:3].copy()
    for number in range(FIRST_ROWS):
        rows.put("a", random_rows(3, number))
    assert rows._matrix is not held
    np.testing.assert_array_equal(held[:3], before)


# --- the files ---------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    rows.begin_write()
    rows.put("a", random_rows(3))
    rows.put("b", random_rows(2, 1))
    rows.save()
    return tmp_path


def test_what_was_saved_is_loaded(saved: Path) -> None:
    rows = ScoreMatrix(saved, DIMENSION, "float32")
    assert rows.load()
    assert_same(rows, {"a": random_rows(3), "b": random_rows(2, 1)})
    rows.put("c", random_rows(1, 2))
    assert_same(rows, {"a": random_rows(3), "b": random_rows(2, 1), "c": random_rows(1, 2)})


def test_from_the_first_write_to_the_next_save_there_is_no_directory(saved: Path) -> None:
    rows = ScoreMatrix(saved, DIMENSION, "float32")
    assert rows.load()
    rows.begin_write()
    assert not (saved / "rows.json").exists()
    assert not ScoreMatrix(saved, DIMENSION, "float32").load()  # as after kill -9
    rows.put("a", random_rows(1, 5))
    rows.save()
    assert (saved / "rows.json").exists()
    rows.begin_write()
    assert not (saved / "rows.json").exists()


def test_begin_write_counts_without_load(saved: Path) -> None:
    ScoreMatrix(saved, DIMENSION, "float32").begin_write()
    assert not (saved / "rows.json").exists()


def test_saving_twice_writes_once(saved: Path) -> None:
    rows = ScoreMatrix(saved, DIMENSION, "float32")
    rows.load()
    (saved / "rows.json").unlink()
    rows.save()
    assert not (saved / "rows.json").exists()


@pytest.mark.parametrize("name", ["rows.bin", "rows.json"])
@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.99])
def test_one_flipped_bit_is_found_and_made_good(name: str, place: float, saved: Path) -> None:
    used = (saved / "rows.json").stat().st_size if name == "rows.json" else 5 * DIMENSION * 4
    flip(saved / name, int(place * used))
    rows = ScoreMatrix(saved, DIMENSION, "float32")
    assert not rows.load()
    items = {"a": random_rows(3), "b": random_rows(2, 1)}
    for item_id, vectors in items.items():
        rows.put(item_id, vectors)
    rows.save()
    again = ScoreMatrix(saved, DIMENSION, "float32")
    assert again.load()
    assert_same(again, items)


def test_rows_without_a_checksum_are_made_anew(saved: Path) -> None:
    (saved / "rows.json").write_text(json.dumps(DIRECTORY))  # as earlier releases wrote it
    assert not ScoreMatrix(saved, DIMENSION, "float32").load()


DIRECTORY = {
    "dimension": DIMENSION,
    "dtype": "float32",
    "used": 5,
    "places": {"a": [0, 3], "b": [3, 2]},
}


@pytest.mark.parametrize(
    "change",
    [
        {"dimension": DIMENSION + 1},
        {"dtype": "float16"},
        {"used": -1},
        {"used": None},
        {"used": "five"},
        {"used": 10**9},
        {"used": 4},
        {"places": []},
        {"places": None},
        {"places": {"a": 3}},
        {"places": {"a": [0, 3, 1]}},
        {"places": {"a": ["x", 1]}},
        {"places": {"a": [3, 3]}},
        {"places": {"a": [-1, 2]}},
        {"places": {"a": [0, 0]}},
        {"places": {"a": [0, -3]}},
    ],
)
def test_a_directory_that_does_not_fit_is_refused_for_good(
    change: dict[str, Any], saved: Path
) -> None:
    stored = json.loads((saved / "rows.json").read_text())
    rows_5 = np.fromfile(saved / "rows.bin", np.float32).reshape(-1, DIMENSION)[:5]
    assert stored == DIRECTORY | {"sum": module.directory_sum(DIRECTORY, rows_5)}
    changed = DIRECTORY | change
    used = change["used"] if isinstance(change.get("used"), int) else 5
    fitting = {"sum": module.directory_sum(changed, rows_5[:used])}
    (saved / "rows.json").write_text(json.dumps(changed | fitting))
    rows = ScoreMatrix(saved, DIMENSION, "float32")
    assert not rows.load()
    assert rows.best(random_rows(1)[0], ["a", "b"]) == {}
    assert not (saved / "rows.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b'{"used": 5}'])
def test_a_directory_that_is_none(content: bytes, saved: Path) -> None:
    (saved / "rows.json").write_bytes(content)
    assert not ScoreMatrix(saved, DIMENSION, "float32").load()


@pytest.mark.parametrize("cut", [1, 4, 20])
def test_a_truncated_directory(cut: int, saved: Path) -> None:
    content = (saved / "rows.json").read_bytes()
    (saved / "rows.json").write_bytes(content[:-cut])
    assert not ScoreMatrix(saved, DIMENSION, "float32").load()


@pytest.mark.parametrize("size", [None, 0, 5 * DIMENSION * 4 - 1])
def test_a_matrix_that_is_gone_or_truncated_is_not_read_as_zeros(
    size: int | None, saved: Path
) -> None:
    if size is None:
        (saved / "rows.bin").unlink()
    else:
        with (saved / "rows.bin").open("r+b") as file:
            file.truncate(size)
    assert not ScoreMatrix(saved, DIMENSION, "float32").load()


def test_a_refused_directory_never_meets_the_rows_that_follow_it(saved: Path) -> None:
    """Truncated matrix, made anew in another order, and killed before it was saved."""
    with (saved / "rows.bin").open("r+b") as file:
        file.truncate(8)
    rows = ScoreMatrix(saved, DIMENSION, "float32")
    assert not rows.load()
    rows.put("b", random_rows(2, 1))
    rows.put("a", random_rows(3))
    assert not ScoreMatrix(saved, DIMENSION, "float32").load()


def test_with_more_dead_rows_than_live_ones_nothing_is_saved(tmp_path: Path) -> None:
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    rows.begin_write()
    for number in range(FIRST_ROWS + 4):
        rows.put("a", random_rows(1, number))
    rows.save()
    assert not (tmp_path / "rows.json").exists()
    assert_same(rows, {"a": random_rows(1, FIRST_ROWS + 3)})
    assert not ScoreMatrix(tmp_path, DIMENSION, "float32").load()


def test_a_save_that_fails_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ScoreMatrix(tmp_path, DIMENSION, "float32")
    rows.begin_write()
    rows.put("a", random_rows(1))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            rows.save()
    assert not (tmp_path / "rows.json").exists()
    rows.save()
    assert (tmp_path / "rows.json").exists()
