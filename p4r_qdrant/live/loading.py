"""The encoder and the history settings that belong to an index."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from p4r_qdrant.encoder.adapter import tuned_history
from p4r_qdrant.encoder.base import ENDPOINT, VECTORS, Encoder
from p4r_qdrant.encoder.cache import CachedEncoder, VectorCache
from p4r_qdrant.encoder.loading import load_encoder
from p4r_qdrant.errors import EncoderError, IndexMismatchError, SettingsError
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.settings import EncoderSettings, HistorySettings, Settings

LoadEncoder = Callable[[IndexMetadata], Encoder]
"""Loads the encoder of an index."""

HistoryOf = Callable[[IndexMetadata], HistorySettings]
"""The history settings that belong to an index."""


def encoder_for_index(settings: EncoderSettings, made_with: IndexMetadata) -> Encoder:
    """Load the encoder that made an index, or the one that `P4R_ENCODER__*` name.

    Raises IndexMismatchError if it is not the same encoder, EncoderError if it cannot be loaded.
    """
    given = settings.model_fields_set & {"model", "adapter", "base_url"}
    if made_with.kind == VECTORS and not given:
        raise IndexMismatchError(
            f"the index holds vectors of another encoder ({made_with.encoder}): pass users as "
            "vectors, or name that encoder with P4R_ENCODER__*"
        )
    if made_with.kind == ENDPOINT and not given:
        raise IndexMismatchError(
            f"the index was made with {made_with.model} behind an endpoint: set "
            "P4R_ENCODER__BASE_URL to its address"
        )
    noted = {"model": made_with.model, "adapter": made_with.adapter}
    noted |= json.loads(made_with.options or "{}")
    missing = {
        name: value
        for name, value in noted.items()
        if value and name in EncoderSettings.model_fields and name not in settings.model_fields_set
    }
    adapter = missing.get("adapter")
    if adapter is not None and not Path(adapter).is_dir():
        raise IndexMismatchError(
            f"the index was made with the adapter {adapter}, which is not on this machine; copy "
            "its folder, and set P4R_ENCODER__ADAPTER to it"
        )
    try:
        encoder = load_encoder(settings.model_copy(update=missing))
    except (EncoderError, SettingsError) as error:
        if not missing or not given:
            raise
        names = " and ".join(f"P4R_ENCODER__{name.upper()}" for name in sorted(given))
        raise IndexMismatchError(
            f"the index was made with the encoder {made_with.encoder}, which does not fit {names}: "
            f"{error}"
        ) from None
    return encoder


class SharedEncoders:
    """A `LoadEncoder` that loads each encoder once, for all that use it at the same time.

    They take the vectors of texts that were encoded before from `cache`, and close what they got;
    the encoder itself is closed after the last one. Thread-safe.
    """

    def __init__(self, load: LoadEncoder, cache: VectorCache) -> None:
        self._load = load
        self._cache = cache
        self._held: dict[tuple[str, ...], tuple[Encoder, int]] = {}
        self._lock = threading.Lock()

    def __call__(self, made_with: IndexMetadata) -> Encoder:
        """The encoder of an index. Raises what `load` raises."""
        own = made_with
        key = (own.fingerprint, own.kind, own.model, own.adapter, own.options)
        with self._lock:  # others wait: it may be the same one
            encoder, users = self._held.get(key) or (self._load(made_with), 0)
            self._held[key] = encoder, users + 1
        return CachedEncoder(encoder, self._cache, partial(self._give_back, key))

    def _give_back(self, key: tuple[str, ...]) -> None:
        with self._lock:
            encoder, users = self._held.pop(key)
            if users > 1:
                self._held[key] = encoder, users - 1
                return
        encoder.close()


def history_for_index(settings: Settings, metadata: IndexMetadata) -> HistorySettings:
    """Length and decay of histories: from the settings, else from the adapter of the index."""
    return tuned_history(settings.history, metadata.adapter or settings.encoder.adapter)


def always(history: HistorySettings) -> HistoryOf:
    """The same history settings for every index."""
    return lambda _: history
