"""A user leaves an artifact folder: nothing of his stays, nothing of others goes."""

import json
import shutil
from pathlib import Path

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ARRIVALS, ERASING, ERASURES
from indexer.checking import CheckReport, check_erasure
from indexer.ledger import Ledger, request_key
from indexer.updates.erasing.artifacts import Plan, planned
from indexer.updates.erasing.report import Erased
from indexer.updates.erasing.run import UnknownUserError, erasing
from p4r_qdrant.errors import InputError
from p4r_qdrant.service.studio.desk import PersonaTexts, SplitOff
from tests.support.jsonl import read, write
from tests.support.kills import Kills
from tests.support.paths import copy_bookshop
from tests.support.reviewing import decide, in_review

USER, OTHER = "maren-o", "priya-n"
HELD_OUT = "sleeping-third"


@pytest.fixture
def folder(tmp_path: Path) -> ArtifactFolder:
    """The bookshop, with a ledger that has an answer for each of its lines."""
    path = tmp_path / "books"
    copy_bookshop(path)
    with Ledger(path / "ledger") as ledger:
        for step in ("summaries", "aspects", "personas", "alignments"):
            for number, one in enumerate(read(path / f"{step}.jsonl")):
                about = {name: one[name] for name in ("item_id", "user_id") if name in one}
                ledger.put(step, key(step, number), {"about": about, "answer": one})
    return ArtifactFolder(path)


def key(step: str, number: int) -> str:
    return request_key(template=step, content=number, model="m")


def erase(folder: ArtifactFolder, *users: str) -> Erased:
    with (
        Ledger(folder.path / "ledger") as ledger,
        erasing(folder, ledger, users, Refusals()) as erased,
    ):
        return erased


def content(folder: ArtifactFolder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in folder.path.rglob("*.jsonl")
        if path.name != ERASURES  # it tells of each run
    }


def everything(folder: ArtifactFolder) -> str:
    files = (one for one in folder.path.rglob("*") if one.is_file())
    return "".join(one.read_text(errors="replace") for one in files)


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
    assert erased.places[0].removed["lines of reviews.jsonl"] == len(theirs)
    left = {one["item_id"]: one["personas"] for one in read(folder.path / "personas.jsonl")}
    lost = set()
    for item in before["personas"]:
        for persona in item["personas"]:
            others = [user for user in persona["evidence"] if user != USER]
            if persona["evidence"] and not others:
                lost.add(persona["persona_id"])
                continue
            assert {**persona, "evidence": others} in left[item["item_id"]]
    assert len(lost) == erased.places[0].removed["personas that rested on them alone"] > 0
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


@pytest.fixture
def small(folder: ArtifactFolder) -> ArtifactFolder:
    """Three items: one loses a mention, one its only persona, and one is held out."""
    for path in folder.path.glob("*.jsonl"):
        lines = [
            one
            for one in read(path)
            if one.get("item_id", "porter-nights") in ("salt-orchard", "porter-nights", HELD_OUT)
        ]
        if path.name == "personas.jsonl":
            for one in lines:
                if one["item_id"] == "porter-nights":
                    one["personas"] = one["personas"][:1]
        write(folder.path, path.name, lines)
    return folder


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Kills:
    kills = Kills(monkeypatch)
    kills.watch(Path, "replace", "unlink")
    return kills


def test_killed_at_any_write_and_run_again_it_ends_in_the_same_state(
    small: ArtifactFolder, tmp_path: Path, kills: Kills
) -> None:
    whole = ArtifactFolder(shutil.copytree(small.path, tmp_path / "whole"))
    undisturbed = erase(whole, USER)
    assert {"porter-nights", "salt-orchard"} <= set(undisturbed.items)
    assert undisturbed.bare == ["porter-nights"]
    for place in kills.rounds():
        folder = ArtifactFolder(shutil.copytree(small.path, tmp_path / str(place)))
        told = None
        with kills:
            told = erase(folder, USER)
        if kills.killed and USER in everything(folder):
            told = erase(folder, USER)
        assert not list(folder.path.glob(".*.unfinished"))
        assert content(folder) == content(whole), place
        assert not (folder.path / ERASING).exists()
        if told is not None:  # else it was killed after the last write
            assert (told.items, told.bare) == (undisturbed.items, undisturbed.bare), place


