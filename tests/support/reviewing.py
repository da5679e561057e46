"""An artifact folder in review: decisions on its personas by their ids."""

from pathlib import Path
from typing import Any

from indexer.artifacts.folder import ArtifactFolder
from indexer.review.desk import ReviewDesk
from p4r_qdrant.moderation import Rules
from p4r_qdrant.records import Action
from p4r_qdrant.service.studio.desk import Order, PersonaReview, PersonaTexts


def desk_of(folder: Path, *banned: str) -> ReviewDesk:
    return ReviewDesk(ArtifactFolder(folder), Rules(banned))


def in_review(folder: Path, item_id: str) -> dict[str, PersonaReview]:
    item = desk_of(folder).item(item_id)
    assert item is not None
    return {one.persona_id: one for one in item.personas}


def decide(folder: Path, action: Action, item_id: str, persona_id: str, **changed: Any) -> None:
    """Decide as "ann", who has seen the persona as it is.

    changed: texts of an edit or a split, seen, remark, other.
    """
    seen = in_review(folder, item_id)[persona_id]
    token, remark = changed.pop("seen", seen.seen), changed.pop("remark", "")
    other = changed.pop("other", None)
    given = {name: getattr(seen.texts, name) for name in ("name", "description")}
    given["preference_rationale"] = seen.texts.preference_rationale
    texts = PersonaTexts(**(given | changed)) if action in ("edit", "split") else None
    desk_of(folder).decide(Order("ann", action, item_id, persona_id, token, texts, remark, other))
