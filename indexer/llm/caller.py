"""One call to the endpoint: within the budget, in a form that the model takes, with retries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from indexer.llm.answers import Attempt
from indexer.llm.budget import Budget
from indexer.llm.capabilities import (
    Capabilities,
    RequestFormat,
    RetryPrompt,
    names_logprobs,
    room_in,
)
from indexer.llm.endpoint import Endpoint
from indexer.llm.errors import (
    NO_ANSWER,
    TOO_LONG,
    EndpointDownError,
    LLMRefusedError,
    RefusedRequestError,
    StoppedError,
    TransientError,
    UnanswerableError,
)
from indexer.llm.request import Request, Usage
from indexer.llm.retrying import with_retries
from indexer.llm.wire import Completion
from p4r_qdrant.errors import for_log
from p4r_qdrant.settings import LLMSettings

START_RETRY_FOR_S = 15.0
"""How long to retry an endpoint that has never answered: its address is probably wrong."""
DOWN_AFTER = 3
"""Requests in a row without any answer after which the endpoint counts as down."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Caller:
    """Calls one endpoint for one run. Once `stopped` says why, no new call begins.

    budget: what was spent before is in it.
    Raises SettingsError if OpenAI is called without a key.
    """

    def __init__(self, settings: LLMSettings, budget: Budget) -> None:
        self.budget = budget
        self.endpoint = Endpoint(settings)
        self.stopped: Exception | None = None
        self.stopping = asyncio.Event()
        self.attempts = settings.attempts
        self._settings = settings
        self._permits = asyncio.Semaphore(settings.concurrency)
        self._capabilities: dict[tuple[str, str], Capabilities] = {}
        self.served = False
        """The endpoint has answered at least once."""
        self._models: set[str] = set()
        """The models that have answered at least once."""
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
        form, step = self._settings.answer_form, self._settings.of(request.step)
        first = Capabilities(
            RequestFormat("json_schema" if form == "auto" else form),
            fixed_form=form != "auto",
            answer_tokens=step.answer_tokens,
            thought_tokens=step.thought_tokens,
        )
        return self._capabilities.setdefault((request.model, request.step), first)

    async def call(self, attempt: Attempt) -> tuple[Completion, Usage]:
        """The completion and what it cost; what the endpoint refuses is added to the attempt.

        Raises UnanswerableError if this request fails, StoppedError if the run has to stop.
        """
        step = attempt.request.step
        try:
            return await self.with_retries(step, lambda: self._call_once(attempt))
        except TransientError as error:
            self._unanswered += 1
            reached = self.served or error.heard
            if reached and self._unanswered < DOWN_AFTER:
                raise UnanswerableError(f"{NO_ANSWER}: {error}", final=False) from None
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
            _log.debug("%s: %s, retry in %.1f s", step, for_log(error), seconds)

        return await with_retries(
            send, retry_for_s=self._retry_for_s, on_retry=count, pause=self.pause
        )

    async def pause(self, seconds: float) -> None:
        """Sleep; wake up early if the run stops."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    def answered(self, model: str) -> None:
        """Record that the endpoint has answered."""
        self.served = True
        self.has_answered(model)
        self._unanswered = 0

    def has_answered(self, model: str) -> None:
        """Record that a model has answered a request, now or in an earlier run."""
        self._models.add(model)

    def refused(self, request: Request, error: RefusedRequestError) -> Exception:
        """The error for a request that is refused as it is.

        It fails alone if the model has answered another request. If it never has, or if requests
        in a row are refused for another reason than what they say, the run stops.
        """
        problem = UnanswerableError(f"the endpoint refused: {error}", final=error.about_record)
        if request.model in self._models:
            if error.about_record:
                return problem
            self._unanswered += 1
            if self._unanswered < DOWN_AFTER:
                return problem
        return self.endpoint.refusal(error.status, error.text, request.model)

    def _retry_for_s(self, error: TransientError) -> float:
        if self.served or error.heard:
            return self._settings.retry_for_s
        return min(self._settings.retry_for_s, START_RETRY_FOR_S)

    async def _call_once(self, attempt: Attempt) -> tuple[Completion, Usage]:
        capabilities = self.capabilities_of(attempt.request)
        async with self._permits, self._within_budget(attempt):
            if not capabilities.proved:
                async with capabilities.probing:  # the first call finds out while the others wait
                    if not capabilities.proved:
                        return await self._exchange(attempt, capabilities)
            return await self._exchange(attempt, capabilities)

    @asynccontextmanager
    async def _within_budget(self, attempt: Attempt) -> AsyncIterator[None]:
        """Reserve what the call costs at most; wait while open calls might use up the budget."""
        budget, request = self.budget, attempt.request
        worst = Usage()
        if budget.has_ceiling:
            worst = budget.worst(request, attempt.retry, self.capabilities_of(request))
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
        self, attempt: Attempt, capabilities: Capabilities
    ) -> tuple[Completion, Usage]:
        """Send; if the endpoint refuses a parameter or a limit, change it and send again.

        A format that has worked is only replaced by one that works.
        """
        request = attempt.request
        request_format = capabilities.request_format
        while True:
            if self.stopped is not None:
                raise StoppedError
            body = capabilities.body(request, attempt.retry, request_format)
            attempt.sent = limit = int(body.get(request_format.limit_name, 0))
            try:
                completion = await self.endpoint.complete(request, body)
                if request.options and completion.text.strip() and completion.logprobs is None:
                    raise self.endpoint.no_logprobs(request)
                break
            except RefusedRequestError as error:
                attempt.refusals += (str(error),)
                if error.too_long:
                    attempt.retry = self.with_less_room(attempt, error, limit)
                    continue
                request_format = self._without(attempt, error, request_format, limit)
                if not capabilities.proved:
                    capabilities.request_format = request_format
        capabilities.request_format = request_format
        capabilities.proved = True
        self.answered(request.model)
        return completion, self.budget.spend(request, completion)

    def with_less_room(
        self, attempt: Attempt, error: RefusedRequestError, limit: int
    ) -> RetryPrompt:
        """How to ask again, once, with the limit that the context allows.

        Raises UnanswerableError if the prompt itself is too long.
        """
        request, retry = attempt.request, attempt.retry
        room = room_in(error.body.message, request, limit)
        if room is None or retry.room is not None:
            raise UnanswerableError(f"{TOO_LONG}: {error}")
        self.capabilities_of(request).room = room
        return replace(retry, room=room.left)

    def _without(
        self, attempt: Attempt, error: RefusedRequestError, sent: RequestFormat, limit: int
    ) -> RequestFormat:
        """The format without what the endpoint refuses; raises if it refuses the request itself."""
        request = attempt.request
        fixed_form = self.capabilities_of(request).fixed_form
        simpler = sent.without(error.body.searched, request, limit, fixed_form=fixed_form)
        if simpler is not None:
            _log.warning(
                "%s takes a simpler request for %s: %s", request.model, request.step, simpler
            )
            return simpler
        if request.options is not None and names_logprobs(error.body.searched):
            raise self.endpoint.no_logprobs(request)
        if attempt.retry.is_first:
            raise self.refused(request, error)
        raise UnanswerableError(f"the endpoint refused: {error}")
