"""The encoder that the settings ask for."""

from __future__ import annotations

from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.settings import EncoderSettings


def load_encoder(settings: EncoderSettings) -> Encoder:
    """The encoder that `P4R_ENCODER__*` ask for."""
    if settings.base_url is not None:
        from p4r_qdrant.encoder.endpoint import EndpointEncoder

        return EndpointEncoder(settings)
    return PersonaEncoder.from_settings(settings)
