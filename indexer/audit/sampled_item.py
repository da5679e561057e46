"""Read sampled items again: their personas, the evidence they cite, and their alignments."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from indexer.artifacts.lines import Refusals
from indexer.artifacts.lookup import RecordFile
from indexer.artifacts.names import ASPECTS, PERSONAS
from indexer.audit.alignments import AlignmentsRead
from indexer.audit.aspects import AspectsRead
from indexer.audit.personas import PersonasRead
from indexer.audit.source import Source
from indexer.reasoning.nearest import aspects_text
from p4r_qdrant.index.payload import plain_text
from p4r_qdrant.records import Aspects, Interaction, ItemPersonas, Persona
from p4r_qdrant.texts import interaction_text, persona_text, persona_texts, plain_rationale

T = TypeVar("T")

MOST_CITED = 10
"""Number of citations per persona, and of alignments per item, that are compared."""


@dataclass(frozen=True)
class SampledItem:
    """One sampled item with the texts that are compared.

    indexed: the text of each persona as an index holds it. told: the texts of the item in the
    histories of users whom its personas cite. cited: the aspect texts that each persona cites.
    ratings: those of the same reviews. aligned: (a user's aspects, position of the persona that
    the user is aligned with).
    """

    item_id: str
    title: str
    personas: Sequence[Persona]
    indexed: Sequence[str]
    told: Sequence[str]
    cited: Sequence[Sequence[str]]
    ratings: Sequence[Sequence[float]]
    aligned: Sequence[tuple[Mapping[str, str | None], int]]


def texts_of(item: SampledItem) -> Iterator[str]:
    """All texts of an item that are encoded."""
    for persona, cited in zip(item.personas, item.cited, strict=True):
        yield persona_text(persona)
        if cited:
            yield from (plain_rationale(persona.preference_rationale), persona.description, *cited)
    yield from (aspects_text(aspects) for aspects, _ in item.aligned)


class ItemReader(ExitStack):
    """Reads sampled items by their byte offsets; a context manager."""

    def __init__(
        self,
        source: Source,
        personas: PersonasRead,
        aspects: AspectsRead | None,
        alignments: AlignmentsRead | None,
    ) -> None:
        super().__init__()
        self._personas = personas
        self._aspects = aspects
        self._alignments = alignments
        self._seed = source.seed
        folder = source.folder
        self._persona_lines = self.enter_context(RecordFile(folder.file(PERSONAS), ItemPersonas))
        self._aspect_lines = self.enter_context(RecordFile(folder.at(ASPECTS), Aspects))
        self._items = self.enter_context(folder.items(Refusals()))
        self._summaries = self.enter_context(folder.summaries(Refusals()))

    def item(self, item_id: str) -> SampledItem:
        """An item that has personas."""
        personas = self.personas(item_id)
        own = self._aspects.offsets.get(item_id, {}) if self._aspects else {}
        chance = random.Random(f"{self._seed}\x00{item_id}")  # noqa: S311 - a sample
        cited = [
            [
                self._read(own[user])
                for user in _some(
                    [user for user in dict.fromkeys(persona.evidence) if user in own], chance
                )
            ]
            for persona in personas
        ]
        sampled = self._alignments.sampled.get(item_id, []) if self._alignments else []
        known = [(user, choice) for user, choice in sampled if user in own and len(personas) > 1]
        item, summary = self._items.get(item_id), self._summaries.get(item_id)
        title = (plain_text(item.title) if item else "") or item_id
        said = summary.summary if summary else ""
        return SampledItem(
            item_id=item_id,
            title=title,
            personas=personas,
            indexed=persona_texts(personas, said),
            told=[
                interaction_text(
                    Interaction(item_id, 0, title=title, summary=said, aspects=one.aspects)
                )
                for some in cited
                for one in some
            ],
            cited=[[aspects_text(one.aspects) for one in some] for some in cited],
            ratings=[[one.rating for one in some] for some in cited],
            aligned=[
                (self._read(own[user]).aspects, choice) for user, choice in _some(known, chance)
            ],
        )

    def pool(self) -> list[tuple[str, str]]:
        """(item, text of an aspect tuple) of the random sample of the catalogue."""
        pool = self._aspects.pool if self._aspects else []
        return [(item_id, aspects_text(self._read(offset).aspects)) for item_id, offset in pool]

    def personas(self, item_id: str) -> Sequence[Persona]:
        """The personas of an item."""
        return self._persona_lines.at(self._personas.offsets[item_id]).personas

    def best_rating(self) -> float:
        """The highest rating of the random sample of the catalogue; 0 without one."""
        pool = self._aspects.pool if self._aspects else []
        return max((self._read(offset).rating for _, offset in pool), default=0.0)

    def _read(self, offset: int) -> Aspects:
        return self._aspect_lines.at(offset)


def _some(values: list[T], chance: random.Random) -> list[T]:
    return values if len(values) <= MOST_CITED else chance.sample(values, MOST_CITED)
