"""What reviews like and dislike, and profiles of users and items made from it.

Source: EXP3RT (arXiv 2408.06276), steps 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from indexer.llm import Request
from indexer.peers.asking import Form, RequestMaker
from indexer.peers.protocol import Exchange
from indexer.peers.together import together
from indexer.peers.wording import Wording, listed
from indexer.reasoning.step import TEXT, an_array, an_object
from p4r_qdrant.records import Review

REVIEW_WORDS = 400
MOST_NOTES = 8
"""Likes of one review, and dislikes."""
MOST_BULLETS = 5
"""The same of a profile."""
NOTES_TOKENS = 500
NONE = "None."
_ASSUMED = {side: ["some words about a preference"] * 3 for side in ("likes", "dislikes")}


@dataclass(frozen=True, slots=True)
class Preferences:
    """What is liked and what is disliked, a sentence each."""

    likes: tuple[str, ...]
    dislikes: tuple[str, ...]

    @property
    def text(self) -> str:
        """Both sides as lists."""
        return (
            f"[Like]\n{listed(list(self.likes), NONE)}\n"
            f"[Dislike]\n{listed(list(self.dislikes), NONE)}"
        )

    def __bool__(self) -> bool:
        return bool(self.likes or self.dislikes)


async def extracted(
    reviews: Sequence[Review], make: RequestMaker, exchange: Exchange, wording: Wording
) -> list[Preferences]:
    """The preferences in each review that has some; reviews without text are not asked about."""
    asked = []
    for one in reviews:
        text = wording.line(f"{one.title}. {one.text}" if one.title else one.text, REVIEW_WORDS)
        if any(map(str.isalnum, text)):
            about = {"user_id": one.user_id, "item_id": one.item_id}
            form = _form(MOST_NOTES)
            asked.append(make("peer_preferences", f"Review: {text}", form, about))
    return await _answered(asked, exchange)


async def profiled(
    template: str,
    extractions: Sequence[Preferences],
    make: RequestMaker,
    exchange: Exchange,
    about: Mapping[str, str],
) -> Preferences:
    """One profile from several extractions; empty, and not asked for, where there are none."""
    if not extractions:
        return Preferences((), ())
    material = "\n---\n".join(one.text for one in extractions)
    [*found] = await _answered([make(template, material, _form(MOST_BULLETS), about)], exchange)
    return found[0] if found else Preferences((), ())


def _form(most: int) -> Form:
    side = an_array(TEXT, least=0, most=most)
    schema = an_object(likes=side, dislikes=side)
    return Form(NOTES_TOKENS, schema=schema, check=partial(_problem, most=most))


def _problem(value: Any, most: int) -> str | None:
    for side in ("likes", "dislikes"):
        if len(value[side]) > 2 * most:
            return f"{side} has {len(value[side])} entries, at most {most} are wanted"
    return None


async def _answered(requests: Sequence[Request], exchange: Exchange) -> list[Preferences]:
    found = await together(*(exchange.ask(one, _ASSUMED) for one in requests))
    read = [
        Preferences(*(_kept(value[side]) for side in ("likes", "dislikes")))
        for value in found
        if value is not None
    ]
    return [one for one in read if one]


def _kept(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes on one line each, without the "None." that models write into an empty list."""
    lines = (" ".join(note.split()).lstrip("-* ") for note in notes)
    return tuple(one for one in lines if one and one.rstrip(".").casefold() != "none")
