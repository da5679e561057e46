"""What reasoning needs of whoever answers its requests: an LLM, or an extractor."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from typing import Protocol

from indexer.llm import Answer, Request, Tally


class Answerer(Protocol):
    """Answers requests and keeps each answer in the ledger before it is returned.

    price_factor: the price of an answer of `run`, as a share of the settings' prices.
    repeat_failed: whether requests are asked again that have failed for good.
    """

    price_factor: float
    repeat_failed: bool

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """Counts of each step, live."""

    def under_way(self) -> Collection[str]:
        """The keys of requests that are paid for and not answered yet."""

    def run(self, requests: Iterable[Request]) -> AsyncGenerator[Answer, None]:
        """Yield one answer for each request. An answer that is in the ledger costs nothing."""

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, from the ledger if it is there."""
