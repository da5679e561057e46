"""An index with its encoder, replaced together."""

from __future__ import annotations

import threading

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import IndexMismatchError, InputError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.live.loading import LoadEncoder
from p4r_qdrant.settings import HistorySettings, RerankSettings

Vector = UserVector | Floats
"""A user as a vector, with or without the interactions it is made of."""


class IndexAndEncoder:
    """An index, its encoder, and the history settings that belong to them."""

    def __init__(
        self,
        index: PersonaIndex,
        history: HistorySettings,
        load: LoadEncoder | None,
        encoder: Encoder | None = None,
    ) -> None:
        """`encoder` is given ready, or `load` loads it at first use. Raises IndexMismatchError."""
        self.index = index
        self.history = history
        self._load = load
        self._encoder_lock = threading.Lock()
        self._own: Encoder | None = None
        """An encoder that was loaded here, and is closed here."""
        self._encoder = self._checked(encoder) if encoder is not None else None

    @property
    def version(self) -> str:
        """Name of the version of the index."""
        return self.index.version

    @property
    def has_encoder(self) -> bool:
        """Whether the encoder is loaded."""
        return self._encoder is not None

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded at first use. Raises InputError if there is none."""
        with self._encoder_lock:
            if self._encoder is None:
                if self._load is None:
                    raise InputError(
                        "this reranker has no encoder: pass users as vectors, or pass an encoder "
                        "to the reranker"
                    )
                self._own = self._load(self.index.metadata)
                self._encoder = self._checked(self._own)
            return self._encoder

    def directions(self, vector: Vector | None, options: RerankSettings) -> Floats:
        """The query vectors of a user: (k, dim) float32.

        The prior of a persona v is its mean similarity to known users, which is its similarity
        to their mean: v @ h - prior * (v @ mean) = v @ (h - prior * mean).
        """
        if vector is None:
            # No user, but a filter: any direction finds the items that match.
            return np.eye(1, self.index.metadata.dimension, dtype=np.float32)
        if isinstance(vector, UserVector):
            rows = vector.directions(options.interests)
        else:
            rows = vector[None]
        if not options.prior:
            return rows
        return rows - np.float32(options.prior) * typical_user(self.index)

    def reread(self) -> None:
        """Read the metadata of the index again: a publish may have refitted the columns."""
        self.index.refresh()

    def _checked(self, encoder: Encoder) -> Encoder:
        self.index.metadata.check(encoder.dimension, encoder.fingerprint, "the persona index")
        return encoder

    def close(self) -> None:
        """Close the index, and the encoder if it was loaded here."""
        self.index.close()
        if self._own is not None:
            self._own.close()


def typical_user(index: PersonaIndex) -> Floats:
    """The mean user of the index, (dim,) float32. Raises IndexMismatchError if it has none."""
    typical = index.metadata.typical
    if typical is None:
        raise IndexMismatchError(
            f"{index.location} has no typical user, which a persona prior needs: run `p4r index` "
            "or `p4r publish` with P4R_RERANK__PRIOR set, or set it to 0"
        )
    return typical
