"""Requests to answers with one HTTP call each, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Iterable,
)
from typing import Self

from indexer.ledger import Ledger
from indexer.llm.answers import Attempt
from indexer.llm.budget import Budget
from indexer.llm.caller import Caller
from indexer.llm.errors import StoppedError, UnanswerableError
from indexer.llm.request import Answer, Request, Tally, Usage, from_record, given_up, to_record
from p4r_qdrant.errors import P4RError
from p4r_qdrant.settings import LLMSettings

SYNC_EVERY_S = 1.0


class LLM:
    """One endpoint, one ledger, the budget of one run; an async context manager.

    repeat_failed: also ask what has failed for good in an earlier run, in the same circumstances.
    budget: of a process that has several LLMs, one after the other; None: a budget of its own.

    Raises SettingsError if OpenAI is called without a key. A run stops at a ceiling, a refusal or
    a full disk, and then stays stopped: `stopped` says why.
    """

    price_factor = 1.0
    """The price of an answer of `run`, as a share of the settings' prices."""

    def __init__(
        self,
        settings: LLMSettings,
        ledger: Ledger,
        *,
        repeat_failed: bool = True,
        budget: Budget | None = None,
    ) -> None:
        self.repeat_failed = repeat_failed
        self._settings = settings
        self._ledger = ledger
        self._caller = Caller(settings, budget or Budget(settings, ledger))
        self._being_asked: dict[tuple[str, str], asyncio.Event] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._caller.endpoint.close()

    @property
    def stopped(self) -> Exception | None:
        """Why the run has stopped; None while it goes on."""
        return self._caller.stopped

    @property
    def tallies(self) -> dict[str, Tally]:
        """Counts of each step, live."""
        return self._caller.budget.tallies

    @property
    def usage(self) -> Usage:
        """What is spent so far, over all steps and all LLMs of the budget."""
        return self._caller.budget.usage

    def under_way(self) -> Collection[str]:
        """The keys of requests that are paid for and not answered yet."""
        return ()

    async def run(
        self, requests: Iterable[Request] | AsyncIterable[Request]
    ) -> AsyncGenerator[Answer, None]:
        """Yield one answer for each request, in the order in which they come.

        Requests are pulled as they are needed. An answer that is in the ledger costs nothing. A
        new answer is in the ledger before it is yielded: an abandoned or cancelled run loses only
        the calls in flight.

        Raises LLMRefusedError, EndpointDownError, BudgetReachedError, StorageFullError, after the
        calls in flight have ended and were yielded. All answers are kept: run again to continue.
        """
        # Twice as many workers as permits: another request is ready when a call ends, and a
        # request that waits for its retry leaves no permit unused.
        count = 2 * self._settings.concurrency
        answers: asyncio.Queue[Answer | None] = asyncio.Queue(count)
        pull = self._puller(requests)

        async def work() -> None:
            try:
                while self.stopped is None and (request := await pull()) is not None:
                    await answers.put(await self._resolve(request))
            except StoppedError:
                pass
            except Exception as error:  # a full disk or a bug in a check stops the run
                self._caller.halt(error)

        async def work_all() -> None:
            async with asyncio.TaskGroup() as workers:
                for _ in range(count):
                    workers.create_task(work())
            await answers.put(None)

        tasks = [asyncio.create_task(work_all()), asyncio.create_task(self._keep_synced())]
        try:
            while (answer := await answers.get()) is not None:
                yield answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._ledger.sync)
        if self.stopped is not None:
            raise self.stopped

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, from the ledger if it is there. Raises as `run` does."""
        try:
            return await self._resolve(request)
        except StoppedError as error:
            raise (self.stopped or error) from None

    def _puller(
        self, requests: Iterable[Request] | AsyncIterable[Request]
    ) -> Callable[[], Awaitable[Request | None]]:
        """A function that returns the next request, None at the end."""
        if not isinstance(requests, AsyncIterable):
            iterator = iter(requests)

            async def pull() -> Request | None:
                return next(iterator, None)

            return pull

        stream, turn = aiter(requests), asyncio.Lock()

        async def pull_async() -> Request | None:
            async with turn:  # an async generator cannot be advanced by two tasks at once
                coming = asyncio.ensure_future(anext(stream, None))
                stopping = asyncio.ensure_future(self._caller.stopping.wait())
                try:
                    await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    return coming.result() if coming.done() else None
                finally:
                    coming.cancel()
                    stopping.cancel()

        return pull_async

    async def _keep_synced(self) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            try:
                await asyncio.to_thread(self._ledger.sync)
            except P4RError as error:
                self._caller.halt(error)
                return

    async def _resolve(self, request: Request) -> Answer:
        """The answer from the ledger, else from the endpoint. Raises StoppedError."""
        place = request.step, request.key
        while (other := self._being_asked.get(place)) is not None:  # ask equal requests once
            await other.wait()
        tally = self._caller.budget.tally(request.step)
        if (record := self._ledger.get(*place)) is not None:
            tally.known += 1
            self._caller.has_answered(request.model)
            return from_record(request, record)
        if not self.repeat_failed and (failure := given_up(self._ledger, request, self._settings)):
            tally.given_up += 1
            return failure
        done = self._being_asked[place] = asyncio.Event()
        try:
            answer = await self._attempt(request)
            self._ledger.put(*place, to_record(answer, self._settings), ok=answer.ok)
        finally:
            del self._being_asked[place]
            done.set()
        if answer.ok:
            tally.answered += 1
        else:
            tally.failed += 1
        return answer

    async def _attempt(self, request: Request) -> Answer:
        """Ask until an answer is usable. There is no await after the last call has ended."""
        attempt = self._attempt_at(request)
        while len(attempt.problems) < self._settings.attempts and not attempt.hopeless:
            try:
                completion, spent = await self._caller.call(attempt)
            except UnanswerableError as error:
                attempt.give_up(str(error), final=error.final)
                break
            capabilities = self._caller.capabilities_of(request)
            answer = attempt.validate(completion, spent, capabilities)
            if answer is not None:
                return answer
        return attempt.failed()

    def _attempt_at(self, request: Request) -> Attempt:
        return Attempt(request, self._caller.capabilities_of(request).first_prompt(request))
