"""Requests to answers, one HTTP call each, many at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
)
from contextlib import asynccontextmanager, suppress
from typing import Self, TypeVar

from indexer.ledger import Ledger
from indexer.llm.answers import Attempt
from indexer.llm.budget import Budget
from indexer.llm.capabilities import Capabilities, RequestFormat, RetryPrompt
from indexer.llm.endpoint import Endpoint
from indexer.llm.errors import (
    NO_ANSWER,
    EndpointDownError,
    LLMRefusedError,
    StoppedError,
    TransientError,
    UnanswerableError,
    UnknownParameterError,
)
from indexer.llm.request import (
    Answer,
    Request,
    Tally,
    Usage,
    from_record,
    to_record,
)
from indexer.llm.retrying import patiently
from indexer.llm.wire import Completion
from p4r_qdrant.errors import P4RError
from p4r_qdrant.settings import LLMSettings

START_PATIENCE_S = 15.0
"""How long an endpoint that has never answered is tried: it is more likely a wrong address."""
DOWN_AFTER = 3
"""An endpoint is down when so many requests in a row have been given up for want of any answer."""
SYNC_EVERY_S = 1.0

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class LLM:
    """One endpoint, one ledger, one run's budget; an async context manager.

    Raises SettingsError where OpenAI is asked without a key. Once it has stopped (a ceiling, a
    refusal, a full disk) it stays stopped: `stopped` says why.
    """

    price_factor = 1.0
    """What part of the settings' prices an answer of `run` costs."""

    def __init__(self, settings: LLMSettings, ledger: Ledger) -> None:
        self._budget = Budget(settings)
        self._endpoint = Endpoint(settings)
        self._settings = settings
        self._ledger = ledger
        self.stopped: Exception | None = None
        self._permits = asyncio.Semaphore(settings.concurrency)
        self._stopping = asyncio.Event()
        self._capabilities: dict[tuple[str, str], Capabilities] = {}
        self._being_asked: dict[tuple[str, str], asyncio.Event] = {}
        self._served = False
        self._unanswered = 0
        """Requests in a row that were given up for want of any answer."""
        self._in_flight = 0
        self._released = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endpoint.close()

    @property
    def tallies(self) -> dict[str, Tally]:
        """Counts of each step, live."""
        return self._budget.tallies

    @property
    def usage(self) -> Usage:
        """What this run has spent so far, over all steps."""
        return self._budget.usage

    def under_way(self) -> Collection[str]:
        """The keys of requests that are paid for and not answered yet."""
        return ()

    async def run(
        self, requests: Iterable[Request] | AsyncIterable[Request]
    ) -> AsyncGenerator[Answer, None]:
        """One answer for each request, as they come; requests are pulled as they are needed.

        What the ledger knows is yielded from there and costs nothing. An answer is in the ledger
        before it is yielded; an abandoned or cancelled run loses only the calls under way.

        Raises, when the calls under way have ended and were yielded: LLMRefusedError,
        EndpointDownError, BudgetReachedError, StorageFullError. All that was answered is kept:
        the same run goes on from there.
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
            except Exception as error:  # a full disk, a bug in a check: stops all
                self._halt(error)

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
        """The answer to one request, from the ledger where it is there. Raises as `run` does."""
        try:
            return await self._resolve(request)
        except StoppedError as error:
            raise (self.stopped or error) from None

    def _puller(
        self, requests: Iterable[Request] | AsyncIterable[Request]
    ) -> Callable[[], Awaitable[Request | None]]:
        """The function that gives the next request, and None at the end."""
        if not isinstance(requests, AsyncIterable):
            iterator = iter(requests)

            async def pull() -> Request | None:
                return next(iterator, None)

            return pull

        stream, turn = aiter(requests), asyncio.Lock()

        async def pull_async() -> Request | None:
            async with turn:  # a generator cannot be advanced twice at once
                coming = asyncio.ensure_future(anext(stream, None))
                stopping = asyncio.ensure_future(self._stopping.wait())
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
                self._halt(error)
                return

    def _halt(self, error: Exception) -> StoppedError:
        """Begin nothing any more; the first reason counts."""
        if self.stopped is None:
            self.stopped = error
        self._stopping.set()
        self._released.set()
        return StoppedError()

    # -- a request ------------------------------------------------------------------------------

    async def _resolve(self, request: Request) -> Answer:
        """From the ledger, else from the endpoint and into the ledger. Raises StoppedError."""
        place = request.step, request.key
        while (other := self._being_asked.get(place)) is not None:  # two alike at once: ask one
            await other.wait()
        if (record := self._ledger.get(*place)) is not None:
            self._budget.tally(request.step).known += 1
            return from_record(request, record)
        done = self._being_asked[place] = asyncio.Event()
        try:
            answer = await self._reason(request)
            self._ledger.put(*place, to_record(answer), ok=answer.ok)
        finally:
            del self._being_asked[place]
            done.set()
        tally = self._budget.tally(request.step)
        if answer.ok:
            tally.answered += 1
        else:
            tally.failed += 1
        return answer

    async def _reason(self, request: Request) -> Answer:
        """Ask until an answer can be used. From the last call's end on there is no await."""
        attempt = self._attempt_at(request)
        while len(attempt.problems) < self._settings.attempts:
            try:
                completion, spent = await self._patiently(request, attempt.retry)
            except UnanswerableError as error:
                attempt.problems += (str(error),)
                break
            answer = attempt.validate(completion, spent, self._capabilities_of(request))
            if answer is not None:
                return answer
        return attempt.failed()

    def _attempt_at(self, request: Request) -> Attempt:
        return Attempt.first(request)

    async def _patiently(self, request: Request, retry: RetryPrompt) -> tuple[Completion, Usage]:
        """One call, sent again as long as it may help."""
        try:
            return await self._again_and_again(request.step, lambda: self._call(request, retry))
        except TransientError as error:
            self._unanswered += 1
            reached = self._served or error.heard
            if reached and self._unanswered < DOWN_AFTER:
                raise UnanswerableError(f"{NO_ANSWER}: {error}") from None
            advice = "all answers are kept" if self._served else "check P4R_LLM__BASE_URL"
            raise self._halt(
                EndpointDownError(
                    f"{self._settings.base_url} gives no answer ({error}); {advice}, and run "
                    "again when it is up"
                )
            ) from None
        except LLMRefusedError as error:
            raise self._halt(error) from None

    async def _again_and_again(self, step: str, send: Callable[[], Awaitable[_T]]) -> _T:
        def noted(error: TransientError, seconds: float) -> None:
            self._budget.tally(step).retries += 1
            _log.debug("%s: %s, again in %.1f s", step, error, seconds)

        return await patiently(send, patience_s=self._patience_s, noted=noted, pause=self._pause)

    def _patience_s(self, error: TransientError) -> float:
        """For how long to try in all."""
        if self._served or error.heard:
            return self._settings.retry_for_s
        return min(self._settings.retry_for_s, START_PATIENCE_S)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- a call ---------------------------------------------------------------------------------

    async def _call(self, request: Request, retry: RetryPrompt) -> tuple[Completion, Usage]:
        """One exchange with one permit, within the budget."""
        capabilities = self._capabilities_of(request)
        async with self._permits, self._afforded(request, retry):
            if not capabilities.proved:
                async with capabilities.probing:  # the first one finds out, the others wait
                    if not capabilities.proved:
                        return await self._exchange(request, retry, capabilities)
            return await self._exchange(request, retry, capabilities)

    def _capabilities_of(self, request: Request) -> Capabilities:
        form = self._settings.answer_form
        first = Capabilities(
            RequestFormat("json_schema" if form == "auto" else form), form != "auto"
        )
        return self._capabilities.setdefault((request.model, request.step), first)

    @asynccontextmanager
    async def _afforded(self, request: Request, retry: RetryPrompt) -> AsyncIterator[None]:
        """Keep back what the call may cost at worst; wait while calls under way might need it."""
        budget = self._budget
        worst = budget.worst(request, retry) if budget.has_ceiling else Usage()
        while self.stopped is None and (ceiling := budget.exceeded(worst)):
            if not self._in_flight:
                raise self._halt(budget.reached(ceiling))
            await self._released.wait()
        if self.stopped is not None:
            raise StoppedError
        self._in_flight += 1
        budget.reserve(worst)
        try:
            yield
        finally:
            self._in_flight -= 1
            budget.release(worst)
            self._released.set()
            self._released = asyncio.Event()

    async def _exchange(
        self, request: Request, retry: RetryPrompt, capabilities: Capabilities
    ) -> tuple[Completion, Usage]:
        """Send, in ever simpler terms where the endpoint knows no better; count what was spent."""
        while True:
            if self.stopped is not None:
                raise StoppedError
            request_format = capabilities.request_format
            try:
                completion = await self._endpoint.complete(
                    request, capabilities.body(request, retry)
                )
                break
            except UnknownParameterError as error:
                if capabilities.request_format == request_format and not capabilities.simplify(
                    error.complaint
                ):
                    if retry != RetryPrompt(request.max_tokens):  # the first call was taken
                        raise UnanswerableError(f"the endpoint refused: {error}") from None
                    raise self._endpoint.refusal(400, str(error), request.model) from None
                _log.warning(
                    "%s for %s: it takes %s",
                    request.model,
                    request.step,
                    capabilities.request_format,
                )
        capabilities.proved = self._served = True
        self._unanswered = 0
        return completion, self._budget.spend(request, completion)
