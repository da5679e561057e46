"""One or two files of lists against the truth: metrics, intervals, segments, tests."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from indexer.artifacts.lines import Refusals
from indexer.evaluation import significance
from indexer.evaluation.interactions import Interactions, read_interactions
from indexer.evaluation.lists import JudgedLists, judge_lists
from indexer.evaluation.segments import segments
from indexer.evaluation.truth import On, Truth, read_truth
from indexer.metrics import Ranks, ceiling, metric_names, metric_values
from indexer.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """What `p4r evaluate` reads: lists and their truth.

    against: other lists, which are compared with these. reviews: with them there are segments.
    """

    candidates: Path
    truth: Path
    against: Path | None = None
    reviews: Path | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over users and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Ours minus theirs with its 95 % interval; `p` of the randomization test, Holm-corrected
    over the metrics of one comparison.
    """

    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Evaluated:
    """Metrics of some users; `against` holds the other run's, `differences` ours minus theirs."""

    name: str
    rule: str
    users: int
    ceiling: float
    metrics: dict[str, Estimate]
    against_ceiling: float | None = None
    against: dict[str, Estimate] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What `p4r evaluate` finds. The first of `parts` is all users, the others are segments."""

    on: On
    parts: list[Evaluated]
    lists: JudgedLists
    against_lists: JudgedLists | None
    notes: Counter[str]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "on": self.on,
            "users": self.parts[0].users,
            "lists": _lists_record(self.lists),
            "against_lists": _lists_record(self.against_lists) if self.against_lists else None,
            "notes": dict(self.notes),
            "parts": [_part_record(part) for part in self.parts],
        }


def evaluate_files(
    files: EvaluationFiles, refusals: Refusals, *, on: On = "test", progress: Progress = SILENT
) -> Evaluation:
    """Judge a file of lists, and another against it, by the same users.

    Raises InputError where a file cannot be read or holds no truth; broken records are refused
    and counted.
    """
    truth = read_truth(files.truth, refusals, on)
    training = None
    if files.reviews is not None:
        training = read_interactions(files.reviews, truth.held_out, refusals, progress)
    known = training.known_items if training else None
    lists = judge_lists(files.candidates, truth, refusals, known_items=known, progress=progress)
    others = None
    if files.against is not None:
        others = judge_lists(files.against, truth, refusals, known_items=known, progress=progress)
    return Evaluation(
        on,
        evaluate(lists.ranks, others.ranks if others else None, truth, training),
        lists,
        others,
        truth.notes + (outside_notes(truth, training) if training else Counter()),
    )


def evaluate(
    ranks: Ranks, against: Ranks | None, truth: Truth, training: Interactions | None
) -> list[Evaluated]:
    """All users, then each segment."""
    parts = [_evaluated("all users", "", ranks, against)]
    for one in segments(truth, training) if training else []:
        theirs = None if against is None else against[one.members]
        parts.append(_evaluated(one.name, one.rule, ranks[one.members], theirs))
    return parts


def outside_notes(truth: Truth, training: Interactions) -> Counter[str]:
    """Held-out items that no generator can know, and users without a history."""
    trained, users = set(training.items), set(training.users)
    strange = sum(item not in training.known_items for item in truth.items.values())
    cold = sum(item not in trained for item in truth.items.values()) - strange
    without = sum(user not in users for user in truth.items)
    return +Counter(
        {
            "users whose item is outside the catalogue": strange,
            "users whose item has no training interaction": cold,
            "users without a training interaction": without,
        }
    )


def estimates(ranks: Ranks) -> dict[str, Estimate]:
    """Every metric with its interval."""
    means = metric_values(ranks).mean(axis=0)
    low, high = significance.interval(ranks)
    return {
        name: Estimate(*(float(value) for value in values))
        for name, *values in zip(metric_names(), means, low, high, strict=True)
    }


def differences(ranks: Ranks, against: Ranks) -> dict[str, Difference]:
    """Every metric's difference with its interval and corrected p."""
    found = significance.compare(ranks, against)
    columns = (found.difference, found.low, found.high, significance.holm(found.p))
    return {
        name: Difference(*(float(value) for value in values))
        for name, *values in zip(metric_names(), *columns, strict=True)
    }


def _evaluated(name: str, rule: str, ranks: Ranks, against: Ranks | None) -> Evaluated:
    ours = (name, rule, len(ranks), ceiling(ranks), estimates(ranks))
    if against is None:
        return Evaluated(*ours)
    return Evaluated(*ours, ceiling(against), estimates(against), differences(ranks, against))


def _lists_record(lists: JudgedLists) -> dict[str, Any]:
    return {
        "shortest": lists.shortest,
        "longest": lists.longest,
        "notes": dict(lists.notes),
    }


def _part_record(part: Evaluated) -> dict[str, Any]:
    return {key: value for key, value in asdict(part).items() if value not in (None, {}, "")}
