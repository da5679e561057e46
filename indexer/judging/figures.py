"""What judgments come to: controls passed or not, and how often ours was preferred.

A text wins on a criterion where it is preferred in both orders, and loses likewise; all else is a
tie. So a judge that goes by places alone has only ties, and one that throws dice loses as often as
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
"""Comparisons of a control: of fewer, not even all could be right significantly often."""

_MIRRORED = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}


@dataclass(frozen=True)
class Share:
    """`count` of `of`, with the 95 % interval of the share (Wilson)."""

    count: int
    of: int
    low: float
    high: float

    @classmethod
    def made(cls, count: int, of: int) -> Share | None:
        """None of nothing."""
        if not of:
            return None
        interval = binomtest(count, of).proportion_ci(0.95, method="wilson")
        return cls(count, of, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class ControlFigures:
    """How often the judge was right where the right outcome is known.

    p: how likely so many of `of` are right where each is right with probability 1/2 (one-sided
    binomial test). A judge that cannot tell right from wrong prefers the right text in both
    orders no more often than the wrong one, thus with probability 1/2 at most.
    """

    name: str
    meaning: str
    right: int
    of: int
    p: float
    passed: bool


@dataclass(frozen=True)
class Preference:
    """How ours fared on one criterion; p: two-sided sign test of wins against losses, p_holm the
    same corrected over the criteria of the study.
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

    consistent: verdicts that say the same in both orders; first: verdicts, ties aside, that prefer
    the text that comes first, half of them where places do not matter. `not_possible`: controls
    for which the artifacts had too little. Without `passed` there are no `preferences`.
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
    """Of each control that was `asked` so often; what was not answered is not right."""
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
    """Of each criterion; none where nothing was judged."""
    if not judgments:
        return []
    counts = [Counter(one.outcome(name) for one in judgments) for name in criteria]
    p = [_sign_test(one["won"], one["lost"]) for one in counts]
    found = []
    for name, one, chance, corrected in zip(criteria, counts, p, holm(p), strict=True):
        won, lost = (Share.made(one[what], len(judgments)) for what in ("won", "lost"))
        assert won is not None  # noqa: S101 - of something
        assert lost is not None  # noqa: S101
        found.append(Preference(name, won, one["tied"], lost, chance, float(corrected)))
    return found


def _sign_test(won: int, lost: int) -> float:
    return float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0


def consistent(judgments: Iterable[Judgment]) -> Share | None:
    """Verdicts that say the same in both orders."""
    agrees = [
        one.second[name] == _MIRRORED[verdict]
        for one in judgments
        if one.twice
        for name, verdict in one.first.items()
    ]
    return Share.made(sum(agrees), len(agrees))


def prefer_first(judgments: Iterable[Judgment]) -> Share | None:
    """Verdicts, ties aside, for the text that comes first."""
    counts = Counter(
        verdict
        for one in judgments
        for said in ((one.first, one.second) if one.twice else (one.first,))
        for verdict in said.values()
    )
    return Share.made(counts[FIRST], counts[FIRST] + counts[SECOND])
