"""LoRA adapters on disk."""

from pathlib import Path
from typing import Any

from p4r_qdrant import PersonaEncoder
from p4r_qdrant.encoder.local import BUNDLED_MODEL


def saved_adapter(folder: Path, *, trained: bool, layer: str = "query") -> Path:
    """A LoRA adapter for the bundled model; untrained, its B matrices are zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    base: Any = PersonaEncoder(BUNDLED_MODEL)._model[0]
    adapted = get_peft_model(base.auto_model, LoraConfig(r=4, target_modules=[layer]))
    if trained:
        torch.manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.5)
    adapted.save_pretrained(str(folder))
    return folder
