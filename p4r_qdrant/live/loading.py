"""The encoder and the history settings that belong to an index."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def caching(load: LoadEncoder, cache: VectorCache) -> LoadEncoder:
    """`load`, whose encoders take the vectors of texts that were encoded before from `cache`."""
    return lambda made_with: CachedEncoder(load(made_with), cache)


def history_for_index(settings: Settings, metadata: IndexMetadata) -> HistorySettings:
    """Length and decay of histories: from the settings, else from the adapter of the index."""
    return tuned_history(settings.history, metadata.adapter or settings.encoder.adapter)


def always(history: HistorySettings) -> HistoryOf:
    """The same history settings for every index."""
    return lambda _: history
