"""Mix persona scores with the generator's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from p4r_qdrant.errors import InputError
from p4r_qdrant.rerank.candidates import Scored
from p4r_qdrant.settings import RerankSettings


def fused_scores(
    personas: Mapping[str, float | None],
    candidates: Sequence[Scored],
    fusion: RerankSettings,
) -> dict[str, float | None]:
    """One score for each candidate: weighted min-max, or reciprocal ranks.

    For an item without personas the generator's part counts in place of the persona part: the
    item moves neither up nor down for it. Raises InputError if weighted fusion lacks a score.
    """
    persona_part: dict[str, float]
    scored = {item_id: score for item_id, score in personas.items() if score is not None}
    if fusion.fusion == "weighted":
        missing = next((item_id for item_id, score in candidates if score is None), None)
        if missing is not None:
            raise InputError(
                f"weighted fusion needs the generator's score of each candidate, and {missing!r} "
                "has none; add it or set P4R_RERANK__FUSION=rrf"
            )
        weight = fusion.weight
        generator_part = min_max({item_id: score or 0.0 for item_id, score in candidates})
        persona_part = min_max(scored)
    else:
        weight = 0.5
        constant = fusion.rrf_k
        generator_part = {
            item_id: 1 / (constant + rank) for rank, (item_id, _) in enumerate(candidates, 1)
        }
        order = sorted(scored, key=lambda item_id: best_first(scored[item_id], item_id))
        persona_part = {item_id: 1 / (constant + rank) for rank, item_id in enumerate(order, 1)}
    return {
        item_id: weight * persona_part.get(item_id, other) + (1 - weight) * other
        for item_id, other in generator_part.items()
    }


def best_first(score: float | None, item_id: str) -> tuple[bool, float, str]:
    """Sort key: highest score first, ties by item id, then items without a score."""
    return (
        score is None,
        -score if score is not None else 0.0,
        item_id if score is not None else "",
    )


def min_max(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores scaled to 0..1; all 0.5 if they are all the same."""
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    if high <= low:
        return dict.fromkeys(scores, 0.5)
    return {item_id: (score - low) / (high - low) for item_id, score in scores.items()}
