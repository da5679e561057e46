"""Reranking by the rating that an LLM expects from profiles of both sides.

Source: EXP3RT (arXiv 2408.06276), here without training. Ties are in the generator's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from indexer.peers.asking import AskingPeer
from indexer.peers.preferences import NONE, Preferences, extracted, profiled
from indexer.peers.protocol import Asker, Exchange, PeerAnswer, PeerCandidate, PeerQuery, by_score
from indexer.peers.ratings import Predicted, RatingForm, RatingMaterial
from indexer.peers.scale import RatingScale
from indexer.peers.together import together
from indexer.peers.wording import Wording
from p4r_qdrant.records import Review


class Rated(AskingPeer):
    """Reviews become preferences, preferences profiles, and two profiles a rating."""

    name = "rated"
    needs_logprobs = True

    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:
        """Order by the expected rating of each candidate."""
        exchange = Exchange(ask)
        wording = Wording(self.options, exchange.notes)
        reviews = self.sources.material.reviews_of_user(query.user_id, self.options.reviews)
        likes = await self._profile(
            "peer_user_profile", reviews, {"user_id": query.user_id}, exchange, wording
        )
        found = await together(
            *(self._rating(query, one, likes, exchange) for one in query.candidates)
        )
        pairs = list(zip(query.candidates, found, strict=True))
        scores = {one.item_id: rated.rating for one, rated in pairs if rated is not None}
        reasons = {one.item_id: rated.reasons for one, rated in pairs if rated and rated.reasons}
        exchange.notes["candidates without a valid rating"] += len(found) - len(scores)
        return exchange.answer(by_score(query.candidates, scores), scores, reasons)

    async def _rating(
        self, query: PeerQuery, candidate: PeerCandidate, likes: Preferences, exchange: Exchange
    ) -> Predicted | None:
        wording = Wording(self.options, exchange.notes)
        profile = await self._profile(
            "peer_item_profile",
            self._reviews_of(query.user_id, candidate.item_id),
            {"item_id": candidate.item_id},
            exchange,
            wording,
        )
        material = RatingMaterial(
            likes.text if likes else NONE,
            wording.candidate(candidate),
            profile.text if profile else NONE,
        )
        if self.options.averages:
            material = replace(
                material,
                user_average=self.sources.material.average_of_user(query.user_id),
                item_average=self.sources.material.average_of_item(candidate.item_id),
            )
        scale = RatingScale(self.options.lowest, self.options.highest)
        how = RatingForm(scale, self.options.reasoning)
        about = {"user_id": query.user_id, "item_id": candidate.item_id}
        request = self.request(how.template, material.text(scale), how.form, about, **how.values)
        return how.predicted(await exchange.ask(request, how.assumed))

    def _reviews_of(self, user_id: str, item_id: str) -> list[Review]:
        """The reviews of an item by others: the most similar users', or the longest."""
        material, most = self.sources.material, self.options.reviews
        others = [one for one in material.reviews_of_item(item_id) if one.user_id != user_id]
        if self.options.similar:
            return material.most_similar(user_id, others, most)
        return sorted(others, key=lambda one: -len(one.text))[:most]

    async def _profile(
        self,
        template: str,
        reviews: Sequence[Review],
        about: dict[str, str],
        exchange: Exchange,
        wording: Wording,
    ) -> Preferences:
        notes = await extracted(reviews, self.request, exchange, wording)
        return await profiled(template, notes, self.request, exchange, about)
