"""The history of publishes: what changed, what a kill leaves, how much is kept."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from p4r_qdrant.errors import InputError
from p4r_qdrant.index import history
from p4r_qdrant.index.history import (
    History,
    PublishRecord,
    SegmentSize,
    all_publishes,
    item_history,
)
from p4r_qdrant.records import Persona


def personas(*texts: str) -> list[Persona]:
    return [
        Persona(persona_id=f"P{number}", name=text, description=text, preference_rationale=text)
        for number, text in enumerate(texts)
    ]


def publish(
    path: Path, says: dict[str, list[str]], version: str = "v1", *, finishes: bool = True
) -> None:
    with closing(History(path)) as found, found.recording() as recording:
        for item_id, texts in says.items():
            recording.settle(item_id, personas(*texts))
        if finishes:
            count = sum(map(len, says.values()))
            record = PublishRecord(0, "2026-01-01", version, len(says), count, {"sea": count})
            recording.finish(record, says)


def changes(path: Path, item_id: str) -> list[tuple[int, int, int, int]]:
    found = item_history(path, item_id)
    return [(one.personas, one.new, one.changed, one.gone) for one in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def test_what_changed_from_publish_to_publish(path: Path) -> None:
    assert (all_publishes(path), item_history(path, "a")) == ([], [])
    publish(path, {"a": ["x", "y"], "b": ["z"]})
    publish(path, {"a": ["x", "y"], "b": ["z"]})
    assert len(all_publishes(path)) == 1, "nothing changed"
    publish(path, {"a": ["x", "other", "third"]})
    publish(path, {"a": ["x"], "b": ["z"]})
    assert changes(path, "a") == [(2, 2, 0, 0), (3, 1, 1, 0), (1, 0, 0, 2)]
    assert changes(path, "b") == [(1, 1, 0, 0), (0, 0, 0, 1), (1, 1, 0, 0)]
    found = all_publishes(path)
    assert [(one.items, one.personas, dict(one.categories)) for one in found] == [
        (2, 3, {"sea": 3}),
        (1, 3, {"sea": 3}),
        (2, 2, {"sea": 2}),
    ]
    publish(path, {"a": ["x"], "b": ["z"]}, "v2")
    assert [one.version for one in all_publishes(path)] == ["v1", "v1", "v1", "v2"]


def test_a_publish_that_does_not_end_leaves_nothing(path: Path) -> None:
    publish(path, {"a": ["x"]})
    publish(path, {"a": ["y"], "b": ["z"]}, finishes=False)
    assert changes(path, "a") == [(1, 1, 0, 0)]
    with closing(sqlite3.connect(path)) as file:  # as a kill leaves it
        file.execute("INSERT INTO items VALUES ('a', 2, x'0102030405060708')")
        file.commit()
    assert changes(path, "a") == [(1, 1, 0, 0)]
    publish(path, {"a": ["y"]})
    assert changes(path, "a") == [(1, 1, 0, 0), (1, 0, 1, 0)]


def test_only_the_newest_publishes_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    monkeypatch.setattr(history, "AT_ONCE", 2)
    for number in range(8):
        says = {"same": ["x"], "each": [f"t{number}"], "first": ["a" if number < 2 else "b"]}
        publish(path, says | ({"early": ["e"]} if number < 1 else {}))
    assert [one.number for one in all_publishes(path)] == [6, 7, 8]
    assert changes(path, "each") == [(1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 1, 0)]
    assert changes(path, "same") == changes(path, "first") == [(1, 1, 0, 0)]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT COUNT(*) FROM items").fetchone() == (6,)


def test_segments_go_to_the_publish_of_their_version(path: Path) -> None:
    publish(path, {"a": ["x"]})
    sizes = [SegmentSize("s1", "Sea", 1)]
    with closing(History(path)) as found:
        found.note_segments(PublishRecord(0, "t", "v1", 1, 1, {}, sizes))
        found.note_segments(PublishRecord(0, "t", "v2", 5, 9, {"land": 9}, sizes * 2))
    first, second = all_publishes(path)
    assert (first.segments, second.segments) == (sizes, sizes * 2)
    assert (second.number, second.items, second.personas) == (2, 5, 9)


@pytest.mark.parametrize("content", [b"no database" * 99, b"SQLite format 3\0" + b"x" * 200])
def test_a_broken_file_is_one_sentence(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="remove it, and the history"):
        publish(path, {"a": ["x"]})
    with pytest.raises(InputError, match="cannot be used"):
        all_publishes(path)
