"""Statistics of judgments: which controls are passed, and how often ours is preferred.

A text wins on a criterion if it is preferred in both orders, and loses likewise; all else is a
tie. So a judge that prefers a position has only ties, and for a random judge ours loses as often as
it wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from indexer.evaluation.significance import holm
from indexer.judging.comparing import FIRST, SECOND, TIE, Control, Judgment
from p4r_qdrant.errors import MissingExtraError

try:
    from scipy.stats import binomtest
except ModuleNotFoundError:
    raise MissingExtraError("judging needs scipy: pip install 'p4r-qdrant[judge]'") from None

SIGNIFICANT = 0.05
LEAST = 5
"""Comparisons of a control; with fewer, even a perfect judge is not significantly good."""

_MIRRORED: dict[str, str] = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}


@dataclass(frozen=True)
class Share:
    """`count` of `of`, with the 95 % interval of the share (Wilson)."""

    count: int
    of: int
    low: float
    high: float

    @classmethod
    def made(cls, count: int, of: int) -> Share | None:
        """The share with its interval; None if `of` is 0."""
        if not of:
            return None
        interval = binomtest(count, of).proportion_ci(0.95, method="wilson")
        return cls(count, of, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class ControlFigures:
    """How often the judge was right in a control.

    p: the probability that `right` or more of `of` are right by chance (one-sided binomial test
    with probability 1/2). A judge that cannot distinguish right from wrong prefers the right text
    in both orders no more often than the wrong one, thus with probability 1/2 at most.
    """

    name: str
    meaning: str
    right: int
    of: int
    p: float
    passed: bool


@dataclass(frozen=True)
class Preference:
    """The outcomes of ours on one criterion.

    p: two-sided sign test of wins against losses. p_holm: p corrected over the study's criteria.
    """

    criterion: str
    won: Share
    tied: int
    lost: Share
    p: float
    p_holm: float


@dataclass
class Judged:
    """What `p4r judge` found; `results.json` holds these fields.

    consistent: verdicts that agree in both orders.
    first: verdicts, without ties, that prefer the first text; about half if order does not matter.
    not_possible: controls for which the artifacts hold too few comparisons.
    preferences: empty unless `passed`.
    """

    study: str
    model: str
    passed: bool
    controls: list[ControlFigures]
    not_possible: list[str]
    consistent: Share | None
    first: Share | None
    preferences: list[Preference] = field(default_factory=list)
    unanswered: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    about: dict[str, str | int] = field(default_factory=dict)


def control_figures(
    controls: Iterable[Control], judgments: Sequence[Judgment], asked: Mapping[str, int]
) -> list[ControlFigures]:
    """The figures of each control that was `asked`; an unanswered comparison is not right."""
    return [_control(one, judgments, asked[one.name]) for one in controls if asked.get(one.name)]


def _control(control: Control, judgments: Iterable[Judgment], asked: int) -> ControlFigures:
    right = sum(_is_right(one, control) for one in judgments if one.control == control.name)
    p = float(binomtest(right, asked, 0.5, alternative="greater").pvalue)
    on = f", on {control.criterion}" if control.criterion else ""
    return ControlFigures(control.name, control.right + on, right, asked, p, p < SIGNIFICANT)


def _is_right(one: Judgment, control: Control) -> bool:
    if control.criterion is None:
        return set(one.first.values()) == {TIE}
    return one.outcome(control.criterion) == "won"


def preferences(criteria: Sequence[str], judgments: Sequence[Judgment]) -> list[Preference]:
    """The outcomes on each criterion; empty if nothing was judged."""
    if not judgments:
        return []
    counts = [Counter(one.outcome(name) for one in judgments) for name in criteria]
    p = [_sign_test(one["won"], one["lost"]) for one in counts]
    found = []
    for name, one, chance, corrected in zip(criteria, counts, p, holm(p), strict=True):
        won, lost = (Share.made(one[what], len(judgments)) for what in ("won", "lost"))
        assert won is not None  # noqa: S101 - there are judgments
        assert lost is not None  # noqa: S101
        found.append(Preference(name, won, one["tied"], lost, chance, float(corrected)))
    return found


def _sign_test(won: int, lost: int) -> float:
    return float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0


def consistent(judgments: Iterable[Judgment]) -> Share | None:
    """The share of verdicts that agree in both orders."""
    agrees = [
        one.second[name] == _MIRRORED[verdict]
        for one in judgments
        if one.twice
        for name, verdict in one.first.items()
    ]
    return Share.made(sum(agrees), len(agrees))


def prefer_first(judgments: Iterable[Judgment]) -> Share | None:
    """The share of verdicts, without ties, that prefer the first text."""
    counts = Counter(
        verdict
        for one in judgments
        for said in ((one.first, one.second) if one.twice else (one.first,))
        for verdict in said.values()
    )
    return Share.made(counts[FIRST], counts[FIRST] + counts[SECOND])
