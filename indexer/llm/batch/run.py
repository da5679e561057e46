"""Requests to answers through the OpenAI Batch API: half the price, within a day.

    async with BatchLLM(settings.llm, ledger) as llm, aclosing(llm.run(requests)) as answers: ...

The same requests, keys, validation and ledger as with one call each (`live.py`). A run goes through
all its requests in a *pass*, and again when batches have ended, until all are answered:

- what the ledger knows is yielded from there;
- what a batch has brought back is validated: an answer that can be used, or the last of `attempts`
  that cannot, is recorded and yielded; any other is recorded as a failure that says how to ask
  again, and is asked again;
- what no batch under way holds is put into the next one.

The first request of each step and model is asked live: it finds out what the endpoint understands
(`capabilities.py`), which a batch would only tell the day after, and is an answer like any other.

Nothing is kept but the ledger and `batch_files.py`, both on the disk; so a run that was killed, or
that nobody waited for, goes on with just another pass. Memory holds keys, never texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection, Iterable
from dataclasses import asdict
from typing import Any, NamedTuple, TypeVar

from indexer.ledger import Ledger
from indexer.llm.answers import Attempt
from indexer.llm.batch.endpoint import BatchEndpoint, GoneError
from indexer.llm.batch.files import (
    MAX_INPUT_BYTES,
    Batch,
    BatchFolder,
    BatchInput,
    line_of,
    tokens_of,
)
from indexer.llm.batch.queue import BatchProgress, BatchQueue
from indexer.llm.capabilities import RetryPrompt
from indexer.llm.errors import (
    NO_ANSWER,
    BatchesUnderWay,
    EndpointDownError,
    LLMRefusedError,
    TransientError,
    UnanswerableError,
    UnknownParameterError,
)
from indexer.llm.live import LLM
from indexer.llm.parsing import shortened
from indexer.llm.request import Answer, Request, from_record, to_record, usage_of
from indexer.llm.wire import Completion, completion_of
from p4r_qdrant.records import clean_text
from p4r_qdrant.settings import LLMSettings

_NEVER_ASKED = frozenset({"batch_expired", "batch_cancelled"})
_T = TypeVar("_T")


class _Result(NamedTuple):
    """What came back for one request lies at `place`; nothing did where that is None."""

    batch: Batch
    place: int | None


class _NotAskedError(Exception):
    """The batch ended before this request's turn came."""


class BatchLLM(LLM):
    """An LLM whose `run` goes through batches; `ask` is one live call, at the full price.

    With `wait` false a run submits what it can and raises BatchesUnderWay. `watch` is told about
    each batch every time it was looked at. Raises InputError where batches are under way at
    another endpoint.
    """

    def __init__(
        self,
        settings: LLMSettings,
        ledger: Ledger,
        *,
        wait: bool = True,
        watch: Callable[[BatchProgress], None] = lambda _: None,
    ) -> None:
        super().__init__(settings, ledger)
        self.price_factor = settings.batch_price_factor
        self._wait = wait
        self._folder = BatchFolder(ledger.folder)
        self._folder.tidy()
        self._campaign = self._folder.campaign()
        self._batch_endpoint = BatchEndpoint(self._endpoint, settings)
        self._queue = BatchQueue(
            settings,
            self._folder,
            self._batch_endpoint,
            self._budget,
            send=self._sent,
            halt=self._halt,
            watch=watch,
            campaign=self._campaign,
        )

    async def __aexit__(self, *exception: object) -> None:
        await self._batch_endpoint.close()
        await super().__aexit__(*exception)

    def under_way(self) -> Collection[str]:
        """The keys of requests that are paid for and not in the ledger yet."""
        return self._folder.waiting()

    async def run(
        self, requests: Iterable[Request] | AsyncIterable[Request]
    ) -> AsyncGenerator[Answer, None]:
        """One answer for each request, as they come.

        `requests` are gone through more than once (a list, or `Requests`), the same each time.

        Raises what LLM.run does, and BatchesUnderWay. All that was answered is kept, and what is
        under way goes on at the endpoint: the same run goes on from there.
        """
        if isinstance(requests, AsyncIterable) or iter(requests) is requests:
            raise TypeError("requests are gone through more than once: give a list, or Requests")
        first = True
        while True:
            await self._queue.look()
            one = _Pass(self, requests, with_known=first)
            first = False
            async for answer in one.answers():
                yield answer
            if self.stopped is not None:
                raise self.stopped
            if not one.awaited:
                return
            if not self._wait:
                raise BatchesUnderWay
            while not await self._queue.look():
                await self._pause(self._settings.batch_poll_s)

    def _attempt_at(self, request: Request) -> Attempt:
        """The request, with what earlier batches made of it."""
        record = self._ledger.failure(request.step, request.key) or {}
        problems = tuple(record.get("problems", ()))
        if "again" not in record or len(problems) >= self._settings.attempts:
            return Attempt.first(request)
        again = RetryPrompt(**record["again"])
        return Attempt(request, again, usage_of(record), problems, record["completion"])

    async def _sent(self, step: str, send: Callable[[], Awaitable[_T]]) -> _T:
        try:
            done = await self._again_and_again(step, send)
        except GoneError:
            raise
        except TransientError as error:
            down = EndpointDownError(
                f"{self._settings.base_url} gives no answer ({error}); all answers are kept and "
                "batches under way go on: run again when it is up"
            )
            self._halt(down)
            raise down from None
        except LLMRefusedError as error:
            self._halt(error)
            raise
        self._served = True
        return done


