"""The state of a version of the index as fields for people: `p4r status`, and the studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p4r_qdrant.index.columns import CollaborativePart
from p4r_qdrant.index.engine import IndexStats
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.index.versions import Version
from p4r_qdrant.rerank.scoring import Scoring


def status_fields(
    stats: IndexStats, versions: Sequence[Version] = (), live: str = ""
) -> dict[str, str]:
    """Names and values; a value can be empty. versions: all of them. live: the one in use."""
    metadata = stats.metadata
    fields = {
        "engine": stats.engine,
        "where": stats.location,
        "items": f"{stats.items:,}",
        "personas": f"{stats.personas:,}",
        "encoder": metadata.encoder,
        "fingerprint": metadata.fingerprint,
        "dimension": str(metadata.dimension),
        "created": metadata.created_at,
        "version": live,
        "published": metadata.published_at,
        "policy": metadata.policy,
        "previous": metadata.previous,
        "collaborative": _collaborative(metadata),
        "weights": _weights(metadata),
        "typical user": "noted, for a persona prior" if metadata.typical_user else "",
        "others": ", ".join(one.name for one in versions if one.name != live),
        **stats.details,
    }
    adapter = metadata.adapter
    if adapter and not Path(adapter).is_dir():
        fields["adapter"] = (
            f"{adapter} is not on this machine: histories of users need it, or P4R_ENCODER__ADAPTER"
        )
    return fields


def _weights(metadata: IndexMetadata) -> str:
    """The weights of the score that a version records; "" if it records none."""
    scoring = Scoring.recorded(metadata.scoring)
    return scoring.described() if scoring is not None else ""


def _collaborative(metadata: IndexMetadata) -> str:
    """The collaborative part of a version; "" if it has none."""
    part = CollaborativePart.from_text(metadata.collaborative)
    if part is None:
        return ""
    fit = part.settings
    words = (
        f"set {part.set} of {part.fitted_at}: {part.items:,} items, up to {part.k:,} entries each, "
        f"from {fit.get('interactions', 0):,} interactions"
    )
    held_out = fit.get("held_out", 0)
    return words + (f" ({held_out:,} of them held out by splits.jsonl)" if held_out else "")
