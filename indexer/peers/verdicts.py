"""What raters said: win rates with intervals, and how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from indexer.artifacts.lines import Refusals
from indexer.artifacts.opening import opened
from indexer.datasets.filled import filled_rows
from indexer.judging.figures import Share
from indexer.peers.side_by_side import CRITERIA, MOST_SYSTEMS, Example, Sheet
from p4r_qdrant.errors import InputError, MissingExtraError

try:
    from nltk.metrics.agreement import AnnotationTask
except ModuleNotFoundError:
    raise MissingExtraError("agreement needs nltk: pip install 'p4r-qdrant[peers]'") from None

TIE = "tie"
NEEDED = ("example", *CRITERIA)
COLUMNS = (*NEEDED, "chosen before", "offered", *ascii_uppercase[:MOST_SYSTEMS])


class Key(BaseModel):
    """Which system stands behind each letter: by rater and example."""

    model_config = ConfigDict(frozen=True)

    systems: list[str]
    examples: list[str]
    orders: dict[str, list[list[str]]]

    @model_validator(mode="after")
    def _check(self) -> Key:
        for rater, orders in self.orders.items():
            if len(orders) != len(self.examples) or any(
                sorted(one) != sorted(self.systems) for one in orders
            ):
                raise ValueError(f"rater {rater} has no order of all systems for each example")
        return self

    @classmethod
    def of(cls, found: Sequence[Example], made: Sequence[Sheet]) -> Key:
        """The key of these sheets."""
        orders = {str(one.rater): [list(order) for order in one.orders] for one in made}
        return cls(
            systems=sorted(found[0].texts), examples=[one.name for one in found], orders=orders
        )

    @classmethod
    def read(cls, path: Path) -> Key:
        """Read key.json. Raises InputError."""
        with opened(path) as file:
            text = file.read()
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            raise InputError(f"{path} is no key of `p4r peers compare`") from None

    def json_text(self) -> str:
        """As it is written."""
        return self.model_dump_json(indent=1)


@dataclass(frozen=True)
class CriterionVerdict:
    """One criterion. best: by system, the examples in which most raters call it the best; `tie`
    where most say so or there is no majority. alpha: Krippendorff's, nominal, over all raters; None
    if it is not defined (fewer than two raters, or a single verdict).
    """

    criterion: str
    examples: int
    best: Mapping[str, Share | None]
    ties: int
    alpha: float | None


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of all raters who gave one. missing: cells of all sheets without a verdict."""

    systems: Sequence[str]
    raters: int
    criteria: Sequence[CriterionVerdict]
    missing: int


def read_verdicts(key: Key, sheets: Mapping[str, Path], refusals: Refusals) -> Verdicts:
    """Read the filled sheets, by rater. Raises InputError for a sheet of something else.

    A cell that is neither a letter nor a tie is refused, and so is a second row of an example; an
    empty cell is missing.
    """
    said = {rater: _read_sheet(key, rater, path, refusals) for rater, path in sheets.items()}
    criteria = [_verdict(key, name, said) for name in CRITERIA]
    cells = len(said) * len(key.examples) * len(CRITERIA)
    given = sum(len(own) for own in said.values())
    return Verdicts(key.systems, sum(map(bool, said.values())), criteria, cells - given)


def is_filled(path: Path) -> bool:
    """Whether a rater has written into a sheet, or saved it in a form that cannot be read."""
    refusals = Refusals()
    try:
        rows = [row for _, row in _rows(path, refusals)]
    except InputError:
        return True
    return refusals.total > 0 or any(row.get(name, "").strip() for row in rows for name in CRITERIA)


Said = Mapping[tuple[str, str], str]
"""By example and criterion: the system that is best, or a tie."""


def _read_sheet(key: Key, rater: str, path: Path, refusals: Refusals) -> Said:
    if rater not in key.orders:
        raise InputError(f"the key knows no rater {rater!r}: {', '.join(key.orders)}")
    orders = dict(zip(key.examples, key.orders[rater], strict=True))
    found: dict[tuple[str, str], str] = {}
    seen: dict[str, str] = {}
    for where, row in _rows(path, refusals):
        name = row.get("example", "")
        if name not in orders:
            refusals.add(f"{where} is of {name!r}, which the key does not know")
            continue
        if name in seen:
            refusals.add(f"{where} is of {name!r}, as {seen[name]}; remove one")
            continue
        seen[name] = where
        for criterion in CRITERIA:
            cell = row.get(criterion, "").strip().strip(".()").casefold()
            if not cell:
                continue
            letters = ascii_uppercase[: len(orders[name])].casefold()
            if cell != TIE and (len(cell) != 1 or cell not in letters):
                refusals.add(
                    f"{where}: {criterion}: {row[criterion]!r} is none of "
                    f"{', '.join(letters.upper())} and tie"
                )
                continue
            system = TIE if cell == TIE else orders[name][letters.index(cell)]
            found[name, criterion] = system
    return found


def _rows(path: Path, refusals: Refusals) -> Iterator[tuple[str, dict[str, str]]]:
    return filled_rows(path, NEEDED, COLUMNS, refusals, "p4r peers compare")


def _verdict(key: Key, criterion: str, said: Mapping[str, Said]) -> CriterionVerdict:
    best: Counter[str] = Counter()
    rated = 0
    for example in key.examples:
        votes = Counter(
            own[example, criterion] for own in said.values() if (example, criterion) in own
        )
        if not votes:
            continue
        rated += 1
        (first, count), *others = votes.most_common()
        best[TIE if others and others[0][1] == count else first] += 1
    shares = {name: Share.made(best[name], rated) for name in key.systems}
    return CriterionVerdict(criterion, rated, shares, best[TIE], _alpha(key, criterion, said))


def _alpha(key: Key, criterion: str, said: Mapping[str, Said]) -> float | None:
    """Krippendorff's alpha, nominal, of the examples with two verdicts or more.

    None if there is no such example, or all their verdicts are the same.
    """
    of_each = {
        example: [
            (rater, example, own[example, criterion])
            for rater, own in said.items()
            if (example, criterion) in own
        ]
        for example in key.examples
    }
    verdicts = [one for own in of_each.values() if len(own) > 1 for one in own]
    if len({verdict for *_, verdict in verdicts}) < 2:
        return None
    return float(AnnotationTask(verdicts).alpha())
