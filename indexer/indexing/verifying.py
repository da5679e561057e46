"""Compare an index with the artifacts and the encoder before it goes live."""

from __future__ import annotations

import random
import time

import numpy as np

from indexer.artifacts.index_rows import IndexRow
from indexer.indexing.items import CHUNK, Source, row_hash
from indexer.indexing.vector_files import VectorFile
from p4r_qdrant.errors import VerificationError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.records import Persona

SAMPLE = 50
"""Number of personas whose stored vectors are compared with their texts."""


class Expected:
    """What an index must hold: ids, and a random sample of personas. Equal seeds, equal samples."""

    def __init__(self, seed: str) -> None:
        self.item_ids = set[str]()
        self.written = set[str]()
        self.sample: list[tuple[IndexRow, Persona]] = []
        self._random = random.Random(seed)  # noqa: S311 - not a secret
        self._seen = 0

    def add(self, row: IndexRow, was_written: bool) -> None:
        """Note an item of the index, and whether this run wrote it."""
        self.item_ids.add(row.item.item_id)
        if was_written:
            self.written.add(row.item.item_id)
        for persona in row.item.personas:
            self._seen += 1
            if len(self.sample) < SAMPLE:
                self.sample.append((row, persona))
            elif (place := self._random.randrange(self._seen)) < SAMPLE:
                self.sample[place] = (row, persona)


def verify_written(index: PersonaIndex, written: set[str]) -> None:
    """Raise VerificationError unless each written item is in the index with all its personas."""
    for batch in batches(sorted(written), CHUNK):
        missing = set(batch) - index.hashes(batch).keys()
        if missing:
            time.sleep(1)  # another process may be replacing an item just now
            missing -= index.hashes(sorted(missing)).keys()
        if missing:
            raise VerificationError(
                f"the item {min(missing)!r} is incomplete in {index.location}; the live version "
                "did not change: publish again"
            )


def verify_scores(
    index: PersonaIndex, source: Source, sample: list[tuple[IndexRow, Persona]]
) -> None:
    """Raise VerificationError unless each persona, encoded again, gives its item a score of 1.

    An item that another process has replaced since it was read is left out.
    """
    if not sample:
        return
    if isinstance(source, VectorFile):
        fresh = np.stack(
            [source.of(row.item, row.positions)[position_of(row, one)] for row, one in sample]
        )
    else:
        prompt = source.document_prompt
        fresh = source.encode_texts(
            [prompt + row.texts()[position_of(row, one)] for row, one in sample]
        )
    least = 1 - source.tolerance - (STORED_FLOAT16 if index.datatype == "float16" else 0)
    asked = [[row.item.item_id] for row, _ in sample]
    answers = index.best_personas(fresh, asked, explain=0)
    for (row, persona), (match,) in zip(sample, answers, strict=True):
        if match.score is None or match.score < least:
            item_id = row.item.item_id
            if index.hashes([item_id]).get(item_id, expected := row_hash(row, source)) != expected:
                continue
            score = "nothing" if match.score is None else f"{match.score:.4f}"
            raise VerificationError(
                f"the persona {persona.persona_id!r} of item {row.item.item_id!r} scores {score} "
                f"with its own text in {index.location}, less than {least:.4f}: the stored vector "
                "is not the encoder's; the live version did not change: publish with --again"
            )


def position_of(row: IndexRow, persona: Persona) -> int:
    """The position of a persona among those of its item."""
    return row.item.personas.index(persona)


STORED_FLOAT16 = 2e-3
"""How far a vector stored as float16 may be from the original, as 1 - cosine."""
