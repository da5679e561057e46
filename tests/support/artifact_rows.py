"""Rows of artifact files, as dictionaries."""

from typing import Any


def review(user: str, item: str, timestamp: int = 1, rating: float = 4) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "rating": rating, "timestamp": timestamp, "text": "x"}


def aspects(user: str, item: str, timestamp: int = 1, **slots: str | None) -> dict[str, Any]:
    return {
        "user_id": user,
        "item_id": item,
        "rating": 4,
        "timestamp": timestamp,
        "aspects": slots or {"use": "evenings"},
    }


def aspect_tuple(item: str, user: str, **slots: str | None) -> dict[str, Any]:
    return {"item_id": item, "user_id": user, "timestamp": 1, "rating": 4, "aspects": slots}


def persona(persona_id: str, name: str, texts: tuple[str, str], *evidence: str) -> dict[str, Any]:
    both = {"description": texts[0], "preference_rationale": texts[1]}
    return {"persona_id": persona_id, "name": name, "evidence": list(evidence), **both}


def aligned(user: str, item: str, persona_id: str, why: str = "because") -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "persona_id": persona_id, "justification": why}