def test_what_was_killed_is_worked_off_with_whoever_is_erased_next(
    small: ArtifactFolder, kills: Kills
) -> None:
    items = {one["item_id"] for one in read(small.path / "aspects.jsonl") if one["user_id"] == USER}
    kills.place = 12
    with kills:
        erase(small, USER)
    assert (small.path / ERASING).exists()
    report = CheckReport()
    check_erasure(small.path, report)
    assert "erasing.json: an erasure was killed half-way; run p4r" in report.refusals.sentences[0]
    assert items <= set(erase(small, OTHER).items)
    assert not any(USER.encode() in data for data in content(small).values())


def test_a_block_that_fails_is_told_again(small: ArtifactFolder) -> None:
    with (
        pytest.raises(OSError, match="no way out"),
        Ledger(small.path / "ledger") as ledger,
        erasing(small, ledger, [USER], Refusals()) as first,
    ):
        raise OSError("no way out")
    again = erase(small, USER)
    assert (again.items, again.bare) == (first.items, first.bare)
    with pytest.raises(UnknownUserError):
        erase(small, USER)


def test_a_broken_plan_is_one_sentence(small: ArtifactFolder) -> None:
    (small.path / ERASING).write_text("{")
    with pytest.raises(InputError, match=r"erasing.json is broken: remove it, and erase"):
        erase(small, USER)


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
    with Ledger(folder.path / "ledger") as ledger, erasing(folder, ledger, [USER], refusals):
        pass
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


def test_decisions_on_the_items_that_a_user_reviewed_go_but_for_rejections(
    folder: ArtifactFolder,
) -> None:
    theirs = next(one for one in read(folder.path / "reviews.jsonl") if one["user_id"] == USER)
    items = {
        one["item_id"] for one in read(folder.path / "reviews.jsonl") if one["user_id"] == USER
    }
    first, second = list(in_review(folder.path, theirs["item_id"]))[:2]
    other = next(
        one["item_id"]
        for one in read(folder.path / "personas.jsonl")
        if one["item_id"] not in items
        and not any(USER in persona["evidence"] for persona in one["personas"])
    )
    decide(folder.path, "edit", theirs["item_id"], first, description="Words of Maren.")
    decide(folder.path, "reject", theirs["item_id"], second)
    decide(folder.path, "approve", other, next(iter(in_review(folder.path, other))))
    erased = erase(folder, USER)
    assert erased.places[0].removed["decisions of reviewers"] == 1
    left = read(folder.path / "decisions.jsonl")
    assert [(one["item_id"], one["action"]) for one in left] == [
        (theirs["item_id"], "reject"),
        (other, "approve"),
    ]
    assert left[0]["texts"] is None
    assert "Words of Maren" not in everything(folder)


def test_a_half_that_rests_on_the_user_alone_is_lost_and_the_other_is_not(
    folder: ArtifactFolder,
) -> None:
    item, persona = next(
        (one, persona)
        for one in read(folder.path / "personas.jsonl")
        for persona in one["personas"]
        if USER in persona["evidence"] and len(persona["evidence"]) > 1
    )
    item_id, persona_id = item["item_id"], persona["persona_id"]
    place = persona["evidence"].index(USER) + 1
    off = SplitOff(PersonaTexts("Half", "Words of Maren.", "None."), frozenset({place}))
    decide(folder.path, "split", item_id, persona_id, name="Rest", other=off)
    first, second = (in_review(folder.path, item_id)[f"{persona_id}{end}"] for end in ("", "_S1"))
    assert USER in (folder.path / "decisions.jsonl").read_text()
    with Ledger(folder.path / "ledger") as ledger:
        plan, _ = planned(folder, ledger, [USER], Plan())
    assert second.seen.partition("-")[2] in plan.lost
    assert first.seen.partition("-")[2] not in plan.lost
    assert erase(folder, USER).places[0].removed["decisions of reviewers"] == 1
    assert "Words of Maren" not in everything(folder)
    assert USER not in (folder.path / "decisions.jsonl").read_text()
    assert in_review(folder.path, item_id)[persona_id].state == "pending"
