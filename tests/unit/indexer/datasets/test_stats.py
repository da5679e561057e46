"""A data set in numbers, computed by hand, and its picture."""

import json
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.datasets import plot as plots
from indexer.datasets.plot import check_plot, plot
from indexer.datasets.stats import dataset_stats
from p4r_qdrant.errors import InputError, MissingExtraError

DAY = 86400


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactFolder:
    pairs = [("u", "a"), ("u", "b"), ("u", "c"), ("v", "a"), ("v", "b"), ("w", "a")]
    lines(
        tmp_path / "reviews.jsonl",
        [
            {
                "user_id": user,
                "item_id": item,
                "rating": 5 - n,
                "timestamp": n * DAY,
                "text": "two words",
            }
            for n, (user, item) in enumerate(pairs)
        ],
    )
    lines(
        tmp_path / "items.jsonl",
        [{"item_id": "a", "title": "A"}, {"item_id": "b"}, {"item_id": "z", "title": "Z"}],
    )
    lines(
        tmp_path / "splits.jsonl",
        [{"user_id": "u", "test_item": "c", "valid_item": "b", "tie": False}],
    )
    return ArtifactFolder(tmp_path)


def test_the_table(folder: ArtifactFolder) -> None:
    found = dataset_stats(folder, Refusals())
    assert found.sparsity == pytest.approx(1 - 6 / 9)
    assert found.rows() == {
        "interactions": "6",
        "users": "3",
        "items": "3",
        "items with metadata": "1 (33.3%)",
        "sparsity": "33.3333%",
        "interactions of a user": "mean 2.0, median 2, 1 to 3",
        "interactions of an item": "mean 2.0, median 2, 1 to 3",
        "words of a review": "mean 2.0",
        "time": "1970-01-01 to 1970-01-06",
        "rating": "mean 2.50",
        "users in the split": "1, 0 of them with a tie",
    }
    assert found.histogram() == dict.fromkeys("012345", 1)


def test_reviews_alone_are_enough_and_broken_lines_are_told(folder: ArtifactFolder) -> None:
    for name in ("items.jsonl", "splits.jsonl"):
        (folder.path / name).unlink()
    with (folder.path / "reviews.jsonl").open("a") as file:
        file.write("{\n")
    refusals = Refusals()
    found = dataset_stats(folder, refusals)
    assert (found.interactions, found.described, found.split_users) == (6, 0, 0)
    assert refusals.total == 1


def test_many_ratings_are_put_into_classes(folder: ArtifactFolder) -> None:
    rows = [
        {"user_id": f"u{n}", "item_id": "a", "rating": n / 10, "timestamp": 10**9 + n}
        for n in range(101)
    ]
    lines(folder.path / "reviews.jsonl", rows)
    found = dataset_stats(folder, Refusals())
    assert list(found.histogram().values()) == [10] * 9 + [11]
    assert next(iter(found.histogram())) == "0 to 1"
    assert found.rows()["time"] == "2001-09-09 to 2001-09-09"


@pytest.mark.parametrize("wrong", [{"timestamp": 1_700_000_000_000}, {"rating": 900}])
def test_values_that_cannot_be_are_refused(wrong: dict[str, int], folder: ArtifactFolder) -> None:
    row = {"user_id": "u", "item_id": "z", "rating": 5, "timestamp": 1} | wrong
    with (folder.path / "reviews.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    refusals = Refusals()
    assert dataset_stats(folder, refusals).interactions == 6
    assert refusals.total == 1


def test_no_reviews(folder: ArtifactFolder) -> None:
    (folder.path / "reviews.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no review"):
        dataset_stats(folder, Refusals())


def test_the_plot_is_a_png(folder: ArtifactFolder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = dataset_stats(folder, Refusals())
    path = tmp_path / "plots.png"
    plot(found, path, "Costs $5, or $6_x")
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG")
    plot(found, path, "Costs $5, or $6_x")
    assert path.read_bytes() == first
    assert not list(tmp_path.glob(".*"))


def test_a_plot_that_cannot_be_drawn_is_refused_early(
    folder: ArtifactFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "plot.pdf", tmp_path / "none" / "plot.png"):
        with pytest.raises(InputError, match="cannot be"):
            check_plot(path)
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"p4r-qdrant\[data\]"):
        plot(dataset_stats(folder, Refusals()), tmp_path / "plot.png", "x")
