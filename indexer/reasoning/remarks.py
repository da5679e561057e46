"""Remarks of reviewers, with which the LLM is asked for the personas of an item again.

The texts that a remark is about rest on words of the public: they are part of the material. The
remark itself stands between marks of its own, which nobody can know who writes a review.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from indexer.reasoning.sanitizing import cleaned, parts
from indexer.review.decisions import Decision

QUOTED = 600
"""Characters of each text of a persona that a remark is about."""


def earlier_personas(asked: Sequence[Decision]) -> str:
    """The texts that the remarks are about, labelled E1, E2 and so on, for the material."""
    lines = [f"E{number}: {_quoted(one)}" for number, one in enumerate(asked, 1)]
    return "Earlier personas:\n" + "\n".join(lines)


def marked_remarks(asked: Sequence[Decision]) -> dict[str, str]:
    """The values of a template: the remarks, and the marks around them."""
    lines = [
        f"On E{number}: {' '.join(cleaned(one.remark).text.split())}"
        for number, one in enumerate(asked, 1)
    ]
    remarks = "\n".join(lines)
    mark = hashlib.sha256(remarks.encode()).hexdigest()[:12]
    return {
        "remarks": remarks,
        "open_remarks": f"<remarks-{mark}>",
        "close_remarks": f"</remarks-{mark}>",
    }


def _quoted(one: Decision) -> str:
    if one.texts is None:
        return "(its texts are gone)"
    texts = (one.texts.name, one.texts.description, one.texts.preference_rationale)
    shown = (parts(cleaned(text).text, QUOTED, most=2)[:1] for text in texts)
    return " - ".join(" ".join(text.split()) for found in shown for text in found)
