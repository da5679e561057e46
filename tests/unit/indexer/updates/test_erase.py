"""A user leaves an artifact folder: nothing of his stays, nothing of others goes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts import writing
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ARRIVALS
from indexer.ledger import Ledger, request_key
from indexer.updates import erase as erasing
from indexer.updates.erase import Erased, erase_users
from p4r_qdrant.errors import InputError
from tests.support.jsonl import read
from tests.support.paths import BOOKSHOP

USER = "maren-o"


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactFolder:
    """The bookshop, with a ledger that has an answer for each of its lines."""
    path = tmp_path / "books"
    shutil.copytree(BOOKSHOP, path)
    with Ledger(path / "ledger") as ledger:
        for step in ("summaries", "aspects", "personas", "alignments"):
            for number, one in enumerate(read(path / f"{step}.jsonl")):
                about = {name: one[name] for name in ("item_id", "user_id") if name in one}
                ledger.put(step, key(step, number), {"about": about, "answer": one})
    return ArtifactFolder(path)


def key(step: str, number: int) -> str:
    return request_key(template=step, content=number, model="m")


def erase(folder: ArtifactFolder, *users: str) -> Erased:
    with Ledger(folder.path / "ledger") as ledger:
        return erase_users(folder, ledger, users, Refusals())


def content(folder: ArtifactFolder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in folder.path.rglob("*.jsonl")
    }


def test_nothing_of_the_user_stays_and_nothing_of_others_goes(folder: ArtifactFolder) -> None:
    before = {
        name: read(folder.path / f"{name}.jsonl")
        for name in ("reviews", "aspects", "alignments", "splits", "candidates", "personas")
    }
    theirs = [one for one in before["reviews"] if one["user_id"] == USER]
    held_out = folder.held_out()
    erased = erase(folder, USER)
    for name, data in content(folder).items():
        assert USER.encode() not in data, name
    for name in ("reviews", "aspects", "splits", "candidates"):
        assert read(folder.path / f"{name}.jsonl") == [
            one for one in before[name] if one["user_id"] != USER
        ]
    reviewed = {one["item_id"] for one in theirs if (USER, one["item_id"]) not in held_out}
    assert erased.items == sorted(reviewed)
    assert erased.removed["lines of reviews.jsonl"] == len(theirs)
    left = {one["item_id"]: one["personas"] for one in read(folder.path / "personas.jsonl")}
    lost = set()
    for item in before["personas"]:
        for persona in item["personas"]:
            others = [user for user in persona["evidence"] if user != USER]
            if persona["evidence"] and not others:
                lost.add(persona["persona_id"])
                continue
            assert {**persona, "evidence": others} in left[item["item_id"]]
    assert len(lost) == erased.removed["personas that rested on them alone"] > 0
    assert sum(map(len, left.values())) + len(lost) == sum(
        len(item["personas"]) for item in before["personas"]
    )
    assert read(folder.path / "alignments.jsonl") == [
        one
        for one in before["alignments"]
        if one["user_id"] != USER and one["persona_id"] not in lost
    ]


def test_the_ledger_forgets_his_answers_and_those_that_made_personas_of_his_items(
    folder: ArtifactFolder,
) -> None:
    items = set(erase(folder, USER).items)
    with Ledger(folder.path / "ledger", read_only=True) as ledger:
        assert len(list(ledger.entries("summaries"))) == 24
        users = {one["about"]["user_id"] for one in ledger.entries("aspects")}
        assert USER not in users
        assert len(users) == 21
        kept = {one["about"]["item_id"] for one in ledger.entries("personas")}
        assert not kept & items
        assert len(kept) == 24 - len(items)


@pytest.mark.parametrize("writes", range(6))
def test_killed_between_two_files_and_run_again_it_ends_in_the_same_state(
    folder: ArtifactFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder.path, other)
    whole = erase(ArtifactFolder(other), USER)
    rewrite, done = writing.rewrite, 0

    def killed(*args: Any, **more: Any) -> None:
        nonlocal done
        if done == writes:
            raise KeyboardInterrupt
        done += 1
        rewrite(*args, **more)

    monkeypatch.setattr(erasing, "rewrite", killed)
    with pytest.raises(KeyboardInterrupt):
        erase(folder, USER)
    monkeypatch.undo()
    again = erase(folder, USER)
    after, wanted = content(folder), content(ArtifactFolder(other))
    if writes == 5:  # his split is gone by then: what it held out is named too, not forgotten
        assert set(again.items) > set(whole.items)
        del after["ledger/personas.jsonl"], wanted["ledger/personas.jsonl"]
    else:
        assert again.items == whole.items
    assert after == wanted


def test_somebody_unknown_is_an_error_and_nothing_changes(folder: ArtifactFolder) -> None:
    before = content(folder)
    with pytest.raises(InputError, match=r"user 'nobody' is in no file of .*; nothing was changed"):
        erase(folder, USER, "nobody")
    assert content(folder) == before


def test_a_broken_line_could_be_his_and_is_removed_and_told(folder: ArtifactFolder) -> None:
    path = folder.path / "aspects.jsonl"
    with path.open("ab") as file:
        file.write(b'{"user_id": "maren-o", "item_id"\n\xff\xfe\n')
    refusals = Refusals()
    with Ledger(folder.path / "ledger") as ledger:
        erase_users(folder, ledger, [USER], refusals)
    assert refusals.counts == {"broken record removed": 2}
    assert f"{path}:107: " in refusals.sentences[0]
    assert b"maren-o" not in path.read_bytes()


def test_what_a_killed_run_had_begun_to_write_goes_too(folder: ArtifactFolder) -> None:
    left = folder.path / ".reviews.jsonl.4711.unfinished"
    left.write_text(USER)
    erase(folder, USER)
    assert not left.exists()


def test_what_has_arrived_and_is_not_merged_yet_goes_too(folder: ArtifactFolder) -> None:
    review = {"item_id": "tin-parliament", "rating": 5, "timestamp": 1, "text": "T"}
    arrivals = [{"review": review | {"user_id": user}} for user in (USER, "somebody")]
    path = folder.path / ARRIVALS
    path.write_text("".join(json.dumps(one) + "\n" for one in arrivals))
    assert "tin-parliament" in erase(folder, USER).items
    assert [one["review"]["user_id"] for one in read(folder.path / "arrivals.jsonl")] == [
        "somebody"
    ]


def test_a_folder_without_a_ledger_or_reviews_will_do(tmp_path: Path) -> None:
    persona = {"name": "N", "description": "D", "preference_rationale": "R", "evidence": ["u"]}
    line = {"item_id": "i", "personas": [{"persona_id": "i_P1", **persona}]}
    (tmp_path / "personas.jsonl").write_text(json.dumps(line) + "\n")
    erased = erase(ArtifactFolder(tmp_path), "u")
    assert erased.items == erased.bare == ["i"]
    assert (tmp_path / "personas.jsonl").read_text() == ""
