"""Explanations from one profile a side, each of at most 50 words; the order stays as it is.

Source: XRec (arXiv 2406.02377), its text part: no embeddings of a graph are fed into the model.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from indexer.llm import Request
from indexer.peers.asking import AskingPeer, Form
from indexer.peers.protocol import Asker, Exchange, PeerAnswer, PeerCandidate, PeerQuery
from indexer.peers.together import together
from indexer.peers.wording import Wording, listed
from indexer.reasoning.sanitizing import problem_with
from indexer.reasoning.step import TEXT, an_object

MOST_WORDS = 50
ANSWER_TOKENS = 160
UNKNOWN = "Nothing is known."


class Explained(AskingPeer):
    """Explains the first items of a list."""

    name = "explained"

    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:
        """Keep the order, and explain the first `explained` candidates."""
        exchange = Exchange(ask)
        shown = query.candidates[: self.options.explained]
        profiles = await together(*(self._item_profile(one, exchange) for one in shown))
        user = await self._user_profile(query, exchange)
        texts = await together(
            *(
                self._explanation(query, one, user, profile, exchange)
                for one, profile in zip(shown, profiles, strict=True)
            )
        )
        found = {one.item_id: text for one, text in zip(shown, texts, strict=True) if text}
        return exchange.answer(query.candidates, explanations=found)

    async def _item_profile(self, one: PeerCandidate, exchange: Exchange) -> str:
        """Who would enjoy an item, from its texts alone."""
        text = Wording(self.options, exchange.notes).candidate(one)
        about = {"item_id": one.item_id}
        return await self._text("peer_item_audience", text, about, exchange)

    async def _user_profile(self, query: PeerQuery, exchange: Exchange) -> str:
        wording = Wording(self.options, exchange.notes)
        history = wording.history(query)
        if not history:
            return UNKNOWN
        about = {"user_id": query.user_id}
        return await self._text("peer_user_taste", listed(history), about, exchange)

    async def _explanation(
        self,
        query: PeerQuery,
        one: PeerCandidate,
        user: str,
        profile: str,
        exchange: Exchange,
    ) -> str:
        wording = Wording(self.options, exchange.notes)
        material = (
            f"The person: {user or UNKNOWN}\n\nOffered: {wording.candidate(one)}\n\n"
            f"Who enjoys it: {profile or UNKNOWN}"
        )
        about = {"user_id": query.user_id, "item_id": one.item_id}
        return await self._text("peer_explanation", material, about, exchange)

    async def _text(
        self, template: str, material: str, about: dict[str, str], exchange: Exchange
    ) -> str:
        """A text of at most 50 words; "" if there is no usable answer."""
        answer = await exchange.ask(
            self._asked(template, material, about), {"text": "word " * (MOST_WORDS * 2 // 3)}
        )
        return "" if answer is None else " ".join(answer["text"].split())

    def _asked(self, template: str, material: str, about: dict[str, str]) -> Request:
        system = self.sources.domain.template(template).partition("\n---\n")[0]
        form = Form(
            ANSWER_TOKENS, schema=an_object(text=TEXT), check=partial(_problem, system=system)
        )
        return self.request(template, material, form, about)


def _problem(value: Any, system: str) -> str | None:
    problem = problem_with(value["text"], system, most_words=MOST_WORDS)
    return f"the text {problem}" if problem else None
