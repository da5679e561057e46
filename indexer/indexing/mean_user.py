"""The typical user: the mean of known users' vectors, by which the persona prior is computed."""

from __future__ import annotations

import random

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.indexing.vector_files import VectorFile
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.adapter import tuned_history
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.settings import HistorySettings, Settings

MOST_USERS = 1000
"""Users that are encoded: a persona's mean similarity to them differs by some thousandths from
that to all."""
USERS_AT_ONCE = 64


def note_typical_user(
    folder: ArtifactFolder, source: Encoder | VectorFile, index: PersonaIndex, settings: Settings
) -> None:
    """Where `P4R_RERANK__PRIOR` asks for a prior, note with the index what it is computed by.

    Held-out interactions are left out. Raises InputError where the folder has no user with a
    history, and for vectors from a file, for those of users are not in it.
    """
    if not settings.rerank.prior:
        return
    if isinstance(source, VectorFile):
        raise InputError(
            "a persona prior (P4R_RERANK__PRIOR) needs the encoder of users, and vectors from a "
            "file have none; set it to 0"
        )
    history = tuned_history(settings.history, source.adapter or None)
    index.record_typical_user(typical_user(folder, source, history))


def typical_user(folder: ArtifactFolder, encoder: Encoder, history: HistorySettings) -> Floats:
    """The mean h_u of a folder's users, or of a sample of many: (dim,) float32."""
    total, known = np.zeros(encoder.dimension), 0
    with Histories(folder, Refusals()) as histories:
        users = sorted(histories.users())
        if len(users) > MOST_USERS:
            users = random.Random(0).sample(users, MOST_USERS)  # noqa: S311 - the same every time
        for some in batches(users, USERS_AT_ONCE):
            told = [histories.get(user) for user in some]
            for one in encoder.user_vectors(told, length=history.length, decay=history.decay):
                if one is not None:
                    total += one.vector
                    known += 1
    if not known:
        raise InputError(
            f"{folder.path} holds no user with a history, which a persona prior "
            "(P4R_RERANK__PRIOR) needs; set it to 0"
        )
    mean: Floats = (total / known).astype(np.float32)
    return mean
