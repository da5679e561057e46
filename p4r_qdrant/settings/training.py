"""How the encoder is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from p4r_qdrant.settings.section import OptionalText, Section


class TrainingSettings(Section):
    """How `p4r train` trains the encoder (Eq. 9).

    The sections `history` and `encoder` set the user side's length and decay and the base model.
    """

    epochs: int = Field(10, ge=1, description="Largest number of passes over the examples.")
    patience: int = Field(
        3,
        ge=1,
        description="Epochs without a better validation NDCG@10 after which training stops.",
    )
    batch_size: int = Field(
        72,
        ge=2,
        description="Examples in one batch over all processes; each one's persona is a negative "
        "for the others.",
    )
    micro_batch_size: int = Field(
        32,
        ge=1,
        description="Texts whose activations are in memory at the same time. A smaller number "
        "needs less memory; the gradients stay those of the whole batch.",
    )
    learning_rate: float = Field(2e-4, gt=0, description="Highest learning rate.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="Shape of the learning rate after the warm-up."
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of the optimizer.")
    temperature: float = Field(0.05, gt=0, description="Temperature t of the InfoNCE loss.")
    profile: Literal["before", "others"] = Field(
        "others",
        description="Interactions that form the user side of an example: those before the target "
        "(before), or all but the target (others). What an LLM that aligns sees is `p4r reason "
        "--profile`.",
    )
    unjudged: Literal["none", "similar", "any"] = Field(
        "none",
        description="Use of interactions without an alignment: skipped (none), aligned with the "
        "item's persona nearest to the user (similar), or near any persona of the item (any).",
    )
    unjudged_weight: float = Field(
        1.0, gt=0, description="Weight of an interaction without an alignment; others weigh 1."
    )
    sibling_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the target item's other personas as negatives. 0: they are masked.",
    )
    hard_negatives: int = Field(
        0,
        ge=0,
        description="Number of best-ranked candidates outside the user's history whose personas "
        "are added as negatives.",
    )
    mask_interacted: bool = Field(
        True, description="Do not use personas of the user's other items as negatives."
    )
    lora_r: int = Field(16, ge=1, description="Rank of the LoRA adapter.")
    lora_alpha: int = Field(32, ge=1, description="Scaling factor alpha of the LoRA adapter.")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout of the LoRA adapter.")
    target_modules: OptionalText = Field(
        None,
        description="Layers that LoRA adapts, separated by commas. Unset: peft's choice for the "
        "model. all-linear: every linear layer. head: one layer behind the model, which trains "
        "in seconds an epoch without a GPU.",
    )
    lora_layers: int | None = Field(
        None,
        ge=1,
        description="Number of last layers that LoRA adapts. Unset: all. Layers below them need "
        "no backward pass.",
    )
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        description="Steps between two checkpoints, in addition to the one after each epoch.",
    )
    seed: int = Field(0, ge=0, description="Seed of the random numbers.")
