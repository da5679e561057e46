"""The record of a trained adapter in `p4r.json`, which serving reads.

An adapter's folder holds what peft saved (`adapter_config.json`, `adapter_model.safetensors`)
and, where `p4r train` made it, this record, a model card and the loss curves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p4r_qdrant.encoder.border import reason_of
from p4r_qdrant.errors import EncoderError
from p4r_qdrant.settings import HistorySettings

RECORD = "p4r.json"


class AdapterRecord(BaseModel):
    """The data, base model, settings and metrics of one trained adapter.

    base_fingerprint is that of the encoder without the adapter. history: the length and decay
    that validation picked. metrics: by name, of the base (`untrained_...`) and of the adapter.
    """

    model_config = ConfigDict(frozen=True)

    base: str
    base_fingerprint: str
    run: str
    """A hash of data, settings and base: the same run gives the same adapter."""
    data_hash: str
    examples: int
    settings: dict[str, Any]
    history: HistorySettings = Field(default_factory=HistorySettings)
    validation: str
    metrics: dict[str, float]
    created_at: str

    @classmethod
    def read(cls, adapter: Path) -> AdapterRecord | None:
        """The record in an adapter's folder; None if there is none.

        Raises EncoderError if it cannot be read.
        """
        path = adapter / RECORD
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise EncoderError(
                f"{path} cannot be read ({reason_of(error)}); train the adapter again, or remove "
                "that file"
            ) from None


def tuned_history(history: HistorySettings, adapter: str | Path | None) -> HistorySettings:
    """History length and decay: each from the settings if set there, else from the adapter."""
    record = AdapterRecord.read(Path(adapter)) if adapter else None
    if record is None:
        return history
    explicit = {name: getattr(history, name) for name in history.model_fields_set}
    return record.history.model_copy(update=explicit)


ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
