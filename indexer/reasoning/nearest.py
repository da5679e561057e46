"""The persona of an item that is nearest to what a user said of the item, by an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder, EncoderOver
from p4r_qdrant.records import Interaction, Persona
from p4r_qdrant.texts import interaction_text, persona_text


@dataclass(frozen=True, slots=True)
class Case:
    """A user's aspects of an item (at least one slot filled), and the item's personas (any)."""

    aspects: Mapping[str, str | None]
    personas: Sequence[Persona]


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest persona.

    position: its position among the personas, from 0.
    similarity: its cosine similarity.
    slot: the aspect slot that is nearest to it by itself.
    """

    position: int
    similarity: float
    slot: str


def aspects_text(aspects: Mapping[str, str | None]) -> str:
    """The aspects as the encoder reads them (Eq. 6), without the item's summary.

    The summary is the same for all personas of the item and would hide their differences.
    """
    return interaction_text(Interaction("", 0, aspects=aspects))


def nearest_personas(encoder: Encoder, cases: Sequence[Case]) -> list[Nearest]:
    """The nearest persona of each case; of equally near personas, the first.

    All texts are encoded as one batch, each distinct text once.
    """
    slots = [{slot: text for slot, text in case.aspects.items() if text} for case in cases]
    wanted = [
        (
            aspects_text(filled),
            [aspects_text({slot: text}) for slot, text in filled.items()],
            [persona_text(persona) for persona in case.personas],
        )
        for filled, case in zip(slots, cases, strict=True)
    ]
    said = list(dict.fromkeys(text for whole, own, _ in wanted for text in (whole, *own)))
    described = list(dict.fromkeys(text for _, _, personas in wanted for text in personas))
    inputs = [*encoder.query_inputs(said), *encoder.document_inputs(described)]
    rows = {text: row for row, text in enumerate(dict.fromkeys(inputs))}
    vectors = encoder.encode_texts(list(rows))
    input_of = dict(zip([*said, *described], inputs, strict=True))

    def nearest(whole: str, texts: Sequence[str]) -> tuple[int, float]:
        own = vectors[[rows[input_of[text]] for text in texts]]
        # Summed row by row: equal rows then have equal sums; a matrix product does not ensure it.
        similarities: Floats = (own * vectors[rows[input_of[whole]]]).sum(axis=1)
        position = int(np.argmax(similarities))
        return position, float(similarities[position])

    found = []
    for filled, (whole, parts, personas) in zip(slots, wanted, strict=True):
        position, similarity = nearest(whole, personas)
        slot = list(filled)[nearest(personas[position], parts)[0]]
        found.append(Nearest(position, similarity, slot))
    return found


class Remembering(EncoderOver):
    """An encoder with a cache of at most `most` vectors."""

    def __init__(self, encoder: Encoder, most: int = 20_000) -> None:
        super().__init__(encoder)
        self._encoder = encoder
        self._most = most
        self._known: dict[str, Floats] = {}

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised, in the order of `batch`. Not thread-safe."""
        new = [text for text in dict.fromkeys(batch) if text not in self._known]
        fresh = dict(zip(new, self._encoder.encode_texts(new), strict=True))
        rows = [fresh[text] if text in fresh else self._known[text] for text in batch]
        if len(self._known) + len(fresh) > self._most:
            self._known.clear()
        self._known |= fresh
        return np.array(rows, dtype=np.float32).reshape(len(batch), self.dimension)
