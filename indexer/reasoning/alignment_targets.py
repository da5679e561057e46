"""Which training interactions are aligned with a persona (Eq. 5), by an LLM or without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import Lookup
from indexer.artifacts.names import ALIGNMENTS, ASPECTS, PERSONAS
from indexer.reasoning.step import Sources, Step
from p4r_qdrant.encoder.user_vector import newest_first
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Interaction, ItemPersonas, Persona

Profile = Literal["before", "others"]
Strategy = Literal["judge", "similarity", "extractive"]


@dataclass(frozen=True)
class AlignmentOptions:
    """How interactions are aligned. Raises InputError for an unknown profile or strategy.

    per_user: alignments of one user, the newest interactions first.
    profile: what else is known of the user: the interactions `before` this one, in (time, item id)
        order, or all `others`.
    strategy: an LLM as `judge`, or `similarity` by the encoder; `extractive` has no LLM, and is by
        similarity too.
    seed: shuffles the options that the judge sees.
    length: interactions that the judge sees.
    """

    per_user: int = 3
    profile: Profile = "before"
    strategy: Strategy = "judge"
    seed: int = 0
    length: int = 5

    def __post_init__(self) -> None:
        for what, text, known in (
            ("profile", self.profile, get_args(Profile)),
            ("strategy", self.strategy, get_args(Strategy)),
        ):
            if text not in known:
                raise InputError(f"there is no {what} {text!r}; use {' or '.join(known)}")


@dataclass(frozen=True)
class Target:
    """A training interaction to align: the user's other interactions, and the item's personas."""

    user_id: str
    chosen: Interaction
    seen: Sequence[Interaction]
    personas: Sequence[Persona]


class AlignmentStep(Step):
    """Aligns the newest `per_user` training interactions of each user that can be aligned.

    An interaction with an empty profile makes no training pair and is skipped.
    """

    name = "alignments"
    artifact = ALIGNMENTS
    templates = ("alignment",)
    answer_tokens = 70
    reads = (ASPECTS, PERSONAS)

    def __init__(self, sources: Sources, refusals: Refusals, options: AlignmentOptions) -> None:
        super().__init__(sources, refusals)
        self.options = options

    def targets(self) -> Iterator[Target]:
        """The interactions to align, user by user; the others are counted by reason."""
        folder = self.sources.folder
        with (
            Histories(folder, Refusals()) as histories,
            Lookup(folder.file(PERSONAS), ItemPersonas, Refusals()) as personas,
        ):
            for user_id in histories.users():
                known = histories.get(user_id)
                history = newest_first(known, len(known))
                taken = 0
                for position, chosen in enumerate(history):
                    found = personas.get(chosen.item_id)
                    if found is None or not found.personas or taken == self.options.per_user:
                        continue
                    seen = history[position + 1 :]
                    if self.options.profile == "others":
                        seen = history[:position] + seen
                    target = Target(user_id, chosen, seen, found.personas)
                    if obstacle := self.obstacle(target):
                        self.left_out[obstacle] += 1
                        continue
                    taken += 1
                    yield target

    def obstacle(self, target: Target) -> str | None:
        """Why an interaction cannot be aligned; None if it can be."""
        return None if target.seen else "interactions with nothing before them"
