"""The personas of an artifact folder as vectors."""

from __future__ import annotations

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.collaborative.hypothetical import PersonaVectors
from indexer.progress import SILENT, Progress
from indexer.prompts import GENERIC
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.batching import batches

ITEMS_AT_ONCE = 256


def encoded_personas(
    folder: ArtifactFolder, encoder: Encoder, refusals: Refusals, progress: Progress = SILENT
) -> PersonaVectors:
    """Encode the personas of a folder (Eq. 8). Raises InputError where no item has any."""
    progress.start("encoding personas")
    items: list[str] = []
    starts, blocks = [0], []
    for rows in batches(folder.index_rows(GENERIC, refusals), ITEMS_AT_ONCE):
        texts = [row.texts() for row in rows]
        blocks.append(encoder.encode_documents([one for own in texts for one in own]))
        items += [row.item.item_id for row in rows]
        starts += [starts[-1] + count for count in np.cumsum([len(own) for own in texts])]
        progress.advance(len(rows))
    if not items:
        raise InputError(f"{folder.personas()} holds no item with personas")
    return PersonaVectors(items, np.concatenate(blocks), np.array(starts))
