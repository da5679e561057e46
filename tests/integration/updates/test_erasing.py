"""An erased user is nowhere: not in a version kept for a rollback, and in no byte of a file."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.derived import noted
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ERASING, ERASURES, FITTING
from indexer.indexing.collaborative import refitted
from indexer.ledger import Ledger
from indexer.updates.erasing.report import Erased
from indexer.updates.erasing.run import UnknownUserError, erasing
from indexer.updates.erasing.stored import NOT_REFITTED, Stored
from p4r_qdrant import Settings, open_index
from p4r_qdrant.errors import IndexLockedError
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.settings import HistorySettings
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.records import Job, StoredInteraction
from tests.support.jsonl import read, write
from tests.support.publishing import catalogue_at, encoder, item, live, run, version, write_personas
from tests.support.stored_words import files_with

USER, WORDS = "xylographic-user", "woodcutters' confession"
FIRST, SECOND = encoder(1), encoder(2)


def persona(item_id: str, slot: int, *evidence: str) -> dict[str, Any]:
    words = WORDS if evidence == (USER,) else "plain words"
    return {
        "persona_id": f"{item_id}_P{slot}",
        "name": f"Reader {slot}",
        "description": f"Likes {words} of {item_id}.",
        "preference_rationale": f"It has {words} in it.",
        "evidence": list(evidence),
    }


def artifacts_at(path: Path) -> ArtifactFolder:
    """Ten items; the user alone stands behind one persona of `two`, and behind `one`."""
    own = [
        {"item_id": "one", "personas": [persona("one", 0, USER)]},
        {"item_id": "two", "personas": [persona("two", 0, USER), persona("two", 1, USER, "eve")]},
    ]
    write_personas(path, [*own, *(item(number) for number in range(8))])
    reviewed = [(USER, "one"), (USER, "two"), ("eve", "two")]
    write(
        path,
        "reviews.jsonl",
        [
            {"user_id": u, "item_id": i, "rating": 5, "timestamp": 1, "text": f"{WORDS} of {u}"}
            for u, i in reviewed
        ],
    )
    return ArtifactFolder(path)


def results_at(path: Path, artifacts: ArtifactFolder) -> None:
    """A folder as an experiment leaves it."""
    for name in ("lists", "vectors"):
        (path / name).mkdir(parents=True)
    write(path / "lists", "ease-0.jsonl", [{"user_id": u, "results": []} for u in (USER, "eve")])
    (path / "vectors" / "abc.texts.jsonl").write_text(json.dumps(WORDS) + "\n")
    (path / "vectors" / "abc.f32").write_bytes(b"0000")
    examples = [{"user": USER, "history": [WORDS]}, {"user": "eve", "history": []}]
    record = {"name": "x", "main": [1, 2], "examples": examples}
    (path / "results.json").write_text(json.dumps(record))
    (path / "report.html").write_text(f"{USER}: {WORDS}")
    with noted(artifacts.path, path):
        pass


def store_users(settings: Settings, name: str) -> None:
    with open_index(settings) as index:
        made = index.metadata
    with closing(open_store(settings, name, made, HistorySettings())) as store:
        for user in (USER, "eve"):
            said = StoredInteraction(user, "one", 1, review_text=WORDS if user == USER else "eve's")
            store.add(said, Job(f"aspects {user}", "aspects", user, {"item_id": "one"}))


def erase(folder: ArtifactFolder, settings: Settings, *users: str) -> Erased:
    with (
        Ledger(folder.path / "ledger") as ledger,
        erasing(folder, ledger, users, Refusals(), stored=Stored(settings)) as erased,
    ):
        return erased


def held(settings: Settings) -> dict[str, list[str]]:
    with open_index(settings) as index:
        ids = sorted({"one", "two", "item-1"} & set(index.item_ids()))
        return {item_id: [one.persona_id for one in index.get(item_id)] for item_id in ids}


def interactions(settings: Settings) -> int | None:
    """How many the collaborative part was fitted on; None if there is none."""
    with open_index(settings) as index:
        part = index.collaborative
        return None if part is None else part.settings["interactions"]


def test_nothing_of_the_user_comes_back_with_a_rollback(
    place: tuple[Settings, Path], tmp_path: Path
) -> None:
    settings, storage = place
    folder = artifacts_at(tmp_path / "artifacts")
    results_at(tmp_path / "results", folder)
    run(folder.path, FIRST, settings)
    run(folder.path, SECOND, settings)
    store_users(settings, version(settings, SECOND))
    assert files_with(USER, storage)
    assert files_with(WORDS, storage)

    assert interactions(settings) == 3
    erased = erase(folder, settings, USER)

    assert held(settings) == {"two": ["two_P1"], "item-1": ["item-1_P0", "item-1_P1"]}
    assert erased.remains == [NOT_REFITTED]
    done = refitted(folder, settings, Refusals())
    assert done.keys() == {version(settings, SECOND)}
    assert done[version(settings, SECOND)].startswith("fitted on 9 items, 1 interactions")
    assert interactions(settings) == 1
    with open_versions(settings) as versions:
        versions.roll_back()
    assert live(settings) == version(settings, FIRST)
    assert interactions(settings) is None, "nobody fits it again there"
    assert held(settings) == {"item-1": ["item-1_P0", "item-1_P1"]}
    for word in (USER, WORDS):
        assert files_with(word, storage, tmp_path / "results") == []
    assert files_with(USER, folder.path) == []
    assert files_with(WORDS, folder.path) == [str(folder.path / "reviews.jsonl")], "of eve"

    removed = {(one.kind, Path(one.where).name): dict(+one.removed) for one in erased.places}
    assert removed["users", f"the stored users of {settings.qdrant.collection!r}"] == {
        "interactions": 1
    }
    assert removed["index", version(settings, FIRST)] == {"personas": 3, "collaborative part": 1}
    assert removed["index", version(settings, SECOND)] == {"personas": 2}
    assert removed["results", "results"] == {
        "lines of ease-0.jsonl": 1,
        "files of texts": 1,
        "entries of results.json": 1,
        "pages": 1,
    }
    assert removed["artifacts", "artifacts"]["lines of reviews.jsonl"] == 2
    assert erased.items == ["one", "two"]
    assert erased.bare == ["one"]
    [line] = read(folder.path / ERASURES)
    assert line["complete"]
    assert [one["kind"] for one in line["places"]].count("index") == 2
    examples = json.loads((tmp_path / "results" / "results.json").read_text())["examples"]
    assert [one["user"] for one in examples] == ["eve"]


def test_a_refit_keeps_the_collaborative_part_of_versions_for_a_rollback(
    index_settings: Settings, tmp_path: Path
) -> None:
    """It is fitted without the user there too, from the vectors that are stored."""
    folder = artifacts_at(tmp_path / "artifacts")
    run(folder.path, FIRST, index_settings)
    run(folder.path, SECOND, index_settings)
    stored = Stored(index_settings, purges=False, refits=True)
    with (
        Ledger(folder.path / "ledger") as ledger,
        erasing(folder, ledger, [USER], Refusals(), stored=stored) as erased,
    ):
        done = refitted(folder, index_settings, Refusals())
    assert erased.remains == []
    assert done.keys() == {version(index_settings, FIRST), version(index_settings, SECOND)}
    assert interactions(index_settings) == 1
    with open_versions(index_settings) as versions:
        versions.roll_back()
    assert live(index_settings) == version(index_settings, FIRST)
    assert interactions(index_settings) == 1
    with open_index(index_settings) as index:
        assert index.collaborative_scores([{"item-2": 1.0}], [["item-1"]])[0]


def test_a_version_in_use_is_told_of_and_reached_by_the_next_call(tmp_path: Path) -> None:
    settings = Settings.load(qdrant={"path": tmp_path / "index"})
    folder = artifacts_at(tmp_path / "artifacts")
    run(folder.path, FIRST, settings)
    run(folder.path, SECOND, settings)
    with open_index(settings), pytest.raises(IndexLockedError, match="open in another process"):
        erase(folder, settings, USER)
    assert (folder.path / ERASING).exists()
    [line] = read(folder.path / ERASURES)
    assert not line["complete"]
    assert files_with(USER, folder.path) == [str(folder.path / ERASING)]
    erased = erase(folder, settings, USER)
    assert erased.items == ["one", "two"]
    assert held(settings) == {"two": ["two_P1"], "item-1": ["item-1_P0", "item-1_P1"]}
    assert not (folder.path / ERASING).exists()


def test_what_was_live_at_the_erasure_does_not_come_back_either(tmp_path: Path) -> None:
    """It keeps personas that rest on others too, until another version is live."""
    settings = Settings.load(qdrant={"path": tmp_path / "index"})
    folder = artifacts_at(tmp_path / "artifacts")
    run(folder.path, FIRST, settings)
    (folder.path / FITTING / "killed").mkdir(parents=True)
    erase(folder, settings, USER)
    assert not (folder.path / FITTING).exists(), "sums over what the user had, too"
    assert held(settings)["two"] == ["two_P1"]
    anew = [{"item_id": "two", "personas": [persona("two", 7, "eve")]}]
    write_personas(folder.path, [*anew, *(item(number) for number in range(8))])
    with open_index(settings):
        assert run(folder.path, SECOND, settings).outdated_in == [version(settings, FIRST)]
    assert run(folder.path, SECOND, settings).outdated_in == []
    assert held(settings)["two"] == ["two_P7"]
    with open_versions(settings) as versions:
        versions.roll_back()
    assert held(settings) == {"item-1": ["item-1_P0", "item-1_P1"]}


def test_a_publish_under_way_is_waited_for(tmp_path: Path) -> None:
    """It may have read what is erased, and would write it afterwards."""
    settings = Settings.load(qdrant={"path": tmp_path / "index"})
    folder = artifacts_at(tmp_path / "artifacts")
    run(folder.path, FIRST, settings)
    name = version(settings, FIRST)
    with (
        open_versions(settings) as versions,
        versions.sole_writer(live(settings) or name),
        pytest.raises(IndexLockedError, match="being written by another publish"),
    ):
        erase(folder, settings, USER)
    assert erase(folder, settings, USER).items == ["one", "two"]
    assert held(settings) == {"two": ["two_P1"], "item-1": ["item-1_P0", "item-1_P1"]}


def test_who_is_only_stored_is_erased_too(tmp_path: Path) -> None:
    settings = Settings.load(qdrant={"path": tmp_path / "index"})
    folder = ArtifactFolder(catalogue_at(tmp_path / "artifacts"))
    run(folder.path, FIRST, settings)
    store_users(settings, version(settings, FIRST))
    assert erase(folder, settings, USER).items == []
    assert files_with(USER, tmp_path) == []
    with pytest.raises(UnknownUserError, match="xylographic-user"):
        erase(folder, settings, USER)
