"""(p+, reason): which persona of an item explains why a user chose it (Eq. 5)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import partial
from string import ascii_uppercase
from typing import Any, Literal

from indexer.artifacts import ALIGNMENTS, ASPECTS, PERSONAS, Lookup, Refusals
from indexer.reasoning.material import problem_with
from indexer.reasoning.step import TEXT, Question, Sources, Step, an_object, one_of
from p4r_qdrant.encoder import newest_first
from p4r_qdrant.records import Alignment, Interaction, ItemPersonas, Persona
from p4r_qdrant.texts import interaction_text

Profile = Literal["before", "others"]


class Alignments(Step):
    """The judge's picks for training interactions, the newest `per_user` of each user.

    The judge sees `profile`: what the user chose `before` that interaction, in (time, item id)
    order, or all `others`; at most `length` of it. The options' order is shuffled by `seed`.
    """

    name = "alignments"
    artifact = ALIGNMENTS
    templates = ("alignment",)
    reads = (ASPECTS, PERSONAS)

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
        super().__init__(sources, refusals)
        self._per_user = per_user
        self._profile = profile
        self._length = length
        self._seed = seed

    def questions(self) -> Iterator[Question]:
        """One request for each pair; none where the item has a single persona."""
        folder = self.sources.folder
        with (
            folder.histories(Refusals()) as histories,
            Lookup(folder.file(PERSONAS), ItemPersonas, Refusals()) as personas,
        ):
            for user_id in histories.users():
                history = newest_first(histories.get(user_id), len(histories.get(user_id)))
                asked = 0
                for place, target in enumerate(history):
                    found = personas.get(target.item_id)
                    seen = [*history[place + 1 :]]
                    if self._profile == "others":
                        seen = [*history[:place], *seen]
                    if found is None or asked == self._per_user:
                        continue
                    if not seen:
                        self.left_out["interactions with nothing before them"] += 1
                        continue
                    asked += 1
                    yield self._question(user_id, target, seen[: self._length], found.personas)

    def _question(
        self, user_id: str, target: Interaction, seen: list[Interaction], personas: list[Persona]
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
            schema=an_object(choice=one_of(labels), justification=TEXT),
            check=partial(_problem, labels=labels),
            about={"user_id": user_id, "item_id": target.item_id},
            max_tokens=300,
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
