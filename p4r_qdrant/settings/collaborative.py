"""How the collaborative part of an index is fitted and asked."""

from __future__ import annotations

from pydantic import Field

from p4r_qdrant.settings.section import Section


class CollaborativeSettings(Section):
    """The collaborative part: EASE on interactions and on personas as hypothetical users.

    See docs/explanation/method.md. `p4r publish` fits it. Values that are not set here come from
    `p4r tune`, if it has chosen some for the artifact folder.
    """

    enabled: bool = Field(
        True, description="Whether `p4r publish` fits the collaborative part of the index."
    )
    share: float = Field(
        1.0,
        ge=0,
        description="Weight of all personas together as hypothetical users: with 1 they weigh as "
        "much as the users, with 0 nothing.",
    )
    l2: float = Field(300.0, gt=0, description="Regularization of the collaborative model.")
    keep: int = Field(
        200, ge=1, description="Items that a hypothetical user has an opinion of, the strongest."
    )
    columns: int = Field(
        200,
        ge=1,
        le=10_000,
        description="Most items that can speak for one item: the largest entries of its column "
        "are stored.",
    )
    decay: float = Field(
        0.85,
        gt=0,
        le=1,
        description="Decay of the weights of a history, newest first, in the collaborative score; "
        "1 = all count the same.",
    )
    memory_gb: float = Field(
        8.0,
        gt=0,
        description="Memory in GB that fitting the collaborative part may take; this is checked "
        "before it starts.",
    )
