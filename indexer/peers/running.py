"""Run a peer over many queries, with an LLM or as a dry run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from indexer.ledger import Ledger
from indexer.llm import LLM, Answer, Request, Usage, estimate_tokens
from indexer.llm.request import from_record, given_up
from indexer.peers.protocol import Asker, Peer, PeerAnswer, PeerQuery
from indexer.reasoning.run import Estimate
from p4r_qdrant.settings import LLMSettings

In = TypeVar("In")
Out = TypeVar("Out")

AT_ONCE = 64
"""Queries that are worked on at the same time, at most; the LLM limits the open calls."""


def asker(llm: LLM) -> Asker:
    """Asks an LLM; the assumed answers are not used."""

    async def ask(request: Request, assumed: Any) -> Answer:  # noqa: ARG001
        return await llm.ask(request)

    return ask


class DryRun:
    """Counts what would be asked, by step, and takes the assumed answers; nothing is sent.

    Answers that the ledger holds are used. A later request of a chain is estimated from assumed
    answers, so that its tokens are about right. assume_all: take assumed answers also in place of
    known ones. watch: is shown every request.
    """

    def __init__(
        self,
        settings: LLMSettings,
        ledger: Ledger,
        *,
        repeat_failed: bool = True,
        assume_all: bool = False,
        watch: Callable[[Request], None] | None = None,
    ) -> None:
        self.estimates: dict[str, Estimate] = {}
        self._settings = settings
        self._ledger = ledger
        self._repeat_failed = repeat_failed
        self._assume_all = assume_all
        self._watch = watch
        self._seen: set[str] = set()

    async def __call__(self, request: Request, assumed: Any) -> Answer:
        """The answer of the ledger, else the assumed one."""
        if self._watch is not None:
            self._watch(request)
        if self._assume_all:
            return Answer(request, assumed, Usage())
        is_new = request.key not in self._seen
        self._seen.add(request.key)
        assumed = _told_apart(assumed, request.key)
        one = self.estimates.setdefault(request.step, Estimate())
        if (record := self._ledger.get(request.step, request.key)) is not None:
            one.known += is_new
            return from_record(request, record)
        if not self._repeat_failed and (failure := given_up(self._ledger, request, self._settings)):
            one.given_up += is_new
            return failure
        if is_new:
            one.requests += 1
            one.prompt_tokens += estimate_tokens(request.system) + estimate_tokens(request.user)
            one.completion_tokens += estimate_tokens(_text(assumed))
            prices = self._settings.of(request.step)
            one.cost_usd = prices.cost(one.prompt_tokens, one.completion_tokens)
        return Answer(request, assumed, Usage())


def _told_apart(assumed: Any, key: str) -> Any:
    """An assumed answer that differs from others, as real ones do: so do the prompts made of it."""
    if isinstance(assumed, dict) and "options" not in assumed:
        return {
            name: [f"{one} {key[:6]}" for one in value]
            if isinstance(value, list)
            else f"{value} {key[:6]}"
            for name, value in assumed.items()
        }
    return assumed


def _text(assumed: Any) -> str:
    if isinstance(assumed, dict) and "options" in assumed:
        return str(assumed["text"])
    return assumed if isinstance(assumed, str) else json.dumps(assumed)


def nothing() -> None:
    """Do nothing."""


async def rank_all(
    peer: Peer,
    queries: Iterable[PeerQuery],
    ask: Asker,
    done: Callable[[], None] = nothing,
    at_once: int = AT_ONCE,
) -> list[PeerAnswer]:
    """The answers in the order of the queries; `done` is called after each one."""
    return await each(queries, lambda query: peer.rank(query, ask), done, at_once)


async def each(
    inputs: Iterable[In],
    work: Callable[[In], Awaitable[Out]],
    done: Callable[[], None] = nothing,
    at_once: int = AT_ONCE,
) -> list[Out]:
    """The results in the order of the inputs; `done` is called after each one.

    If one of them stops the run, those in progress end first; then the error is raised.
    """
    found: dict[int, Out] = {}
    waiting = enumerate(inputs)
    stopped: list[Exception] = []

    async def take() -> None:
        while not stopped and (one := next(waiting, None)) is not None:
            try:
                found[one[0]] = await work(one[1])
            except Exception as error:
                stopped.append(error)
            else:
                done()

    await asyncio.gather(*(take() for _ in range(at_once)))
    if stopped:
        raise stopped[0]
    return [found[place] for place in range(len(found))]


def total(answers: Iterable[PeerAnswer]) -> Usage:
    """What several answers cost together."""
    return sum((one.usage for one in answers), Usage())
