"""Reranking by the rating that an LLM expects from profiles of both sides.

Source: EXP3RT (arXiv 2408.06276). `distilling.py` makes examples for a student of it. Ties are in
the generator's order.
"""

from __future__ import annotations

from collections.abc import Sequence

from indexer.llm import Request
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
        if not query.history:
            exchange.notes["users without a history"] = 1
        reviews = self.sources.material.reviews_of_user(query.user_id, self.options.reviews)
        user = await self.user_profile(query.user_id, reviews, exchange)
        found = await together(
            *(self._rating(query, one, user, exchange) for one in query.candidates)
        )
        pairs = list(zip(query.candidates, found, strict=True))
        scores = {one.item_id: rated.rating for one, rated in pairs if rated is not None}
        reasons = {one.item_id: rated.reasons for one, rated in pairs if rated and rated.reasons}
        exchange.notes["candidates without a valid rating"] += len(found) - len(scores)
        return exchange.answer(by_score(query.candidates, scores), scores, reasons)

    async def _rating(
        self, query: PeerQuery, candidate: PeerCandidate, user: Preferences, exchange: Exchange
    ) -> Predicted | None:
        item = await self.item_profile(query.user_id, candidate.item_id, exchange)
        material = self.material(query.user_id, candidate, (user, item), exchange)
        request = self.question(query.user_id, candidate.item_id, material)
        return self.form.predicted(await exchange.ask(request, self.form.assumed))

    @property
    def form(self) -> RatingForm:
        """How ratings are asked for."""
        scale = RatingScale(self.options.lowest, self.options.highest)
        return RatingForm(scale, self.options.reasoning)

    async def user_profile(
        self, user_id: str, reviews: Sequence[Review], exchange: Exchange
    ) -> Preferences:
        """What a user likes and dislikes, by some reviews."""
        return await self._profile("peer_user_profile", reviews, {"user_id": user_id}, exchange)

    async def item_profile(self, user_id: str, item_id: str, exchange: Exchange) -> Preferences:
        """What others than the user like and dislike about an item."""
        reviews = self._reviews_of(user_id, item_id)
        return await self._profile("peer_item_profile", reviews, {"item_id": item_id}, exchange)

    def material(
        self,
        user_id: str,
        candidate: PeerCandidate,
        profiles: tuple[Preferences, Preferences],
        exchange: Exchange,
    ) -> RatingMaterial:
        """What a rating is predicted from; `profiles` are those of the user and of the item."""
        known, item_id = self.sources.material, candidate.item_id
        user, item = (one.text if one else NONE for one in profiles)
        description = Wording(self.options, exchange.notes).candidate(candidate)
        if not self.options.averages:
            return RatingMaterial(user, description, item)
        return RatingMaterial(
            user,
            description,
            item,
            user_average=known.average_of_user(user_id, without=item_id),
            item_average=known.average_of_item(item_id, without=user_id),
        )

    def question(self, user_id: str, item_id: str, material: RatingMaterial) -> Request:
        """The request for one rating."""
        how = self.form
        about = {"user_id": user_id, "item_id": item_id}
        return self.request(how.template, material.text(how.scale), how.form, about, **how.values)

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
    ) -> Preferences:
        wording = Wording(self.options, exchange.notes)
        notes = await extracted(reviews, self.request, exchange, wording)
        return await profiled(template, notes, self.request, exchange, about)
