"""Comparisons of two texts by an LLM as judge: the requests, in both orders, and the verdicts.

Independent of the study: `explanations.py` and `personas.py` define what is compared.
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
from indexer.reasoning.sanitizing import cleaned_once, parts, problem_with
from indexer.reasoning.step import TEXT, AnswerForm, Question, Sources, Step, an_object, one_of

Verdict = Literal["A", "B", "tie"]
FIRST: Verdict = "A"
SECOND: Verdict = "B"
TIE: Verdict = "tie"
VERDICTS: tuple[Verdict, ...] = (FIRST, SECOND, TIE)
MOST_WORDS = 80
LONGEST = 2000
"""Characters of one text: an explanation, a persona, a line of a history."""

Outcome = Literal["won", "tied", "lost"]
T = TypeVar("T", str, tuple[str, str])


@dataclass(frozen=True)
class Control:
    """A kind of comparison whose right outcome is known; `right` says it in words.

    criterion: the criterion on which the right text must win; None if the two texts are equal, so
        that all criteria must be ties.
    optional: the control is left out if the artifacts hold too few comparisons of it.
    """

    name: str
    right: str
    criterion: str | None
    optional: bool = False


@dataclass(frozen=True)
class Comparison:
    """Two texts, and the `context` that the judge sees with them.

    `control` names the control, and `ours` is then the right text; "" if no outcome is known.
    """

    about: Mapping[str, str]
    context: str
    ours: str
    theirs: str
    control: str = ""


@dataclass(frozen=True)
class Sampling:
    """How many comparisons a study draws, and how many of each control; another `seed`, others."""

    comparisons: int = 100
    controls: int = 30
    seed: int = 0


DEFAULT_SAMPLING = Sampling()


class Judgment(BaseModel):
    """One line of controls.jsonl or judgments.jsonl: a comparison and the judge's verdicts.

    `first`: the verdicts with `ours` as A; `second`: with `ours` as B. Both are empty if the two
    texts are equal and were not judged; both are the same if equal texts were judged as a control.
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
        """Whether both orders were judged."""
        return bool(self.first) and self.ours != self.theirs

    def outcome(self, criterion: str) -> Outcome:
        """The outcome for `ours`: a preference that changes with the order is a tie."""
        match self.first.get(criterion), self.second.get(criterion):
            case "A", "B":
                return "won"
            case "B", "A":
                return "lost"
        return "tied"


class Study(ExitStack, ABC):
    """What is compared; a context manager.

    `label` is the name of the two texts in the prompt. The seed alone decides the order of the
    comparisons: a larger sample begins with the smaller one, so its answers are used again.
    """

    name: ClassVar[str]
    template: ClassVar[str]
    label: ClassVar[str]
    criteria: ClassVar[tuple[str, ...]]
    controls: ClassVar[tuple[Control, ...]]
    reads: tuple[str, ...] = ()
    """Files that must be in the folder of results before `comparisons` is called."""
    about: dict[str, str | int]
    """What is compared, for the results."""
    files: tuple[AbstractContextManager[object], ...]
    """The files that it reads, opened when the study is entered."""

    def __enter__(self) -> Self:
        for one in self.files:
            self.enter_context(one)
        return self

    @abstractmethod
    def control_comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """The comparisons whose right outcome is known, one control after the other."""

    @abstractmethod
    def comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """The comparisons of the study; what cannot be compared is counted in `left_out`."""

    def preparation(self, sources: Sources, refusals: Refusals) -> list[Step]:  # noqa: ARG002
        """Steps that write what `comparisons` needs, into the folder of results."""
        return []


class Judging(Step):
    """Asks each comparison in both orders and writes the verdicts to `artifact`.

    `sources.folder` is the folder of results.
    """

    name = "judgments"
    answer_tokens = 80  # the length of such an answer; not measured
    needs_answers = False  # an unusable answer is a wrong one, and is counted as that

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
        """Two requests per comparison. Equal texts have one request in a control, else none."""
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
    """One of VERDICTS, else ""; an endpoint that ignores the schema may answer "(a)"."""
    plain = value.strip().strip("().\"'").casefold()
    return next((one for one in VERDICTS if one.casefold() == plain), "")


def _problem(value: Any, system: str, *, criteria: Iterable[str]) -> str | None:
    for name in criteria:
        if not _verdict(value[name]):
            return f"{name} must be one of {', '.join(VERDICTS)}"
    difference = value["difference"]
    if not any(map(str.isalnum, difference)):  # equal texts have no difference
        return None
    problem = problem_with(difference, system, most_words=MOST_WORDS)
    return f"the difference {problem}" if problem else None


def fit(text: str, left_out: Counter[str]) -> str:
    """An outside text on one line, without what addresses a model or asks for a verdict.

    It is cut after `LONGEST` characters. What is removed is counted in `left_out`.
    """
    kept = cleaned_once(text, judged=True)
    left_out["sentences that address a model or ask for a verdict"] += kept.removed
    left_out[f"texts cut after {LONGEST:,} characters"] += len(kept.text) > LONGEST
    return " ".join("".join(parts(kept.text, LONGEST)[:1]).split())


def shuffled(ids: Iterable[T], seed: int, about: str = "") -> list[T]:
    """The ids in a pseudorandom order; further ids do not change the order of the others."""

    def place(one: T) -> bytes:
        return hashlib.sha256(f"{seed}\x00{about}\x00{one}".encode()).digest()

    return sorted(ids, key=place)
