"""(p+, reason): which persona of an item explains why a user chose it (Eq. 5)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from string import ascii_uppercase
from typing import Any, Literal

from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import Lookup
from indexer.artifacts.names import ALIGNMENTS, ASPECTS, PERSONAS
from indexer.progress import Progress
from indexer.reasoning.nearest import Case, Nearest, Remembering, nearest_personas
from indexer.reasoning.sanitizing import problem_with
from indexer.reasoning.step import TEXT, AnswerForm, Question, Sources, Step, an_object, one_of
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.records import Alignment, Interaction, ItemPersonas, Persona
from p4r_qdrant.texts import interaction_text

Profile = Literal["before", "others"]
BLOCK = 256
"""Interactions whose texts are encoded as one batch."""


@dataclass(frozen=True)
class Target:
    """A training interaction to align: what it is, what else the user chose, and its personas."""

    user_id: str
    chosen: Interaction
    seen: Sequence[Interaction]
    personas: Sequence[Persona]


class Aligning(Step):
    """Alignments of training interactions, the newest `per_user` of each user that can be aligned.

    One with nothing before it (`profile`: before), or beside it (others), makes no training pair.
    """

    name = "alignments"
    artifact = ALIGNMENTS
    templates = ("alignment",)
    answer_tokens = 70
    reads = (ASPECTS, PERSONAS)

    def __init__(
        self,
        sources: Sources,
        refusals: Refusals,
        *,
        per_user: int = 3,
        profile: Profile = "before",
    ) -> None:
        super().__init__(sources, refusals)
        self._per_user = per_user
        self._profile = profile

    def targets(self) -> Iterator[Target]:
        """What is aligned, user by user; what cannot be is counted."""
        folder = self.sources.folder
        with (
            Histories(folder, Refusals()) as histories,
            Lookup(folder.file(PERSONAS), ItemPersonas, Refusals()) as personas,
        ):
            for user_id in histories.users():
                known = histories.get(user_id)
                history = newest_first(known, len(known))
                taken = 0
                for place, chosen in enumerate(history):
                    found = personas.get(chosen.item_id)
                    if found is None or not found.personas or taken == self._per_user:
                        continue
                    seen = history[place + 1 :]
                    if self._profile == "others":
                        seen = history[:place] + seen
                    target = Target(user_id, chosen, seen, found.personas)
                    if obstacle := self.obstacle(target):
                        self.left_out[obstacle] += 1
                        continue
                    taken += 1
                    yield target

    def obstacle(self, target: Target) -> str | None:
        """Why an interaction cannot be aligned."""
        return None if target.seen else "interactions with nothing before them"


class Alignments(Aligning):
    """The judge's picks.

    It sees `profile`: what the user chose `before` that interaction, in (time, item id) order, or
    all `others`; at most `length` of it. The options' order is shuffled by `seed`.
    """

    def __init__(
        self,
        sources: Sources,
        refusals: Refusals,
        *,
        per_user: int = 3,
        profile: Profile = "before",
        length: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(sources, refusals, per_user=per_user, profile=profile)
        self._length = length
        self._seed = seed

    def questions(self) -> Iterator[Question]:
        """One request for each pair; none where the item has a single persona."""
        for one in self.targets():
            yield self._question(one.user_id, one.chosen, one.seen[: self._length], one.personas)

    def _question(
        self,
        user_id: str,
        target: Interaction,
        seen: Sequence[Interaction],
        personas: Sequence[Persona],
    ) -> Question:
        options = list(personas)
        place = hashlib.sha256(f"{self._seed}\x00{user_id}\x00{target.item_id}".encode()).digest()
        random.Random(place).shuffle(options)  # noqa: S311 - against position bias, not a secret
        labels = dict(zip(ascii_uppercase, options, strict=False))
        about = (user_id, target.item_id, labels)
        if len(options) == 1:
            return Question(about, [])
        past = "\n".join(f"- {interaction_text(one).replace(chr(10), '; ')}" for one in seen)
        lines = "\n".join(
            f"{label}. {one.name}: {one.description} {one.preference_rationale}"
            for label, one in labels.items()
        )
        material = (
            f"History, newest first:\n{past}\n\n"
            f"Chosen: {target.summary or target.title or 'not described'}\n\nOptions:\n{lines}"
        )
        request = self.request(
            "alignment",
            material,
            AnswerForm(
                schema=an_object(choice=one_of(labels), justification=TEXT),
                check=partial(_problem, labels=labels),
                about={"user_id": user_id, "item_id": target.item_id},
                max_tokens=300,
            ),
        )
        return Question(about, [request])

    def record(self, about: tuple[str, str, dict[str, Persona]], values: list[Any]) -> Alignment:
        """A line of alignments.jsonl."""
        user_id, item_id, labels = about
        label = _choice(values[0]) if values else "A"
        return Alignment(
            user_id=user_id,
            item_id=item_id,
            persona_id=labels[label].persona_id,
            justification=values[0]["justification"] if values else "The only persona there is.",
        )


class NearestAlignments(Aligning):
    """The persona nearest to what the user says of the item: free, for it asks no LLM.

    Each interaction that is encoded is one step of `progress`. Without an `encoder` it can only be
    estimated.
    """

    asks = False

    def __init__(
        self,
        sources: Sources,
        refusals: Refusals,
        encoder: Encoder | None,
        progress: Progress,
        *,
        per_user: int = 3,
        profile: Profile = "before",
    ) -> None:
        super().__init__(sources, refusals, per_user=per_user, profile=profile)
        self._encoder = encoder
        self._progress = progress

    def obstacle(self, target: Target) -> str | None:
        """As for the judge; and there must be aspects to compare."""
        if not any(target.chosen.aspects.values()):
            return "interactions without aspects"
        return super().obstacle(target)

    def questions(self) -> Iterator[Question]:
        """Every target with the persona that is nearest; nothing is asked."""
        assert self._encoder is not None  # noqa: S101 - a dry run ends before
        self.sources.folder.file(ASPECTS)  # without it nothing would be aligned, and silently
        encoder = Remembering(self._encoder)
        targets = self.targets()
        while block := list(islice(targets, BLOCK)):
            cases = [Case(one.chosen.aspects, one.personas) for one in block]
            for target, nearest in zip(block, nearest_personas(encoder, cases), strict=True):
                yield Question((target, nearest), [])
            self._progress.advance(len(block))

    def record(self, about: tuple[Target, Nearest], values: list[Any]) -> Alignment:  # noqa: ARG002
        """A line of alignments.jsonl."""
        target, nearest = about
        said = target.chosen.aspects[nearest.slot]
        return Alignment(
            user_id=target.user_id,
            item_id=target.chosen.item_id,
            persona_id=target.personas[nearest.place].persona_id,
            justification=f"Nearest to what the user says of the item, above all of "
            f"{nearest.slot.replace('_', ' ')} ({said}): similarity {nearest.similarity:.2f}.",
        )


def _choice(value: Any) -> str:
    return str(value["choice"]).strip().strip("().").upper()[:1]


def _problem(value: Any, system: str, *, labels: dict[str, Persona]) -> str | None:
    if _choice(value) not in labels:
        return f"the choice must be one of the letters {', '.join(labels)}"
    problem = problem_with(value["justification"], system, most_words=60)
    return f"the justification {problem}" if problem else None
