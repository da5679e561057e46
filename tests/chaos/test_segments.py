"""`p4r publish` and `p4r segments`, killed at random moments: what they leave for the studio."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p4r_qdrant import open_index
from p4r_qdrant.index.history import all_publishes, item_history
from p4r_qdrant.index.maps import PersonaMap
from p4r_qdrant.index.wins import Wins
from tests.support.campaign import Campaign
from tests.support.engines import embedded
from tests.support.jsonl import write
from tests.support.killing import Command
from tests.support.publishing import catalogue_at, write_reviews

PUBLISH = Command(("publish", "--artifacts", "catalogue"))
SEGMENTS = Command(("segments", "--artifacts", "catalogue", "--audience"))
ITEMS = 12


def prepared(folder: Path) -> Path:
    """A folder with a catalogue that nine users have read."""
    catalogue = catalogue_at(folder / "catalogue", ITEMS)
    pairs = [(f"user-{n}", f"item-{(n * 5 + k) % ITEMS}") for n in range(9) for k in range(2)]
    write_reviews(catalogue, pairs)
    titles = [{"item_id": f"item-{n}", "title": f"ships {n} bread"} for n in range(ITEMS)]
    write(catalogue, "items.jsonl", titles)
    return folder


def left(folder: Path) -> dict[str, Any]:
    """What the index and the folder hold for the studio."""
    artifacts = folder / "catalogue"
    with open_index(embedded(folder / "p4r-index")) as index:
        made = index.metadata
    publishes = [asdict(one) | {"at": ""} for one in all_publishes(artifacts / "history.sqlite")]
    items = [item_history(artifacts / "history.sqlite", f"item-{n}") for n in range(ITEMS)]
    name, _, users = made.wins.partition(" ")
    Wins(artifacts / "maps", name)
    return {
        "segments": json.loads(made.segments),
        "ids": json.loads((artifacts / "segments.json").read_text()),
        "audience": (artifacts / "audience.csv").read_text(),
        "points": PersonaMap(artifacts / "maps", made.persona_map).drawn(),
        "wins": (name, users),
        "publishes": publishes,
        "items": [[(one.personas, one.new) for one in own] for own in items],
    }


def test_killed_and_run_again(campaign: Campaign, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = prepared(tmp_path / "whole")
    steps = [(one, one.succeed(whole).steps) for one in (PUBLISH, SEGMENTS)]
    expected = left(whole)
    assert (len(expected["publishes"]), expected["wins"][1]) == (1, "9")
    assert expected["items"][3] == [(4, 4)]
    scenario = campaign("p4r publish, segments: kill -9", "the run after the last kill")
    for attempt in scenario.attempts(1):
        (tmp_path / str(attempt.number)).mkdir()
        folder = prepared(tmp_path / str(attempt.number))
        with attempt:
            for command, count in steps:
                for _ in range(2):
                    command.killed(folder, attempt, count)
                with attempt.timed():
                    command.succeed(folder)
            assert left(folder) == expected
