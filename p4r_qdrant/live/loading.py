"""The encoder and the history settings that belong to an index."""

from __future__ import annotations

from collections.abc import Callable

from p4r_qdrant.encoder.adapter import tuned_history
from p4r_qdrant.encoder.base import ENDPOINT, VECTORS, Encoder
from p4r_qdrant.encoder.loading import load_encoder
from p4r_qdrant.errors import EncoderError, IndexMismatchError
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.settings import EncoderSettings, HistorySettings, Settings

LoadEncoder = Callable[[IndexMetadata], Encoder]


HistoryOf = Callable[[IndexMetadata], HistorySettings]


def encoder_for_index(settings: EncoderSettings, made_with: IndexMetadata) -> Encoder:
    """The encoder an index was made with, or the one that `P4R_ENCODER__*` name instead.

    Raises IndexMismatchError where it is not the same, EncoderError where it cannot be loaded.
    """
    given = settings.model_fields_set & {"model", "adapter", "base_url"}
    if made_with.kind == VECTORS and not given:
        raise IndexMismatchError(
            f"the index holds vectors that were encoded elsewhere ({made_with.encoder}): give "
            "users as vectors, or name that encoder with P4R_ENCODER__*"
        )
    if made_with.kind == ENDPOINT and not given:
        raise IndexMismatchError(
            f"the index was made with {made_with.model} behind an address: set "
            "P4R_ENCODER__BASE_URL to it"
        )
    noted = {"model": made_with.model, "adapter": made_with.adapter}
    missing = {name: value for name, value in noted.items() if value and name not in given}
    try:
        encoder = load_encoder(settings.model_copy(update=missing))
    except EncoderError as error:
        if not missing or not given:
            raise
        raise IndexMismatchError(
            f"the index was made with the encoder {made_with.encoder}, and "
            f"{' and '.join(f'P4R_ENCODER__{name.upper()}' for name in sorted(given))} do not go "
            f"with it: {error}"
        ) from None
    return encoder


def history_for_index(settings: Settings, metadata: IndexMetadata) -> HistorySettings:
    """The history's length and decay: as they were set, else as the index's adapter records."""
    return tuned_history(settings.history, metadata.adapter or settings.encoder.adapter)


def always(history: HistorySettings) -> HistoryOf:
    """The same history settings for every index."""
    return lambda _: history
