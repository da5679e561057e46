"""One call to the endpoint: within the budget, in a form that the model takes, with retries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

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
from indexer.llm.request import Request, Usage
from indexer.llm.retrying import with_retries
from indexer.llm.wire import Completion
from p4r_qdrant.settings import LLMSettings

START_RETRY_FOR_S = 15.0
"""How long to retry an endpoint that has never answered: its address is probably wrong."""
DOWN_AFTER = 3
"""Requests in a row without any answer after which the endpoint counts as down."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Caller:
    """Calls one endpoint for one run. Once `stopped` says why, no new call begins.

    Raises SettingsError if OpenAI is called without a key.
    """

    def __init__(self, settings: LLMSettings) -> None:
        self.budget = Budget(settings)
        self.endpoint = Endpoint(settings)
        self.stopped: Exception | None = None
        self.stopping = asyncio.Event()
        self._settings = settings
        self._permits = asyncio.Semaphore(settings.concurrency)
        self._capabilities: dict[tuple[str, str], Capabilities] = {}
        self.served = False
        """The endpoint has answered at least once."""
        self._unanswered = 0
        """Requests in a row that got no answer at all."""
        self._in_flight = 0
        self._released = asyncio.Event()

    def halt(self, error: Exception) -> StoppedError:
        """Stop the run: no new call begins. The first error is kept as the reason."""
        if self.stopped is None:
            self.stopped = error
        self.stopping.set()
        self._released.set()
        return StoppedError()

    def capabilities_of(self, request: Request) -> Capabilities:
        """What is known of the request's model for the request's step."""
        form = self._settings.answer_form
        first = Capabilities(
            RequestFormat("json_schema" if form == "auto" else form), fixed_form=form != "auto"
        )
        return self._capabilities.setdefault((request.model, request.step), first)

    async def call(self, request: Request, retry: RetryPrompt) -> tuple[Completion, Usage]:
        """The completion and what it cost.

        Raises UnanswerableError if this request fails, StoppedError if the run has to stop.
        """
        try:
            return await self.with_retries(request.step, lambda: self._call_once(request, retry))
        except TransientError as error:
            self._unanswered += 1
            reached = self.served or error.heard
            if reached and self._unanswered < DOWN_AFTER:
                raise UnanswerableError(f"{NO_ANSWER}: {error}") from None
            advice = "all answers are kept" if self.served else "check P4R_LLM__BASE_URL"
            raise self.halt(
                EndpointDownError(
                    f"{self._settings.base_url} does not answer ({error}); {advice}, and run "
                    "again when it is up"
                )
            ) from None
        except LLMRefusedError as error:
            raise self.halt(error) from None

    async def with_retries(self, step: str, send: Callable[[], Awaitable[_T]]) -> _T:
        """Send, and send again on TransientError, for as long as the settings allow."""

        def count(error: TransientError, seconds: float) -> None:
            self.budget.tally(step).retries += 1
            _log.debug("%s: %s, retry in %.1f s", step, error, seconds)

        return await with_retries(
            send, retry_for_s=self._retry_for_s, on_retry=count, pause=self.pause
        )

    async def pause(self, seconds: float) -> None:
        """Sleep; wake up early if the run stops."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    def answered(self) -> None:
        """Record that the endpoint has answered."""
        self.served = True
        self._unanswered = 0

    def _retry_for_s(self, error: TransientError) -> float:
        if self.served or error.heard:
            return self._settings.retry_for_s
        return min(self._settings.retry_for_s, START_RETRY_FOR_S)

    async def _call_once(self, request: Request, retry: RetryPrompt) -> tuple[Completion, Usage]:
        capabilities = self.capabilities_of(request)
        async with self._permits, self._within_budget(request, retry):
            if not capabilities.proved:
                async with capabilities.probing:  # the first call finds out while the others wait
                    if not capabilities.proved:
                        return await self._exchange(request, retry, capabilities)
            return await self._exchange(request, retry, capabilities)

    @asynccontextmanager
    async def _within_budget(self, request: Request, retry: RetryPrompt) -> AsyncIterator[None]:
        """Reserve what the call costs at most; wait while open calls might use up the budget."""
        budget = self.budget
        worst = budget.worst(request, retry) if budget.has_ceiling else Usage()
        while self.stopped is None and (ceiling := budget.exceeded(worst)):
            if not self._in_flight:
                raise self.halt(budget.reached(ceiling))
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
        """Send; if the endpoint rejects a parameter, simplify the request and send again."""
        while True:
            if self.stopped is not None:
                raise StoppedError
            sent = capabilities.request_format
            try:
                body = capabilities.body(request, retry)
                completion = await self.endpoint.complete(request, body)
                break
            except UnknownParameterError as error:
                # Another call may have simplified the format in the meantime.
                if capabilities.request_format == sent and not capabilities.simplify(error.message):
                    if retry != RetryPrompt(request.max_tokens):  # the first attempt was accepted
                        raise UnanswerableError(f"the endpoint refused: {error}") from None
                    raise self.endpoint.refusal(400, str(error), request.model) from None
                _log.warning(
                    "%s accepts a simpler request for %s: %s",
                    request.model,
                    request.step,
                    capabilities.request_format,
                )
        capabilities.proved = True
        self.answered()
        return completion, self.budget.spend(request, completion)
