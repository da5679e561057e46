"""Examples for EXP3RT's student: what a teacher answers at each of the three steps.

Source: EXP3RT (arXiv 2408.06276). The teacher extracts preferences, writes profiles, and, knowing
the true rating of a training interaction, gives reasons for it. The student learns to answer the
same questions, and to write the reasons and then the rating without knowing it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from indexer.ledger import Ledger
from indexer.llm import Answer, Request, Usage
from indexer.llm.request import from_record
from indexer.peers.asking import Form, RequestMaker
from indexer.peers.protocol import Asker, Exchange
from indexer.peers.rated import Rated
from indexer.peers.ratings import MARKER, RatingForm, RatingMaterial
from indexer.peers.running import each, nothing
from indexer.peers.tuning_data import (
    DEV_SHARE,
    Example,
    TuningData,
    histories,
    parts,
)
from indexer.reasoning.sanitizing import problem_with
from indexer.reasoning.step import TEXT, an_object
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Review

MOST_WORDS = 160
REASONS_TOKENS = 320
_ASSUMED = {"text": "word " * 100}


@dataclass(frozen=True, slots=True)
class Target:
    """A rated training interaction, and the user's reviews before it, newest first."""

    user_id: str
    item_id: str
    rating: float
    reviews: tuple[Review, ...]


@dataclass
class Lesson:
    """An asker that asks a teacher and keeps what the student is to learn from its answers."""

    user_id: str
    teacher: Asker
    examples: list[Example] = field(default_factory=list)

    async def __call__(self, request: Request, assumed: Any) -> Answer:
        """The teacher's answer."""
        answer = await self.teacher(request, assumed)
        if answer.ok:
            text = json.dumps(answer.value, ensure_ascii=False)
            self.examples.append(Example(self.user_id, request, text))
        return answer


@dataclass(frozen=True)
class Reasons:
    """Asks a teacher why a rating was given.

    make: for the teacher's requests.
    """

    make: RequestMaker
    how: RatingForm

    async def answer(
        self, material: RatingMaterial, rating: float, about: dict[str, str], exchange: Exchange
    ) -> str | None:
        """The answer that a student should give; None if the teacher has none.

        Without reasoning the digit is all of it, and no teacher is asked.
        """
        digit = self.how.scale.digit(rating)
        if not self.how.reasoning:
            return digit
        value = await exchange.ask(self._question(material, digit, about), _ASSUMED)
        return None if value is None else f"{' '.join(value['text'].split())}\n{MARKER} {digit}"

    def _question(self, material: RatingMaterial, digit: str, about: dict[str, str]) -> Request:
        template = "peer_teacher_reasons"
        system = self.make.domain.template(template).partition("\n---\n")[0]
        form = Form(
            REASONS_TOKENS, schema=an_object(text=TEXT), check=partial(_problem, system=system)
        )
        values = {"rating": digit, "worst": self.how.values["worst"]}
        values["best"] = self.how.values["best"]
        return self.make(template, material.text(self.how.scale), form, about, **values)


def _problem(value: Any, system: str) -> str | None:
    problem = problem_with(value["text"], system, most_words=MOST_WORDS)
    return f"the text {problem}" if problem else None


def targets(peer: Rated, samples: int | None, seed: int) -> tuple[list[Target], list[Target]]:
    """(to train on, to choose the epoch by): the newest rated training interaction of each user.

    Users without an earlier interaction have none. Raises InputError if there are too few.
    """
    train, dev = parts(_targets(peer), samples, seed)
    enough = max(1, round(DEV_SHARE * len(train) / (1 - DEV_SHARE)))
    return train, dev[:enough]  # each one costs calls


def _targets(peer: Rated) -> Iterator[Target]:
    material = peer.sources.material
    for user, history in histories(material):
        for at, one in enumerate(history[:-1]):
            if one.rating is not None:
                before = history[at + 1 :]
                reviews = material.reviews_of_user(user, peer.options.reviews, before)
                yield Target(user, one.item_id, one.rating, tuple(reviews))
                break


async def distilled(
    peer: Rated,
    chosen: tuple[Sequence[Target], Sequence[Target]],
    teacher: Asker,
    done: Callable[[], None] = nothing,
) -> TuningData:
    """What the student learns from some targets. Raises what stops the teacher.

    Where the teacher has no usable answer, there is no example. A question that several users share
    is one example.
    """

    async def learned(own: Sequence[Target]) -> list[list[Example]]:
        return await each(own, lambda one: _examples(peer, one, teacher), done)

    train, dev = [await learned(own) for own in chosen]
    seen: set[str] = set()
    return TuningData(_distinct(train, seen), _distinct(dev, seen))


def check_reasons(data: TuningData) -> None:
    """Raise InputError if no rating can be learned, because the teacher has given no reasons."""
    for part in (data.train, data.dev):
        if not any(one.request.options for one in part):  # only ratings have options
            raise InputError(
                "the teacher has given no usable reasons for ratings, so that there is nothing to "
                "learn: ask another model with P4R_LLM__PEERS__MODEL, or take more --samples"
            )


async def _examples(peer: Rated, target: Target, teacher: Asker) -> list[Example]:
    """The examples of all three steps for one target."""
    lesson = Lesson(target.user_id, teacher)
    exchange = Exchange(lesson)
    user = await peer.user_profile(target.user_id, target.reviews, exchange)
    item = await peer.item_profile(target.user_id, target.item_id, exchange)
    candidate = peer.sources.material.candidate(target.item_id)
    material = peer.material(target.user_id, candidate, (user, item), exchange)
    question = peer.question(target.user_id, target.item_id, material)
    about = dict(question.about)
    reasons = Reasons(peer.request, peer.form)
    answer = await reasons.answer(material, target.rating, about, Exchange(teacher))
    if answer is not None:
        lesson.examples.append(Example(target.user_id, question, answer))
    return lesson.examples


def _distinct(found: Sequence[Sequence[Example]], seen: set[str]) -> list[Example]:
    kept = []
    for one in (one for own in found for one in own):
        if one.request.key not in seen:
            seen.add(one.request.key)
            kept.append(one)
    return kept


def known_answers(ledger: Ledger) -> Asker:
    """A teacher that has only the answers of a ledger."""

    async def ask(request: Request, assumed: Any) -> Answer:  # noqa: ARG001
        record = ledger.get(request.step, request.key)
        if record is None:
            return Answer(request, None, Usage(), ("no answer is known",))
        return from_record(request, record)

    return ask
