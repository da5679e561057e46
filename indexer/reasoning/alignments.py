"""(p+, reason): the persona that explains why a user chose an item, picked by an LLM (Eq. 5)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import partial
from string import ascii_uppercase
from typing import Any

from indexer.reasoning.alignment_targets import AlignmentStep, Target
from indexer.reasoning.sanitizing import problem_with
from indexer.reasoning.step import TEXT, AnswerForm, Question, an_object, one_of
from p4r_qdrant.records import Alignment, Persona
from p4r_qdrant.texts import interaction_text


class Alignments(AlignmentStep):
    """The persona that an LLM as judge picks.

    The judge sees at most `length` interactions of the profile, and the item's personas in an
    order that `seed` shuffles.
    """

    def questions(self) -> Iterator[Question]:
        """One request for each target; none if the item has a single persona."""
        for one in self.targets():
            yield self._question(one)

    def _question(self, target: Target) -> Question:
        user_id, chosen = target.user_id, target.chosen
        options = list(target.personas)
        text = f"{self.options.seed}\x00{user_id}\x00{chosen.item_id}"
        seed = hashlib.sha256(text.encode()).digest()
        random.Random(seed).shuffle(options)  # noqa: S311 - against position bias, not a secret
        labels = dict(zip(ascii_uppercase, options, strict=False))
        about = (user_id, chosen.item_id, labels)
        if len(options) == 1:
            return Question(about, [])
        seen = target.seen[: self.options.length]
        past = "\n".join(f"- {interaction_text(one).replace(chr(10), '; ')}" for one in seen)
        lines = "\n".join(
            f"{label}. {one.name}: {one.description} {one.preference_rationale}"
            for label, one in labels.items()
        )
        material = (
            f"History, newest first:\n{past}\n\n"
            f"Chosen: {chosen.summary or chosen.title or 'not described'}\n\nOptions:\n{lines}"
        )
        request = self.request(
            "alignment",
            material,
            AnswerForm(
                schema=an_object(choice=one_of(labels), justification=TEXT),
                check=partial(_problem, labels=labels),
                about={"user_id": user_id, "item_id": chosen.item_id},
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


def _choice(value: Any) -> str:
    return str(value["choice"]).strip().strip("().").upper()[:1]


def _problem(value: Any, system: str, *, labels: dict[str, Persona]) -> str | None:
    if _choice(value) not in labels:
        return f"the choice must be one of the letters {', '.join(labels)}"
    problem = problem_with(value["justification"], system, most_words=60)
    return f"the justification {problem}" if problem else None
