"""Peers that order a list in windows, because a prompt takes only so many candidates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from indexer.peers.asking import AskingPeer
from indexer.peers.protocol import (
    Asker,
    Exchange,
    PeerAnswer,
    PeerCandidate,
    PeerQuery,
    TooLongError,
)
from indexer.peers.windows import windows


@dataclass(frozen=True, slots=True)
class OrderedWindow:
    """The candidates of one window in their new order, with scores if there are any."""

    order: Sequence[PeerCandidate]
    scores: Mapping[str, float] = field(default_factory=dict)


class WindowedPeer(AskingPeer):
    """Orders every window by `order_window`. A single candidate is not asked about.

    Where a prompt is too long for the model, its window is ordered in smaller ones.
    """

    @abstractmethod
    async def order_window(
        self, query: PeerQuery, window: Sequence[PeerCandidate], exchange: Exchange
    ) -> OrderedWindow:
        """Order some candidates of a query; as they are if there is no usable answer."""

    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:
        """Order all candidates, at least the first `top` of them rightly."""
        exchange = Exchange(ask)
        found = await self._ordered(
            query, query.candidates, self.options.window, exchange, query.top
        )
        return exchange.answer(found.order, found.scores)

    async def _ordered(
        self,
        query: PeerQuery,
        candidates: Sequence[PeerCandidate],
        size: int,
        exchange: Exchange,
        top: int | None = None,
    ) -> OrderedWindow:
        """Order candidates in windows; scores of several windows cannot be compared."""
        order = list(candidates)
        scores: Mapping[str, float] = {}
        for start, end in windows(len(order), size, max(1, size // 2), top):
            found = await self._ordered_once(query, order[start:end], exchange)
            order[start:end] = found.order
            scores = found.scores if end - start == len(order) else {}
        return OrderedWindow(order, scores)

    async def _ordered_once(
        self, query: PeerQuery, window: Sequence[PeerCandidate], exchange: Exchange
    ) -> OrderedWindow:
        """Order one window; in smaller ones if its prompt is too long for the model."""
        try:
            return await self.order_window(query, window, exchange)
        except TooLongError:
            smaller = len(window) // 2
            if smaller < 2:
                exchange.too_long()
                return OrderedWindow(window)
            exchange.notes["windows made smaller"] += 1
            return await self._ordered(query, window, smaller, exchange)
