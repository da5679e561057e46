"""The personas of an artifact folder as vectors."""

from __future__ import annotations

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.progress import SILENT, Progress
from indexer.prompts import GENERIC
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.salvage import encoded_where_possible
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.batching import batches

ITEMS_AT_ONCE = 256


def encoded_personas(
    folder: ArtifactFolder, encoder: Encoder, refusals: Refusals, progress: Progress = SILENT
) -> PersonaVectors:
    """Encode the personas of a folder (Eq. 8).

    An item whose texts the encoder refuses is left out and counted. Raises InputError if none is
    left.
    """
    progress.start("encoding personas")
    items: list[str] = []
    starts, blocks = [0], []
    for rows in batches(folder.index_rows(GENERIC, refusals), ITEMS_AT_ONCE):
        texts = [row.texts() for row in rows]
        flat = [text for own in texts for text in own]
        vectors, reasons = encoded_where_possible(encoder.encode_documents, flat)
        end = 0
        for row, own in zip(rows, texts, strict=True):
            start, end = end, end + len(own)
            reason = next((reasons[place] for place in range(start, end) if place in reasons), None)
            if reason is not None:
                refusals.add(f"{row.where}: {reason}", "item refused")
            elif own:
                items.append(row.item.item_id)
                starts.append(starts[-1] + len(own))
                blocks.append(vectors[start:end])
        progress.advance(len(rows))
    if not items:
        raise InputError(f"{folder.personas()} holds no item with personas that can be encoded")
    return PersonaVectors(items, np.concatenate(blocks), np.array(starts))
