"""The texts the encoder reads: the inputs of Eq. 6 and Eq. 8.

Training and serving both use this module; nothing else builds these texts. A change here changes
`fingerprint()`, and with it the fingerprint of every encoder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import cache

from p4r_qdrant.records import Interaction, Persona

_FORMULA = re.compile(
    r"^\s*(?:this|the)\s+(?:persona|reader|user|customer|diner|reviewer)s?\s+(?:appreciates?|likes?"
    r"|enjoys?|values?|loves?)\s+(?:this|the)\s+"
    r"(?:item|book|product|restaurant|magazine|place)\s+because\s+(?:(?:of|that)\s+)?",
    re.IGNORECASE,
)


def interaction_text(interaction: Interaction) -> str:
    """text(s_i, a_ui): the item's summary, then the text of each aspect slot (Eq. 6).

    Empty slots are skipped. Without a summary, the title takes its place. It stands in one line:
    `with_shorter_summary` finds it there.
    """
    aspects = [
        f"{slot.replace('_', ' ')}: {text}" for slot, text in interaction.aspects.items() if text
    ]
    item = (interaction.summary or interaction.title).replace("\n", " ")
    return "\n".join([item, *aspects]).strip()


def has_summary(text: str) -> bool:
    """Whether a text of Eq. 6 has a summary, or a title, before its aspects."""
    return text.find("\n") > 0


def with_shorter_summary(text: str, *, by: int) -> str:
    r"""A text of Eq. 6 whose summary is shorter, by at least so many characters, or gone.

    It ends with a whole word. The aspects stay: they are what the user said.

    >>> with_shorter_summary("A long novel.\nquality: maps", by=3)
    'A long\nquality: maps'
    """
    end = text.find("\n")
    kept = text[: max(0, end - by)]
    if kept and not text[len(kept)].isspace():
        kept = kept.rpartition(" ")[0]
    return kept.rstrip() + text[end:]


def persona_text(persona: Persona, summary: str = "") -> str:
    """text(p): name, description and rationale, then the item's summary (Eq. 8).

    The summary matters: histories hold summaries too, and without it an untrained encoder
    compares how people talk rather than what they like. (Magazines, all-MiniLM-L6-v2, item-CF's
    first 20, validation items: NDCG@10 .225 with it, .145 without.)
    """
    rationale = plain_rationale(persona.preference_rationale)
    return f"{persona.name}. {persona.description} {rationale} {summary}".rstrip()


def persona_texts(personas: Iterable[Persona], summary: str = "") -> list[str]:
    """text(p) of each of an item's personas (Eq. 8)."""
    return [persona_text(persona, summary) for persona in personas]


def plain_rationale(rationale: str) -> str:
    """The rationale without the formula LLMs open it with, beginning with a capital.

    >>> plain_rationale("This persona appreciates this item because it is short.")
    'It is short.'
    """
    reason = _FORMULA.sub("", rationale, count=1)
    return reason[:1].title() + reason[1:]


@cache
def fingerprint() -> str:
    """A hash of what the templates make of fixed records: it changes when a template does."""
    interaction = Interaction(
        item_id="i", timestamp=0, summary="S.", title="T", aspects={"slot_a": "x", "slot_b": None}
    )
    persona = Persona(
        persona_id="p",
        name="N",
        description="D.",
        preference_rationale="This persona appreciates this item because r.",
    )
    texts = [
        _FORMULA.pattern,
        interaction_text(interaction),
        interaction_text(Interaction("i", 0, title="T")),
        persona_text(persona, "S."),
    ]
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:16]
