"""The collaborative part of a publish on both engines: refits, kills, rollback, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest

from devtools.qdrant_process import QdrantServer
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.evaluation.leaks.identity import collaborative_check
from indexer.indexing.items import ItemIndexer
from p4r_qdrant import Interaction, PersonaIndex, PersonaReranker, Settings, open_index
from p4r_qdrant.errors import InputError
from p4r_qdrant.index import provisional
from p4r_qdrant.index.checking import problems
from p4r_qdrant.index.columns import Column
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.records import ItemPersonas
from p4r_qdrant.texts import persona_texts
from p4r_qdrant.users.versions import drop_old
from tests.support import publishing
from tests.support.damage import flip
from tests.support.engines import embedded, on_server
from tests.support.messages import sentence
from tests.support.polling import wait_until
from tests.support.publishing import catalogue_at, run, write_personas, write_reviews

PAIRS = [(f"user-{n % 9}", f"item-{n * n % 7}") for n in range(40)] + [("user-1", "unheard-of")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = catalogue_at(tmp_path / "catalogue")
    write_reviews(path, PAIRS)
    return path


def columns(settings: Settings) -> dict[str, Column]:
    with open_index(settings) as index:
        return index.collaborative_columns([*index.item_numbers()])


def same(one: dict[str, Column], other: dict[str, Column]) -> bool:
    return one.keys() == other.keys() and all(
        (a.number, a.places.tobytes(), a.values.tobytes())
        == (b.number, b.places.tobytes(), b.values.tobytes())
        for a, b in ((one[name], other[name]) for name in one)
    )


def test_a_publish_fits_once(index_settings: Settings, folder: Path) -> None:
    encoder = publishing.encoder(0)
    report = run(folder, encoder, index_settings)
    assert report.collaborative.startswith("fitted on 13 items, ")
    with open_index(index_settings) as index:
        part = index.collaborative
        assert part is not None
        assert (part.set, part.k, part.items, part.next_number) == (1, 200, 12, 13)
        numbers = index.item_numbers()
        cold = index.collaborative_columns(["item-10"])["item-10"]
        assert len(cold.places), "an item without interactions has a column through its personas"
        assert index.collaborative_columns(["unheard-of"]) == {}, "it is not in the catalogue"
        assert index.collaborative_nearest({"unheard-of": 1.0}, 3), "but in a history"
        assert index.collaborative_scores([{"nobody": 1.0}], [["item-1"]]) == [{}]
    before = columns(index_settings)
    report = run(folder, encoder, index_settings)
    assert report.collaborative.startswith("unchanged")
    write_reviews(folder, PAIRS, rating=1)  # equal ratings, whatever they are
    assert run(folder, encoder, index_settings).collaborative.startswith("unchanged")
    assert same(columns(index_settings), before)
    write_reviews(folder, [*PAIRS, ("user-1", "item-6"), ("user-2", "a-new-one")])
    report = run(folder, encoder, index_settings)
    assert report.collaborative.startswith("fitted on 14 items")
    with open_index(index_settings) as index:
        assert index.item_numbers() == numbers | {"a-new-one": 13}
        assert index.collaborative is not None
        assert index.collaborative.set == 2
    assert not same(columns(index_settings), before)


@pytest.mark.parametrize("point", ["columns 0", "half 5", "set 0"])
def test_killed_and_run_again(index_settings: Settings, folder: Path, point: str) -> None:
    """The same bytes in the end as without the kill, and until then those of before."""
    run(folder, publishing.encoder(0), index_settings)
    before = columns(index_settings)
    write_reviews(folder, PAIRS[3:])
    publishing.killed(index_settings, folder, 0, point)
    assert same(columns(index_settings), before) == (point != "set 0"), "half a set is in use"
    run(folder, publishing.encoder(0), index_settings)
    after = columns(index_settings)
    with open_versions(index_settings) as versions, versions.open_live() as index:
        index.drop_collaborative()
    run(folder, publishing.encoder(0), index_settings)
    again = columns(index_settings)
    assert {one: c.values.tobytes() for one, c in again.items()} == {
        one: c.values.tobytes() for one, c in after.items()
    }


def test_an_encoder_has_its_own_set(index_settings: Settings, folder: Path) -> None:
    """A rollback takes both parts back, and the numbers stay the same."""
    first, second = publishing.encoder(0), publishing.encoder(1)
    run(folder, first, index_settings)
    before = columns(index_settings)
    run(folder, second, index_settings)
    after = columns(index_settings)
    assert not same(before, after)
    assert [one.number for one in after.values()] == [before[one].number for one in after]
    with open_versions(index_settings) as versions:
        versions.roll_back()
    assert same(columns(index_settings), before)
    run(folder, publishing.encoder(2), index_settings)
    with open_versions(index_settings) as versions:
        dropped, _ = drop_old(index_settings, versions)
        assert len(dropped) == 1
    assert len(columns(index_settings)) == 12


def test_a_version_restored_without_its_columns(index_settings: Settings, folder: Path) -> None:
    run(folder, publishing.encoder(0), index_settings)
    run(folder, publishing.encoder(1), index_settings)
    with open_versions(index_settings) as versions:
        old = versions.previous()
        assert old is not None
        with versions.open(old) as index:
            index.engine.columns.drop()
        versions.make_live(old)
    with open_index(index_settings) as index:
        assert index.collaborative is None


def test_what_is_left_out(index_settings: Settings, folder: Path) -> None:
    """Switched off, without interactions, and without those that are held out."""
    encoder = publishing.encoder(0)
    run(folder, encoder, index_settings)
    off = index_settings.model_copy(
        update={"collaborative": index_settings.collaborative.model_copy(update={"enabled": False})}
    )
    assert run(folder, encoder, off).collaborative == "none, it is switched off"
    assert part_of(index_settings) is None
    (folder / "reviews.jsonl").unlink()
    report = run(folder, encoder, index_settings)
    assert report.collaborative.startswith("fitted on 12 items, 0 interactions")
    nothing = index_settings.model_copy(
        update={"collaborative": index_settings.collaborative.model_copy(update={"share": 0.0})}
    )
    assert "there are no interactions" in run(folder, encoder, nothing).collaborative
    assert part_of(index_settings) is None


def part_of(settings: Settings) -> object:
    with open_index(settings) as index:
        return index.collaborative


def test_held_out_interactions(index_settings: Settings, folder: Path) -> None:
    """They are in the fit, and the record says so; or they are left out."""
    split = {"user_id": "user-1", "test_item": "item-1", "valid_item": "item-4"}
    (folder / "splits.jsonl").write_text(json.dumps(split) + "\n")
    encoder = publishing.encoder(0)
    for training_only, held_out in ((False, 2), (True, 0)):
        report = run(folder, encoder, index_settings, training_only=training_only)
        with open_index(index_settings) as index:
            assert index.collaborative is not None
            settings = index.collaborative.settings
            assert settings["held_out"] == held_out, report.collaborative
            assert settings["interactions"] == len(set(PAIRS)) - 2 + held_out
            check = collaborative_check(ArtifactFolder(folder), index.collaborative)
            assert (check.looked_at, check.leaks) == (len(set(PAIRS)) - 2 + held_out, held_out // 2)
    (folder / "splits.jsonl").write_text(json.dumps(split | {"test_item": "item-2"}) + "\n")
    with open_index(index_settings) as index:  # one pair of the fit is held out now
        assert index.collaborative is not None
        assert collaborative_check(ArtifactFolder(folder), index.collaborative).leaks == 1


def test_memory_is_checked_before_anything_is_written(
    index_settings: Settings, folder: Path
) -> None:
    small = index_settings.model_copy(
        update={
            "collaborative": index_settings.collaborative.model_copy(update={"memory_gb": 1e-6})
        }
    )
    encoder = publishing.encoder(0)
    with pytest.raises(InputError, match="P4R_COLLABORATIVE__MEMORY_GB") as caught:
        run(folder, encoder, small)
    assert "12" in sentence(caught)
    assert not encoder.encoded
    assert publishing.names(index_settings) == set()


def test_an_item_leaves_with_its_column(index_settings: Settings, folder: Path) -> None:
    encoder = publishing.encoder(0)
    run(folder, encoder, index_settings)
    write_personas(folder, [publishing.item(number) for number in range(1, 12)])
    run(folder, encoder, index_settings)
    with open_index(index_settings) as index:
        assert "item-0" not in index.collaborative_columns(["item-0", "item-1"])
        assert "item-0" in index.item_numbers()
        assert best(index)


def best(index: PersonaIndex) -> list[tuple[str, float]]:
    found = index.collaborative_nearest({"item-1": 1.0, "item-4": 0.5}, 5)
    assert np.all(np.diff([score for _, score in found]) <= 0)
    return found


def test_a_new_item_has_a_provisional_column(index_settings: Settings, folder: Path) -> None:
    """The mean of those of the items with the nearest personas, until the next publish."""
    encoder = publishing.encoder(0)
    run(folder, encoder, index_settings)
    new = publishing.item(3) | {"item_id": "new"}
    record = ItemPersonas.model_validate(new)
    with open_index(index_settings) as index:
        vectors = encoder.encode_texts(persona_texts(record.personas))
        index.replace_item("new", record.personas, vectors)
        assert provisional.add(index, [("new", vectors), ("item-1", vectors)]) == 1
        [held] = index.collaborative_columns(["new"]).values()
        assert held.number is None
        near = index.nearest_items(vectors, provisional.NEAREST, exclude=["new"])
        assert near[0].item_id == "item-3"
        columns = index.collaborative_columns([one.item_id for one in near])
        assert dense(held) == pytest.approx(
            sum(map(dense, columns.values())) / len(columns), abs=1e-6
        )
        assert "new" in dict(index.collaborative_nearest({"item-1": 1.0, "item-4": 1.0}, 13))
        assert index.collaborative_nearest({"new": 1.0}, 3) == [], "it speaks for nothing yet"
    write_personas(folder, [*(publishing.item(number) for number in range(12)), new])
    run(folder, encoder, index_settings)
    with open_index(index_settings) as index:
        assert index.collaborative_columns(["new"])["new"].number == 13
        assert index.collaborative_nearest({"new": 1.0}, 3)


def dense(column: Column) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = np.zeros(20)
    found[column.places] = column.values
    return found


def test_items_that_arrive_get_one(index_settings: Settings, folder: Path) -> None:
    encoder = publishing.encoder(0)
    run(folder, encoder, index_settings)
    write_personas(folder, [publishing.item(20), publishing.item(21)])
    rows = [*ArtifactFolder(folder).index_rows("x", Refusals())]
    with open_index(index_settings) as index:
        ItemIndexer(encoder, index, Refusals()).index_rows(rows[:1])
        ItemIndexer(encoder, index, Refusals(), provisional=True).index_rows(rows)
        assert index.collaborative_columns(["item-20", "item-21"]).keys() == {"item-21"}
        index.drop_collaborative()
        assert provisional.add(index, [("item-20", np.ones((1, 24)))]) == 0


def test_a_running_reader_follows_a_refit(
    qdrant_server: QdrantServer, collection_name: str, folder: Path
) -> None:
    """The version stays, and so does the encoder: only the columns change."""
    index_settings = on_server(qdrant_server, collection_name)
    encoder = publishing.encoder(0)
    run(folder, encoder, index_settings)
    settings = publishing.refreshing(index_settings, 0.05)
    load = publishing.by_fingerprint(encoder)
    with PersonaReranker.from_settings(settings, load_encoder=load) as reranker:
        index = reranker.index
        write_reviews(folder, PAIRS[5:])
        run(folder, encoder, index_settings)
        write_reviews(folder, PAIRS[9:])
        run(folder, encoder, index_settings)  # the set that the reader knows is gone
        assert index.collaborative_nearest({"item-1": 1.0}, 3)
        assert reranker.index is index
        write_reviews(folder, PAIRS[2:])
        run(folder, encoder, index_settings)

        def followed() -> bool:
            reranker.recommend([Interaction("item-1", 1, summary="salt")], top=2)
            return index.collaborative is not None and index.collaborative.set == 4

        wait_until(followed)


def test_damaged_columns_are_found(tmp_path: Path, folder: Path) -> None:
    settings = embedded(tmp_path / "index")
    run(folder, publishing.encoder(0), settings)
    with open_versions(settings) as versions, versions.open_live() as index:
        assert [*problems(index.engine)] == []
        [file] = (tmp_path / "index").rglob("by-item.values.npy")
        flip(file, file.stat().st_size - 3)
        [problem] = problems(index.engine)
        assert "by-item.values.npy does not match its checksum" in problem
        file.parent.rename(tmp_path / "elsewhere")
        [problem] = problems(index.engine)
        assert "is missing or not complete; publish the artifacts again" in problem
