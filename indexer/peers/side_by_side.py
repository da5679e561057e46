"""Explanations of one item to one user by several systems, for people to compare.

Orders are balanced: every system stands in every place equally often, up to one. What a rater sees
names no system; `key.json` does.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import ascii_uppercase

from indexer.artifacts.lines import Refusals
from indexer.judging.comparing import fit, shuffled
from indexer.judging.explanation_files import Explanations
from indexer.judging.explanations import ExplanationStudy
from indexer.peers.material import Material
from indexer.peers.options import PeerOptions
from indexer.peers.wording import NO_TEXT, Wording
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.errors import InputError
from p4r_qdrant.spreadsheets import formula_safe

CRITERIA = ExplanationStudy.criteria
MOST_SYSTEMS = 6


@dataclass(frozen=True)
class Example:
    """One user and item, with the explanation of each system by its name."""

    user_id: str
    item_id: str
    history: Sequence[str]
    item: str
    texts: Mapping[str, str]

    @property
    def name(self) -> str:
        """What identifies the example in sheets."""
        return f"{self.user_id} / {self.item_id}"


@dataclass(frozen=True)
class Choosing:
    """How many examples, by which seed, with histories of which length."""

    most: int = 50
    seed: int = 0
    length: int = 5


@dataclass(frozen=True)
class Sheet:
    """The examples of one rater: for each the names of the systems behind A, B, C ..."""

    rater: int
    orders: Sequence[Sequence[str]]


def examples(
    material: Material,
    files: Mapping[str, Path],
    choosing: Choosing,
    refusals: Refusals,
    left_out: Counter[str],
) -> list[Example]:
    """One example for each user with an item that every system explains, `most` at most.

    The history is without the item itself. What is cut or removed is counted in `left_out`.
    Raises InputError if there is no example, or for too few or too many systems.
    """
    if not 2 <= len(files) <= MOST_SYSTEMS:
        raise InputError(f"name 2 to {MOST_SYSTEMS} files of explanations, not {len(files)}")
    with ExitStack() as stack:
        systems = {
            name: stack.enter_context(Explanations(path, refusals)) for name, path in files.items()
        }
        every = _examples(material, systems, choosing, left_out)
        found = list(islice(every, choosing.most))
    if not found:
        raise InputError(
            f"no user has an item that all of {', '.join(files)} explain: rank the same lists"
        )
    return found


def _examples(
    material: Material,
    systems: Mapping[str, Explanations],
    choosing: Choosing,
    left_out: Counter[str],
) -> Iterator[Example]:
    first = next(iter(systems.values()))
    wording = Wording(PeerOptions(), left_out)
    for user in shuffled(first.users(), choosing.seed):
        for item in shuffled(first.items(user), choosing.seed, user):
            texts = {name: fit(one.get(user, item), left_out) for name, one in systems.items()}
            if all(texts.values()):
                known = [one for one in material.histories.get(user) if one.item_id != item]
                history = [wording.interaction(one) for one in newest_first(known, choosing.length)]
                shown = [line for line in history if line]
                label = wording.candidate(material.candidate(item))
                yield Example(user, item, shown, label if label != NO_TEXT else item, texts)
                break


def sheets(found: Sequence[Example], raters: int, seed: int) -> list[Sheet]:
    """The sheet of each rater.

    The systems rotate by one place with each example and each rater.
    """
    systems = shuffled(found[0].texts, seed)
    count = len(systems)
    return [
        Sheet(
            rater + 1,
            [
                [systems[(place + number + rater) % count] for place in range(count)]
                for number in range(len(found))
            ],
        )
        for rater in range(raters)
    ]


def sheet_csv(found: Sequence[Example], sheet: Sheet) -> str:
    """A table for one rater: the texts under letters, and a cell for each criterion to fill."""
    letters = ascii_uppercase[: len(sheet.orders[0])]
    buffer = io.StringIO()
    names = ["example", "chosen before", "offered", *letters, *CRITERIA]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for one, order in zip(found, sheet.orders, strict=True):
        texts = dict(zip(letters, (one.texts[name] for name in order), strict=True))
        row = {"example": one.name, "chosen before": "\n".join(one.history), "offered": one.item}
        writer.writerow({key: formula_safe(value) for key, value in (row | texts).items()})
    return buffer.getvalue().removesuffix("\n")
