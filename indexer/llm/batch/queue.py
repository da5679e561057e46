"""The batches at the endpoint: submit each once, read its state, fetch its results."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from indexer.artifacts.writing import storage_errors
from indexer.llm.batch.endpoint import BatchEndpoint, GoneError, State
from indexer.llm.batch.files import Batch, BatchFolder, BatchInput
from indexer.llm.caller import Caller
from indexer.llm.errors import EndpointDownError, LLMRefusedError, TransientError
from indexer.llm.request import Usage
from indexer.llm.wire import MAX_RESPONSE_BYTES
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings
from p4r_qdrant.whole_files import opened_privately

_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_CROWDED = "token_limit_exceeded"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far one batch is, for display."""

    batch_id: str
    step: str
    status: str
    requests: int
    answered: int
    failed: int

    @property
    def has_ended(self) -> bool:
        """Whether it brings no more answers."""
        return self.status in _ENDED


class BatchQueue:
    """The batches of one run. `watch` is called with each batch whenever its state was read.

    Stops the run (`caller.halt`) if the next batch would fail as well. Raises InputError if
    batches are under way at another endpoint.
    """

    def __init__(
        self,
        settings: LLMSettings,
        folder: BatchFolder,
        endpoint: BatchEndpoint,
        caller: Caller,
        watch: Callable[[BatchProgress], None],
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._endpoint = endpoint
        self._caller = caller
        self._budget = caller.budget
        self._watch = watch
        self._ended_at: dict[str, float] = {}
        self._crowded = False
        """The endpoint accepts no more before a batch has ended."""
        for batch in folder.under_way():
            if batch.url != settings.base_url:
                raise InputError(
                    f"batches are under way at {batch.url}: set P4R_LLM__BASE_URL to it and "
                    f"collect them, or remove {folder.path} to give them up"
                )
            self._budget.reserve(self._worst(batch))

    def has_room(self, tokens: int, *, begun: bool) -> bool:
        """Whether so many more tokens may be under way, in a new batch or a `begun` one."""
        waiting = self._folder.under_way()
        limit = self._settings.batch_tokens
        there = sum(batch.tokens for batch in waiting)
        if limit is not None and there + tokens > limit and (waiting or begun):
            return False
        return len(waiting) < self._settings.batch_concurrency and not (self._crowded and waiting)

    async def submit(self, made: BatchInput) -> None:
        """Upload and create a batch. It is recorded before it can exist at the endpoint."""
        made.close()
        path = made.path
        file_id = await self._send(made.step, lambda: self._endpoint.upload(path))
        batch = Batch(
            name=made.name,
            url=self._settings.base_url,
            campaign=self._folder.campaign,
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
        """Read the state of all batches and fetch those that have ended; True if one has."""
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
        """Create the batch unless it exists; after a failed creation only a search can tell."""
        path = self._folder.input(batch.name)

        async def create_or_find() -> str:
            nonlocal maybe_there
            if maybe_there and (found := await self._endpoint.find(batch.name, batch.file_id)):
                return found
            maybe_there = True
            try:
                return await self._endpoint.create(batch.file_id, batch.name, path)
            except LLMRefusedError:  # refused: it does not exist
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
                f"{batch.url} does not know batch {batch_id}: use the key it was created with, or "
                f"remove {self._folder.path} to give it up"
            ) from None

    def _may_still_come(self, batch: Batch, state: State) -> bool:
        """Whether missing results may appear a little later."""
        since = self._ended_at.setdefault(batch.name, time.monotonic())
        return state.lacks_results and time.monotonic() - since < self._settings.retry_for_s

    async def _end(self, batch: Batch, state: State, *, first: bool) -> None:
        """Fetch the results; stop the run if the next batch would fail as well.

        `first`: no other batch has ended, and made room, in this look.
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
                f"the endpoint has deleted the results of batch {batch.batch_id}; run again to ask "
                f"its {batch.requests:,} requests, and to pay for them, once more"
            )
            return
        self._folder.save(batch.model_copy(update={"ended": state.status}))
        self._budget.release(self._worst(batch))
        if state.status == "cancelled":
            self._refuse(
                f"batch {batch.batch_id} was cancelled at the endpoint; its answers are kept, run "
                "again to submit the rest"
            )
        elif state.status == "expired" and not state.answered:
            self._refuse(
                f"batch {batch.batch_id} expired without any answer; run again to submit its "
                "requests once more, or run without --batch"
            )

    async def _fetch(self, batch: Batch, state: State) -> None:
        if state.lacks_results:
            raise GoneError("no results")
        path = self._folder.results(batch.name)
        with storage_errors(path), opened_privately(path, "wb") as file:
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
        """What is reserved for a batch, at the prices of this run."""
        tokens = batch.prompt_tokens, batch.completion_tokens
        cost = self._settings.of(batch.step).cost(*tokens)
        factor = self._settings.batch_price_factor
        return Usage(0, *tokens, None if cost is None else cost * factor)

    def _refuse(self, sentence: str) -> None:
        self._caller.halt(LLMRefusedError(sentence))

    async def _send(self, step: str, send: Callable[[], Awaitable[_T]]) -> _T:
        """One exchange, with retries; an error that they do not help stops the run."""
        try:
            done = await self._caller.with_retries(step, send)
        except GoneError:
            raise
        except TransientError as error:
            down = EndpointDownError(
                f"{self._settings.base_url} does not answer ({error}); all answers are kept and "
                "batches under way continue: run again when it is up"
            )
            self._caller.halt(down)
            raise down from None
        except LLMRefusedError as error:
            self._caller.halt(error)
            raise
        self._caller.served = True
        return done
