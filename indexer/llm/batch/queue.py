"""The batches at the endpoint: each submitted once, looked at, fetched when it has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from indexer.artifacts.writing import storage_errors
from indexer.llm.batch.endpoint import BatchEndpoint, GoneError, State
from indexer.llm.batch.files import Batch, BatchFolder, BatchInput
from indexer.llm.budget import Budget
from indexer.llm.errors import LLMRefusedError
from indexer.llm.request import Usage
from indexer.llm.wire import MAX_RESPONSE_BYTES
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_CROWDED = "token_limit_exceeded"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far one batch is, for people."""

    batch_id: str
    step: str
    status: str
    requests: int
    answered: int
    failed: int

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in _ENDED


class Send(Protocol):
    """One exchange about a step, sent again and again as long as it may help."""

    async def __call__(  # noqa: D102
        self, step: str, send: Callable[[], Awaitable[_T]]
    ) -> _T: ...


class BatchQueue:
    """`halt` is told what makes more of the same pointless; `watch` sees every batch looked at.

    Raises InputError where batches are under way at another endpoint.
    """

    def __init__(
        self,
        settings: LLMSettings,
        folder: BatchFolder,
        endpoint: BatchEndpoint,
        budget: Budget,
        *,
        send: Send,
        halt: Callable[[Exception], object],
        watch: Callable[[BatchProgress], None],
        campaign: str,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._endpoint = endpoint
        self._budget = budget
        self._send = send
        self._halt = halt
        self._watch = watch
        self._campaign = campaign
        self._ended_at: dict[str, float] = {}
        self._crowded = False
        """The endpoint takes no more before a batch has ended."""
        for batch in folder.under_way():
            if batch.url != settings.base_url:
                raise InputError(
                    f"batches are under way at {batch.url}: set P4R_LLM__BASE_URL to it and "
                    f"collect them, or remove {folder.path} to give them up"
                )
            budget.reserve(self._worst(batch))

    def has_room(self, tokens: int, *, begun: bool) -> bool:
        """Whether so many tokens more may be under way, in a batch that is `begun` or a new one."""
        waiting = self._folder.under_way()
        limit = self._settings.batch_tokens
        there = sum(batch.tokens for batch in waiting)
        if limit is not None and there + tokens > limit and (waiting or begun):
            return False
        return len(waiting) < self._settings.batch_concurrency and not (self._crowded and waiting)

    async def submit(self, made: BatchInput) -> None:
        """Upload and create. From the moment a batch may exist it is written down."""
        made.close()
        path = made.path
        file_id = await self._send(made.step, lambda: self._endpoint.upload(path))
        batch = Batch(
            name=made.name,
            url=self._settings.base_url,
            campaign=self._campaign,
            step=made.step,
            requests=len(made.keys),
            tokens=made.tokens,
            prompt_tokens=made.worst.prompt_tokens,
            completion_tokens=made.worst.completion_tokens,
            file_id=file_id,
        )
        self._budget.reserve(self._worst(batch))
        self._folder.save(batch)
        await self._create(batch, maybe_there=False)

    async def look(self) -> bool:
        """Ask how all batches stand, and fetch what has ended; whether one has."""
        some_ended = False
        for known in self._folder.under_way():
            batch = known if known.batch_id else await self._create(known, maybe_there=True)
            state = await self._state(batch)
            self._watch(
                BatchProgress(
                    batch.batch_id or "",
                    batch.step,
                    state.status,
                    batch.requests,
                    state.answered,
                    state.failed,
                )
            )
            if state.status in _ENDED and not self._may_still_come(batch, state):
                await self._end(batch, state, first=not some_ended)
                some_ended = True
        return some_ended

    async def _create(self, batch: Batch, *, maybe_there: bool) -> Batch:
        """Create the batch, unless it was: after a failure nobody knows without looking."""
        path = self._folder.input(batch.name)

        async def create_or_find() -> str:
            nonlocal maybe_there
            if maybe_there and (found := await self._endpoint.find(batch.name, batch.file_id)):
                return found
            maybe_there = True
            try:
                return await self._endpoint.create(batch.file_id, batch.name, path)
            except LLMRefusedError:  # a plain no: there is none
                self._forget(batch)
                raise

        batch_id = await self._send(batch.step, create_or_find)
        batch = batch.model_copy(update={"batch_id": batch_id})
        self._folder.save(batch)
        self._watch(BatchProgress(batch_id, batch.step, "submitted", batch.requests, 0, 0))
        return batch

    async def _state(self, batch: Batch) -> State:
        batch_id, path = batch.batch_id or "", self._folder.input(batch.name)
        try:
            return await self._send(batch.step, lambda: self._endpoint.look(batch_id, path))
        except GoneError:
            raise LLMRefusedError(
                f"{batch.url} does not know batch {batch_id}: use the key it was made with, or "
                f"remove {self._folder.path} to give it up"
            ) from None

    def _may_still_come(self, batch: Batch, state: State) -> bool:
        """Whether results that are missing may turn up a little later."""
        since = self._ended_at.setdefault(batch.name, time.monotonic())
        return state.lacks_results and time.monotonic() - since < self._settings.retry_for_s

    async def _end(self, batch: Batch, state: State, *, first: bool) -> None:
        """Fetch what there is; halt where more of the same would fare no better.

        `first`: no other batch has ended, and made room, since they were looked at last.
        """
        if state.status == "failed":
            self._forget(batch)
            self._crowded = state.code == _CROWDED
            if not self._crowded:
                self._refuse(f"the endpoint refused batch {batch.batch_id}: {state.why}")
            elif first and not self._folder.under_way():
                self._refuse(
                    f"the endpoint has no room for batch {batch.batch_id}, set "
                    f"P4R_LLM__BATCH_TOKENS below its limit: {state.why}"
                )
            return
        self._crowded = False
        try:
            await self._fetch(batch, state)
        except GoneError:
            self._forget(batch)
            self._refuse(
                f"the results of batch {batch.batch_id} are gone from the endpoint; run again to "
                f"ask its {batch.requests:,} requests, and pay for them, anew"
            )
            return
        self._folder.save(batch.model_copy(update={"ended": state.status}))
        self._budget.release(self._worst(batch))
        if state.status == "cancelled":
            self._refuse(
                f"batch {batch.batch_id} was cancelled at the endpoint; what it has answered is "
                "kept, run again to submit the rest"
            )
        elif state.status == "expired" and not state.answered:
            self._refuse(
                f"batch {batch.batch_id} expired before any of its requests was answered; run "
                "again to submit them anew, or without --batch"
            )

    async def _fetch(self, batch: Batch, state: State) -> None:
        if state.lacks_results:
            raise GoneError("no results")
        path = self._folder.results(batch.name)
        with storage_errors(path), path.open("wb") as file:
            for file_id in filter(None, (state.output, state.errors)):
                start = file.tell()

                async def fetch(file_id: str = file_id, start: int = start) -> None:
                    file.seek(start)
                    file.truncate()
                    await self._endpoint.fetch(file_id, file, batch.requests * MAX_RESPONSE_BYTES)

                await self._send(batch.step, fetch)
            file.flush()
            os.fsync(file.fileno())

    def _forget(self, batch: Batch) -> None:
        self._folder.forget(batch)
        self._budget.release(self._worst(batch))

    def _worst(self, batch: Batch) -> Usage:
        """What is kept back for it, at the prices of this run."""
        tokens = batch.prompt_tokens, batch.completion_tokens
        cost = self._settings.of(batch.step).cost(*tokens)
        factor = self._settings.batch_price_factor
        return Usage(0, *tokens, None if cost is None else cost * factor)

    def _refuse(self, sentence: str) -> None:
        self._halt(LLMRefusedError(sentence))
