"""Comparisons of two texts by a judge: what is asked, in both orders, and what it said.

Nothing here knows which study it is for: `explanations.py` and `personas.py` say what is compared.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel

from indexer.artifacts.lines import Refusals
from indexer.llm import Request
from indexer.reasoning.sanitizing import cleaned, parts, problem_with
from indexer.reasoning.step import TEXT, AnswerForm, Question, Sources, Step, an_object, one_of

FIRST, SECOND, TIE = "A", "B", "tie"
VERDICTS = (FIRST, SECOND, TIE)
MOST_WORDS = 80
LONGEST = 2000
"""Characters of one text: an explanation, a persona, a line of a history."""

Outcome = Literal["won", "tied", "lost"]
T = TypeVar("T", str, tuple[str, str])


@dataclass(frozen=True)
class Control:
    """A kind of comparison whose right outcome is known. `right`: in words.

    `criterion` is the one the right text must win on; None where all must be ties, for the two
    texts are the same. An `optional` one is left out where the artifacts do not have enough of it.
    """

    name: str
    right: str
    criterion: str | None
    optional: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two texts, and the `context` the judge sees them in; `control` is "" where nobody knows.

    In a control `ours` is the right text.
    """

    about: Mapping[str, str]
    context: str
    ours: str
    theirs: str
    control: str = ""


class Judgment(BaseModel):
    """One line of controls.jsonl or judgments.jsonl: a comparison and what the judge said of it.

    `first`: its verdicts where `ours` was A; `second`: where it was B. Both are empty where the
    two texts are the same and nobody was asked, and equal where that was asked as a control.
    """

    control: str
    about: dict[str, str]
    context: str
    ours: str
    theirs: str
    first: dict[str, str]
    second: dict[str, str]
    differences: list[str]

    @property
    def twice(self) -> bool:
        """Whether two different orders were asked."""
        return bool(self.first) and self.ours != self.theirs

    def outcome(self, criterion: str) -> Outcome:
        """How `ours` fared: a preference that does not outlast the change of places is a tie."""
        match self.first.get(criterion), self.second.get(criterion):
            case "A", "B":
                return "won"
            case "B", "A":
                return "lost"
        return "tied"


class Study(ExitStack, ABC):
    """What is compared with what; a context manager.

    `label` is what the prompt calls the two texts. Comparisons come in an order that the seed
    alone decides: a larger sample begins with the smaller one, so that no answer is lost.
    """

    name: ClassVar[str]
    template: ClassVar[str]
    label: ClassVar[str]
    criteria: ClassVar[tuple[str, ...]]
    controls: ClassVar[tuple[Control, ...]]
    reads: tuple[str, ...] = ()
    """What has to be in the folder of results before `comparisons` can be told."""
    about: dict[str, str | int]
    """What is compared, for the results."""
    files: tuple[AbstractContextManager[object], ...]
    """What it reads, opened when the study is entered."""

    def __enter__(self) -> Self:
        for one in self.files:
            self.enter_context(one)
        return self

    @abstractmethod
    def control_comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """Those whose right outcome is known, all of one control after those of another."""

    @abstractmethod
    def comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """Those that the study is about; what cannot be compared is counted."""

    def preparation(self, sources: Sources, refusals: Refusals) -> list[Step]:  # noqa: ARG002
        """Steps that make what `comparisons` needs, in the folder of results."""
        return []


class Judging(Step):
    """Asks each comparison twice, the places changed; writes what was said as `artifact`.

    `sources.folder` is that of the results.
    """

    name = "judgments"
    answer_tokens = 80  # the length of such an answer; not measured

    def __init__(
        self,
        sources: Sources,
        refusals: Refusals,
        study: Study,
        comparisons: Callable[[Counter[str]], Iterable[Comparison]],
        artifact: str,
        reads: tuple[str, ...] = (),
    ) -> None:
        super().__init__(sources, refusals)
        self.artifact = artifact
        self.templates = (study.template,)
        self.reads = reads
        self._study = study
        self._comparisons = comparisons

    def questions(self) -> Iterator[Question]:
        """Two requests a comparison; one where both orders are the same, and none unless that is
        the point of it.
        """
        for one in self._comparisons(self.left_out):
            orders = dict.fromkeys([(one.ours, one.theirs), (one.theirs, one.ours)])
            if len(orders) == 1 and not one.control:
                self.left_out["comparisons of equal texts, which are ties and were not asked"] += 1
                orders = {}
            yield Question(one, [self._request(one, *order) for order in orders])

    def _request(self, one: Comparison, first: str, second: str) -> Request:
        label = self._study.label
        return self.request(
            self._study.template,
            f"{one.context}\n\n{label} {FIRST}:\n{first}\n\n{label} {SECOND}:\n{second}",
            AnswerForm(
                schema=an_object(
                    difference=TEXT, **dict.fromkeys(self._study.criteria, one_of(VERDICTS))
                ),
                check=partial(_problem, criteria=self._study.criteria),
                about=dict(one.about),
                max_tokens=500,
            ),
        )

    def record(self, about: Comparison, values: list[Any]) -> Judgment:
        """A line of the artifact."""
        said = [{name: _verdict(one[name]) for name in self._study.criteria} for one in values]
        return Judgment(
            control=about.control,
            about=dict(about.about),
            context=about.context,
            ours=about.ours,
            theirs=about.theirs,
            first=said[0] if said else {},
            second=said[-1] if said else {},
            differences=[one["difference"] for one in values],
        )


def _verdict(value: str) -> str:
    """One of VERDICTS, "" where it is none; an endpoint that keeps to no schema may say "(a)"."""
    plain = value.strip().strip("().\"'").casefold()
    return next((one for one in VERDICTS if one.casefold() == plain), "")


def _problem(value: Any, system: str, *, criteria: Iterable[str]) -> str | None:
    for name in criteria:
        if not _verdict(value[name]):
            return f"{name} must be one of {', '.join(VERDICTS)}"
    difference = value["difference"]
    if not any(map(str.isalnum, difference)):  # of equal texts there is none
        return None
    problem = problem_with(difference, system, most_words=MOST_WORDS)
    return f"the difference {problem}" if problem else None


def fit(text: str, left_out: Counter[str]) -> str:
    """An outside text on one line, fit to be judged: what addresses a model, or asks for a verdict,
    is taken out and counted, and so is what goes beyond `LONGEST` characters.
    """
    kept = cleaned(text, judged=True)
    left_out["sentences that address a model or ask for a verdict"] += kept.removed
    left_out[f"texts cut after {LONGEST:,} characters"] += len(kept.text) > LONGEST
    return " ".join("".join(parts(kept.text, LONGEST)[:1]).split())


def shuffled(ids: Iterable[T], seed: int, about: str = "") -> list[T]:
    """In an order that depends on each id alone: more ids do not change that of the others."""

    def place(one: T) -> bytes:
        return hashlib.sha256(f"{seed}\x00{about}\x00{one}".encode()).digest()

    return sorted(ids, key=place)
