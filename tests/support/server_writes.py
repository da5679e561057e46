"""Writes to an index until the server fails, and what must be there afterwards."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from p4r_qdrant import PersonaIndex
from p4r_qdrant.errors import P4RError
from tests.support.index_data import USER, personas, rows


@dataclass
class Progress:
    begun: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    enough: threading.Event = field(default_factory=threading.Event)


def whole(index: PersonaIndex, item_id: str) -> str:
    """The version an item is in (`personas("v7", ...)` is v7); it must be in one only."""
    found = index.get(item_id)
    versions = {one.persona_id.partition("_")[0] for one in found}
    assert len(versions) == 1, f"{item_id} is in {versions or 'no version'}"
    assert set(index.hashes([item_id])) == {item_id}, f"{item_id} is not whole"
    return versions.pop()


def write_until_it_fails(
    index: PersonaIndex, begin: int, progress: Progress, long: Mapping[str, str] | None = None
) -> P4RError:
    for number in range(begin, begin + 100_000):
        item_id = f"item-{number % 13}"
        count = 1 + number % 7
        progress.begun[item_id] = number
        try:
            index.replace_item(item_id, personas(f"v{number}", count), rows(number, count), long)
        except P4RError as error:
            return error
        progress.done[item_id] = number
        if number == begin + 30:
            progress.enough.set()
    raise AssertionError("nothing ever failed")


def check_progress(index: PersonaIndex, progress: Progress) -> None:
    """Each item is in its last acknowledged version, or in the one that was being written.

    That one is the one to go on from.
    """
    (ranking,) = index.best_personas([USER], [list(progress.done)])
    unit = USER / np.linalg.norm(USER)
    for match in ranking:
        item_id = match.item_id
        version = int(whole(index, item_id)[1:])
        assert version in (progress.done[item_id], progress.begun[item_id]), "a write is lost"
        own = rows(version, 1 + version % 7)
        assert len(index.get(item_id)) == len(own)
        best = (own @ unit / np.linalg.norm(own, axis=1)).max()
        assert match.score == pytest.approx(best, abs=2e-6)
        progress.done[item_id] = version
