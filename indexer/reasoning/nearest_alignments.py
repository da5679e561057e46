"""(p+, reason) without an LLM: the persona nearest to what the user said of the item."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ASPECTS
from indexer.progress import Progress
from indexer.reasoning.alignment_targets import AlignmentOptions, AlignmentStep, Target
from indexer.reasoning.nearest import Case, Nearest, Remembering, nearest_personas
from indexer.reasoning.step import Question, Sources
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.records import Alignment

BLOCK = 256
"""Interactions whose texts are encoded as one batch."""


class NearestAlignments(AlignmentStep):
    """The persona that is most similar to what the user says of the item; asks no LLM.

    Each encoded interaction is one step of `progress`. Without an `encoder` the step can only be
    estimated.
    """

    asks = False

    def __init__(
        self,
        sources: Sources,
        refusals: Refusals,
        options: AlignmentOptions,
        encoder: Encoder | None,
        progress: Progress,
    ) -> None:
        super().__init__(sources, refusals, options)
        self._encoder = encoder
        self._progress = progress

    def obstacle(self, target: Target) -> str | None:
        """As for the judge; also, the user must have said something of the item."""
        if not any(target.chosen.aspects.values()):
            return "interactions without aspects"
        return super().obstacle(target)

    def questions(self) -> Iterator[Question]:
        """Each target with its nearest persona, without requests."""
        assert self._encoder is not None  # noqa: S101 - a dry run does not come here
        self.sources.folder.file(ASPECTS)  # raises if it is missing
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
            persona_id=target.personas[nearest.position].persona_id,
            justification=f"Nearest to what the user says of the item, above all of "
            f"{nearest.slot.replace('_', ' ')} ({said}): similarity {nearest.similarity:.2f}.",
        )
