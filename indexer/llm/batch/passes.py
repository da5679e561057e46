"""One pass through all requests of a run, with the batches that there are.

- An answer in the ledger is yielded from there.
- A result of an ended batch is validated. A usable answer, or the last of `attempts` unusable
  ones, is recorded and yielded. Any other is recorded as a failure that says how to ask again, and
  is asked again.
- A request that is in no batch goes into the next one.

The first request of each step and model is a live call: it finds out what the endpoint supports
(`indexer/llm/capabilities.py`), which a batch would show only a day later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from indexer.llm.batch.files import MAX_INPUT_BYTES, BatchInput, line_of, tokens_of
from indexer.llm.batch.queue import BatchQueue
from indexer.llm.batch.results import Results
from indexer.llm.live import LLM
from indexer.llm.request import Answer, Request, from_record, given_up


class Pass:
    """One pass. `awaited` counts the requests that are still to be answered.

    Args:
        requests: all requests of the run.
        results: what ended batches brought back.
        queue: takes the next batches.
        live: makes live calls.
        with_known: also yield the answers that the ledger held before this pass.

    """

    def __init__(
        self,
        requests: Iterable[Request],
        results: Results,
        queue: BatchQueue,
        live: LLM,
        *,
        with_known: bool,
    ) -> None:
        self.awaited = 0
        self._requests = requests
        self._results = results
        self._queue = queue
        self._live = live
        self._with_known = with_known
        self._settings, self._ledger = results.settings, results.ledger
        self._folder, self._caller = results.folder, results.caller
        self._answered: set[str] = set()
        """The keys of requests that this pass has answered."""
        self._under_way = {
            key for one in self._folder.under_way() for key in self._folder.keys(one)
        }
        self._made: BatchInput | None = None
        self._ceiling = ""
        self._full = False
        """No more requests go into batches."""

    async def answers(self) -> AsyncGenerator[Answer, None]:
        """Yield the answers that there are; put the other requests into batches."""
        try:
            for count, request in enumerate(self._requests):
                if count % 256 == 0:
                    await asyncio.sleep(0)  # lets Ctrl-C through
                answer = await self._next(request)
                if answer is not None:
                    yield answer
            await self._submit()
        finally:
            if self._made is not None:
                self._made.discard()
        self._ledger.sync()
        self._results.clear_up()
        if self._ceiling and not self._folder.under_way():
            self._caller.halt(self._caller.budget.reached(self._ceiling))

    async def _next(self, request: Request) -> Answer | None:
        """The answer to one request, if there is one that was not yielded yet."""
        step, key = request.step, request.key
        result = self._results.take(step, key)
        if (record := self._ledger.get(step, key)) is not None:
            if not self._with_known and key not in self._answered:
                return None
            self._caller.budget.tally(step).known += 1
            self._caller.has_answered(request.model)
            return from_record(request, record)
        if result is not None:
            answer = self._results.validate(request, result)
            if answer is not None:
                self._answered.add(key)
                return answer
        if self._caller.stopped is not None or self._results.is_given_up(step, key):
            return None
        if not self._live.repeat_failed:
            failure = given_up(self._ledger, request, self._settings)
            if failure is not None:
                self._caller.budget.tally(step).given_up += self._with_known
                return failure if self._with_known else None
        if key not in self._under_way and not self._full:
            if not self._caller.capabilities_of(request).proved and self._can_pay(request):
                return await self._ask_live(request)
            if not self._full:
                await self._put_into_batch(request)
        self.awaited += 1
        return None

    def _can_pay(self, request: Request) -> bool:
        """Whether the budget allows a live call; batches under way may release some of it later."""
        budget, capabilities = self._caller.budget, self._caller.capabilities_of(request)
        first = capabilities.first_prompt(request)
        self._ceiling = budget.exceeded(budget.worst(request, first, capabilities))
        self._full = bool(self._ceiling)
        return not self._full

    async def _ask_live(self, request: Request) -> Answer:
        answer = await self._live.ask(request)
        if not answer.ok:
            self._results.record_failure(answer)
        self._answered.add(request.key)
        return answer

    async def _put_into_batch(self, request: Request) -> None:
        """Add the request to the next batch, if there is room and budget."""
        budget, retry = self._caller.budget, self._results.attempt_at(request).retry
        capabilities = self._caller.capabilities_of(request)
        line = line_of(request.key, capabilities.body(request, retry))
        worst = budget.worst(request, retry, capabilities, self._settings.batch_price_factor)
        if self._made is not None and self._is_apart(self._made, request, line):
            await self._submit()
        tokens, reserved = tokens_of(line), worst
        if self._made is not None:
            tokens, reserved = tokens + self._made.tokens, worst + self._made.worst
        self._ceiling = budget.exceeded(reserved)
        if self._ceiling or not self._queue.has_room(tokens, begun=self._made is not None):
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
            or len(made.keys) >= self._settings.batch_requests
            or made.size + len(line) > MAX_INPUT_BYTES
        )

    async def _submit(self) -> None:
        if self._made is not None:
            made, self._made = self._made, None
            await self._queue.submit(made)