class _Pass:
    """One way through all requests. `awaited` counts those that are still to be answered."""

    def __init__(self, llm: BatchLLM, requests: Iterable[Request], *, with_known: bool) -> None:
        self.awaited = 0
        self._llm = llm
        self._requests = requests
        self._with_known = with_known
        self._folder, self._ledger, self._budget = llm._folder, llm._ledger, llm._budget
        self._ended = [batch for batch in llm._folder if batch.ended is not None]
        self._results: dict[str, dict[str, _Result]] = {}
        self._validated: set[str] = set()
        self._under_way = {
            key for one in self._folder.under_way() for key in self._folder.keys(one)
        }
        self._made: BatchInput | None = None
        self._ceiling = ""
        self._full = False
        """Nothing more is put into a batch."""

    async def answers(self) -> AsyncGenerator[Answer, None]:
        """Those that are there now; what is not is put into batches."""
        try:
            for count, request in enumerate(self._requests):
                if count % 256 == 0:
                    await asyncio.sleep(0)  # Ctrl-C is heard here
                answer = await self._next(request)
                if answer is not None:
                    yield answer
            await self._submit()
        finally:
            if self._made is not None:
                self._made.discard()
        self._ledger.sync()
        self._clear_up()
        if self._ceiling and not self._folder.under_way():
            self._llm._halt(self._budget.reached(self._ceiling))

    async def _next(self, request: Request) -> Answer | None:
        """The answer, where there is one that was not yielded yet."""
        llm, step, key = self._llm, request.step, request.key
        result = self._came_back(step).pop(key, None)
        if (record := self._ledger.get(step, key)) is not None:
            if not self._with_known and key not in self._validated:
                return None
            self._budget.tally(step).known += 1
            return from_record(request, record)
        if result is not None and (answer := self._validate(request, result)) is not None:
            self._validated.add(key)
            return answer
        if llm.stopped is not None or self._is_given_up(step, key):
            return None
        if key not in self._under_way and not self._full:
            if not llm._capabilities_of(request).proved and self._can_pay(request):
                return await self._ask_live(request)
            if not self._full:
                await self._put_into_batch(request)
        self.awaited += 1
        return None

    # -- what came back -------------------------------------------------------------------------

    def _came_back(self, step: str) -> dict[str, _Result]:
        """By key, what the batches of this step brought and is not in the ledger yet."""
        if step not in self._results:
            self._results[step] = {
                key: _Result(batch, place)
                for batch in self._ended
                if batch.step == step
                for key, place in self._folder.found(batch).items()
                if not self._ledger.has(step, key)
                and batch.name not in self._failure(step, key).get("batches", ())
            }
        return self._results[step]

    def _validate(self, request: Request, result: _Result) -> Answer | None:
        """The answer as it is now in the ledger; None where it is to be asked for again."""
        llm, attempt, unanswerable, answer = self._llm, self._llm._attempt_at(request), False, None
        try:
            completion = self._completion(request, result)
            spent = self._budget.spend(request, completion, llm.price_factor)
            answer = attempt.validate(completion, spent, llm._capabilities_of(request))
        except _NotAskedError:
            return None
        except LLMRefusedError as error:
            llm._halt(error)
            return None
        except TransientError as error:
            attempt.problems += (f"{NO_ANSWER}: {error}",)
        except (UnanswerableError, UnknownParameterError) as error:
            attempt.problems += (str(error),)
            unanswerable = True
        if answer is None and (unanswerable or len(attempt.problems) >= llm._settings.attempts):
            answer = attempt.failed()
        self._record(answer, attempt, result.batch)
        return answer

    def _record(self, answer: Answer | None, attempt: Attempt, batch: Batch) -> None:
        """Record a batch's answer; a failure names its batches, so that none is counted twice."""
        request = attempt.request
        step, key = request.step, request.key
        record, ok = to_record(answer or attempt.failed()), answer is not None and answer.ok
        if not ok:
            record["campaign"] = self._llm._campaign
            record["batches"] = [*self._failure(step, key).get("batches", ()), batch.name]
        if answer is None:
            record["again"] = {
                name: clean_text(value) if isinstance(value, str) else value
                for name, value in asdict(attempt.retry).items()
            }
        self._ledger.put(step, key, record, ok=ok)
        tally = self._budget.tally(step)
        if answer is None:
            tally.retries += 1
        elif ok:
            tally.answered += 1
        else:
            tally.failed += 1

    def _is_given_up(self, step: str, key: str) -> bool:
        """Whether it came to nothing in this campaign."""
        record = self._failure(step, key)
        return "again" not in record and record.get("campaign") == self._llm._campaign

    def _failure(self, step: str, key: str) -> dict[str, Any]:
        return self._ledger.failure(step, key) or {}

    def _completion(self, request: Request, result: _Result) -> Completion:
        """Raises what a live call does, and _NotAskedError."""
        if result.place is None:
            if result.batch.ended != "completed":
                raise _NotAskedError
            raise TransientError("the batch came back without one")
        match self._folder.result(result.batch, result.place):
            case {"response": {"status_code": 200, "body": body}}:
                return completion_of(body)
            case {"response": {"status_code": int(status), "body": body}}:
                detail = body.get("error", body) if isinstance(body, dict) else body
                raise self._llm._endpoint.failure(status, detail, request)
            case {"error": {"code": str(code)}}:
                if code in _NEVER_ASKED:
                    raise _NotAskedError
                raise TransientError(f"the batch came back with an error: {shortened(code, 40)}")
        raise TransientError("the batch came back with an error")

    def _clear_up(self) -> None:
        """Remove the batches whose results are all in the ledger; mark the others."""
        for batch in self._ended:
            if batch.step not in self._results:
                continue
            left = (one for one in self._results[batch.step].values() if one.batch == batch)
            if all(one.place is None for one in left):
                self._folder.forget(batch)
            elif not batch.validated:
                self._folder.save(batch.model_copy(update={"validated": True}))

    # -- what goes out --------------------------------------------------------------------------

    def _can_pay(self, request: Request) -> bool:
        """Whether there is money for a live call; if not, what is under way may leave some."""
        worst = self._budget.worst(request, RetryPrompt(request.max_tokens))
        self._ceiling = self._budget.exceeded(worst)
        self._full = bool(self._ceiling)
        return not self._full

    async def _ask_live(self, request: Request) -> Answer:
        """Where it comes to nothing, the ledger has to say that it did so now."""
        answer = await self._llm.ask(request)
        if not answer.ok:
            record = to_record(answer) | {"campaign": self._llm._campaign}
            self._ledger.put(request.step, request.key, record, ok=False)
        self._validated.add(request.key)
        return answer

    async def _put_into_batch(self, request: Request) -> None:
        """Unless there is no room, or no money, for more."""
        llm, attempt = self._llm, self._llm._attempt_at(request)
        line = line_of(request.key, llm._capabilities_of(request).body(request, attempt.retry))
        worst = self._budget.worst(request, attempt.retry, llm.price_factor)
        if self._made is not None and self._is_apart(self._made, request, line):
            await self._submit()
        tokens, reserved = tokens_of(line), worst
        if self._made is not None:
            tokens, reserved = tokens + self._made.tokens, worst + self._made.worst
        self._ceiling = self._budget.exceeded(reserved)
        if self._ceiling or not llm._queue.has_room(tokens, begun=self._made is not None):
            self._full = True
            return
        if self._made is None:
            self._made = BatchInput(self._folder, request.step, request.model)
        self._made.add(request.key, line, worst)
        self._under_way.add(request.key)

    def _is_apart(self, made: BatchInput, request: Request, line: bytes) -> bool:
        """Whether a request must not go into this batch."""
        return (
            (made.step, made.model) != (request.step, request.model)
            or len(made.keys) >= self._llm._settings.batch_requests
            or made.size + len(line) > MAX_INPUT_BYTES
        )

    async def _submit(self) -> None:
        if self._made is not None:
            made, self._made = self._made, None
            await self._llm._queue.submit(made)
