"""`p4r review import`, killed at random moments: each decision is kept once, and none is lost."""

import json
from pathlib import Path
from typing import Any

from tests.support.campaign import Campaign
from tests.support.jsonl import read, write
from tests.support.killing import Command
from tests.support.paths import copy_bookshop
from tests.support.reviewing import desk_of

IMPORT = Command(("review", "import", "table.jsonl", "--artifacts", "shop", "--by", "Ann"))


def prepared(folder: Path) -> Path:
    """A folder with the bookshop, and a table that decides on all of its personas."""
    folder.mkdir()
    copy_bookshop(folder / "shop")
    rows, desk = [], desk_of(folder / "shop")
    for item_id in desk.item_ids():
        item = desk.item(item_id)
        for number, one in enumerate(item.personas if item else ()):
            row = {"item_id": item_id, "persona_id": one.persona_id, "seen": one.seen}
            texts = {name: getattr(one.texts, name) for name in ("name", "preference_rationale")}
            description = one.texts.description + (" Edited." if number % 2 else "")
            action = "edit" if number % 2 else "approve"
            if one.evidence_count > 1 and number % 3 == 2:
                action = "split"
                other = {f"other_{name}": "Half" for name in (*texts, "description")}
                row |= {**other, "other_reviews": "1"}
            rows.append({**row, **texts, "description": description, "decision": action})
    write(folder, "table.jsonl", rows)
    return folder


def kept(folder: Path) -> list[dict[str, Any]]:
    """The decisions, without their times."""
    return [{**one, "at": 0} for one in read(folder / "shop" / "decisions.jsonl")]


def test_killed_and_run_again(campaign: Campaign, tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole")
    done = IMPORT.succeed(whole)
    expected = kept(whole)
    assert {one["action"] for one in expected} == {"approve", "edit", "split"}
    assert len(expected) == len((whole / "table.jsonl").read_text().splitlines()) > 90
    scenario = campaign("p4r review import: kill -9", "the run after the last kill")
    for attempt in scenario.attempts(2):
        folder = prepared(tmp_path / str(attempt.number))
        with attempt:
            for _ in range(2):
                IMPORT.killed(folder, attempt, done.steps)
            path = folder / "shop" / "decisions.jsonl"
            if path.exists() and attempt.number % 2:  # a power failure may tear the last line
                path.write_bytes(path.read_bytes()[:-7])
            with attempt.timed():
                IMPORT.succeed(folder)
            assert kept(folder) == expected, json.dumps(kept(folder))[:200]
