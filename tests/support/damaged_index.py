"""Opens embedded indexes that may be damaged, each in a process of its own:

    python -m tests.support.damaged_index

Reads folders, a line each; answers each with a line: `right`, `sentence: ...` (an error of ours),
or what else came of it. The indexes hold CATALOGUE.
"""

import os
import sys
from pathlib import Path
from typing import IO

import numpy as np

from p4r_qdrant import open_index
from p4r_qdrant.errors import P4RError
from tests.support.columns import column, part
from tests.support.engines import embedded, opened
from tests.support.index_data import USER, rows
from tests.support.oracle import Catalogue, assert_congruent

CATALOGUE = Catalogue({f"i{number}": rows(number, 1 + number % 4) for number in range(20)})
ITEMS = list(CATALOGUE.vectors)
COLUMNS = [
    column(item_id, place, {(place + step) % 20: 0.25 * step for step in (1, 3, 6)})
    for place, item_id in enumerate(ITEMS)
]


def make(folder: Path) -> None:
    with opened(embedded(folder)) as index:
        index.load(CATALOGUE.rows())
        index.write_collaborative(part(COLUMNS), COLUMNS)


def outcome(folder: Path) -> str:
    """Scores, personas, filters and counts, by brute force."""
    try:
        with open_index(embedded(folder)) as index:
            users = np.stack([USER, -USER])
            assert_congruent(index, CATALOGUE, users, [[*ITEMS, "missing"]] * 2)
            nobody = {"language": {"not": "xx"}}
            assert_congruent(index, CATALOGUE, users, [ITEMS] * 2, nobody)
            assert sorted(index.item_ids()) == sorted(ITEMS)
            assert {one: len(index.get(one)) for one in ITEMS} == {
                one: len(vectors) for one, vectors in CATALOGUE.vectors.items()
            }
            [scores] = index.collaborative_scores([{"i3": 1.0, "i9": 0.5}], [ITEMS])
            wanted = {"i2": 0.25, "i0": 0.75, "i17": 1.5, "i8": 0.125, "i6": 0.375}
            assert scores == {**wanted, "i3": 0.75}
            best = index.collaborative_nearest({"i3": 1.0, "i9": 0.5}, 2)
            assert best == [("i17", 1.5), ("i0", 0.75)]
            assert index.collaborative_shares({"i3": 1.0}, ["i0"]) == {"i0": [("i3", 0.75)]}
    except P4RError as error:
        return f"sentence: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "right"


def in_a_child(folder: Path, answers: IO[str]) -> None:
    """Answer for one folder, even if the process dies of it."""
    pid = os.fork()
    if not pid:
        answers.write(outcome(folder).replace("\n", " ") + "\n")
        answers.flush()
        os._exit(0)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        answers.write(f"died: {code}\n")
        answers.flush()


if __name__ == "__main__":
    for line in sys.stdin:
        in_a_child(Path(line.rstrip("\n")), sys.stdout)
