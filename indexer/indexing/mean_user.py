"""The mean of the users' vectors, from which the persona prior is computed."""

from __future__ import annotations

import random

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.artifacts.tuned import Tuned
from indexer.indexing.vector_files import VectorFile
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.adapter import tuned_history
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.settings import HistorySettings, Settings

MOST_USERS = 1000
"""Users in the sample: with more, a persona's mean similarity changes by some thousandths."""
USERS_AT_ONCE = 64


def note_typical_user(
    folder: ArtifactFolder,
    source: Encoder | VectorFile,
    index: PersonaIndex,
    settings: Settings,
    tuned: Tuned | None = None,
) -> None:
    """Store the mean user vector in the index, if `P4R_RERANK__PRIOR` or a tuned prior needs it.

    Held-out interactions are not used.
    Raises: InputError if no user of the folder has a history, and for vectors from a file, which
        holds no vectors of users.
    """
    chosen = tuned is not None and tuned.fingerprint == source.fingerprint and tuned.has_prior
    if not (settings.rerank.prior or (chosen and "prior" not in settings.rerank.model_fields_set)):
        return
    if isinstance(source, VectorFile):
        raise InputError(
            "a persona prior (P4R_RERANK__PRIOR) needs an encoder for the users' histories; with "
            "vectors from a file set it to 0"
        )
    history = tuned_history(settings.history, source.adapter or None)
    index.record_typical_user(typical_user(folder, source, history))


def typical_user(folder: ArtifactFolder, encoder: Encoder, history: HistorySettings) -> Floats:
    """The mean h_u of a folder's users, or of a sample of MOST_USERS: (dim,) float32."""
    total, known = np.zeros(encoder.dimension), 0
    with Histories(folder, Refusals()) as histories:
        users = sorted(histories.users())
        if len(users) > MOST_USERS:
            users = random.Random(0).sample(users, MOST_USERS)  # noqa: S311 - not a secret
        for some in batches(users, USERS_AT_ONCE):
            batch = [histories.get(user) for user in some]
            for one in encoder.user_vectors(batch, length=history.length, decay=history.decay):
                if one is not None:
                    total += one.vector
                    known += 1
    if not known:
        raise InputError(
            f"{folder.path} holds no user with a history: a persona prior (P4R_RERANK__PRIOR) "
            "cannot be computed; set it to 0"
        )
    mean: Floats = (total / known).astype(np.float32)
    return mean
