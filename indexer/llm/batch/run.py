"""Requests to answers through the OpenAI Batch API: half the price, within a day.

    async with BatchLLM(settings.llm, ledger) as llm, aclosing(llm.run(requests)) as answers: ...

Requests, keys, validation and ledger are those of live calls (`indexer/llm/live.py`). A run goes
through all its requests in a pass (`passes.py`), and again whenever a batch has ended, until all
requests are answered. All state is on disk, in the ledger and in its folder of batches
(`files.py`): a run that was killed, or that did not wait, continues with another pass. Memory
holds keys, never texts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable

from indexer.ledger import Ledger
from indexer.llm.answers import Attempt
from indexer.llm.batch.endpoint import BatchEndpoint
from indexer.llm.batch.files import BatchFolder
from indexer.llm.batch.passes import Pass
from indexer.llm.batch.queue import BatchProgress, BatchQueue
from indexer.llm.batch.results import Results, attempt_at
from indexer.llm.errors import BatchesUnderWay
from indexer.llm.live import LLM
from indexer.llm.request import Answer, Request
from p4r_qdrant.settings import LLMSettings


class BatchLLM(LLM):
    """An LLM whose `run` uses batches; `ask` is one live call, at the full price.

    Without `wait` a run submits what it can and raises BatchesUnderWay. `watch` is called with
    each batch whenever its state was read. Raises InputError if batches are under way at another
    endpoint.
    """

    def __init__(
        self,
        settings: LLMSettings,
        ledger: Ledger,
        *,
        repeat_failed: bool = True,
        wait: bool = True,
        watch: Callable[[BatchProgress], None] = lambda _: None,
    ) -> None:
        super().__init__(settings, ledger, repeat_failed=repeat_failed)
        self.price_factor = settings.batch_price_factor
        self._wait = wait
        self._folder = BatchFolder(ledger.folder)
        self._folder.tidy()
        self._batch_endpoint = BatchEndpoint(self._caller.endpoint, settings)
        self._queue = BatchQueue(settings, self._folder, self._batch_endpoint, self._caller, watch)

    async def __aexit__(self, *exception: object) -> None:
        await self._batch_endpoint.close()
        await super().__aexit__(*exception)

    def under_way(self) -> Collection[str]:
        """The keys of requests that are paid for and not in the ledger yet."""
        return self._folder.waiting()

    async def run(
        self, requests: Iterable[Request] | AsyncIterable[Request]
    ) -> AsyncGenerator[Answer, None]:
        """Yield one answer for each request, in the order in which they come.

        `requests` are iterated more than once (a list, or `Requests`) and must not change.

        Raises what LLM.run raises, and BatchesUnderWay. All answers are kept and batches under way
        continue at the endpoint: run again to continue.
        """
        if isinstance(requests, AsyncIterable) or iter(requests) is requests:
            raise TypeError("requests are iterated more than once: pass a list, or Requests")
        first = True
        while True:
            await self._queue.look()
            results = Results(self._settings, self._ledger, self._folder, self._caller)
            one = Pass(requests, results, self._queue, self, with_known=first)
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
                await self._caller.pause(self._settings.batch_poll_s)

    def _attempt_at(self, request: Request) -> Attempt:
        return attempt_at(request, self._ledger, self._caller)
