"""The page with explanations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from indexer.pages.rendering import render
from indexer.peers.side_by_side import CRITERIA, Example, Sheet


def page(found: Sequence[Example], sheet: Sheet, *, blind: bool) -> str:
    """The page as HTML; `blind` shows letters in place of the systems' names."""
    shown: list[dict[str, Any]] = []
    for one, order in zip(found, sheet.orders, strict=True):
        labels = list(ascii_uppercase) if blind else list(order)
        texts = [(label, one.texts[name]) for label, name in zip(labels, order, strict=False)]
        shown.append({"item": one.item, "history": one.history, "texts": texts})
    return render(
        "side_by_side.html",
        examples=shown,
        systems=sorted(found[0].texts),
        criteria=CRITERIA,
        blind=blind,
    )
