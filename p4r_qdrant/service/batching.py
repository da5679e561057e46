"""Encode the histories of concurrent requests together, in micro-batches.

One batch runs at a time, on one thread, because there is one encoder. Texts that come meanwhile
make the next batch. An idle encoder waits a few milliseconds for more texts.

A batch takes one text of each request in turn until it is full, so a request with many or long
texts is spread over several batches, and others wait for one batch at most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.salvage import encoded_where_possible
from p4r_qdrant.errors import TextsRefusedError
from p4r_qdrant.service.metrics import Metrics

BATCH_CHARACTERS = 20_000
"""Characters of one batch: long texts must not delay many short ones."""


class BusyError(Exception):
    """Too many texts are waiting."""


class HasEncoder(Protocol):
    """An object with an encoder: `service.live.Live`."""

    @property
    def encoder(self) -> Encoder:
        """The encoder. The first access can take long, and can raise."""


@dataclass(slots=True)
class _Waiting:
    """A request. rows: its vectors so far, by place; refused: why there is none."""

    live: HasEncoder
    texts: Sequence[str]
    of_users: bool
    done: asyncio.Future[Floats] = field(repr=False)
    taken: int = 0
    rows: dict[int, Floats] = field(default_factory=dict, repr=False)
    refused: dict[int, str] = field(default_factory=dict)

    def finish(self) -> None:
        """Give the request its vectors, if all are there."""
        if self.done.done() or len(self.rows) < len(self.texts):
            return
        rows = np.stack([self.rows[place] for place in range(len(self.texts))])
        if self.refused:
            self.done.set_exception(TextsRefusedError(self.texts, self.refused, rows))
        else:
            self.done.set_result(rows)


class Batcher:
    """Encodes the texts of many requests, batch by batch. Use it on one event loop.

    A batch has one encoder. If it raises, all requests of the batch get the error; if it refuses
    single texts, only their requests do. What is left of a request that has ended is dropped.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        window_s: float,
        max_waiting_texts: int,
    ) -> None:
        self._metrics = metrics
        self._window_s = window_s
        self._most = max_waiting_texts
        self._waiting: deque[_Waiting] = deque()
        self._texts_waiting = 0
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="p4r-encode")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start; needs a running event loop."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop, and cancel requests that still wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for one in self._waiting:
            one.done.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def encode(self, live: HasEncoder, batch: Sequence[str], *, of_users: bool) -> Floats:
        """(n, dim) float32, L2-normalised. Raises BusyError, and what the encoder raises.

        of_users: they are texts of histories, not of personas.
        """
        if self._texts_waiting and self._texts_waiting + len(batch) > self._most:
            raise BusyError
        one = _Waiting(live, batch, of_users, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._count(len(batch))
        self._wake.set()
        return await one.done

    def _count(self, change: int) -> None:
        self._texts_waiting += change
        self._metrics.waiting_texts.set(self._texts_waiting)

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._window_s)
            while self._waiting:
                await self._encode(self._take())
            self._wake.clear()

    def _take(self) -> list[tuple[_Waiting, int]]:
        """The next batch: texts of one encoder, one of each request in turn, as places in it."""
        batch: list[tuple[_Waiting, int]] = []
        left: deque[_Waiting] = deque()
        room = BATCH_CHARACTERS
        while self._waiting:
            one = self._waiting.popleft()
            if one.done.done():  # its request has ended
                self._count(one.taken - len(one.texts))
                continue
            size = len(one.texts[one.taken])
            if batch and (one.live is not batch[0][0].live or size > room):
                left.append(one)
                continue
            batch.append((one, one.taken))
            room -= size
            one.taken += 1
            if one.taken < len(one.texts):
                self._waiting.append(one)
        self._waiting = left
        return batch

    async def _encode(self, batch: list[tuple[_Waiting, int]]) -> None:
        texts = [(one.of_users, one.texts[place]) for one, place in batch]
        distinct = {key: row for row, key in enumerate(dict.fromkeys(texts))}
        if not distinct:
            return
        self._metrics.batch_texts.observe(len(distinct))
        try:
            rows, refused = await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: _encoded(batch[0][0].live.encoder, list(distinct))
            )
        except Exception as error:  # all requests of the batch get it
            for one, _ in batch:
                if not one.done.done():
                    one.done.set_exception(error)
        else:
            for (one, place), key in zip(batch, texts, strict=True):
                row = distinct[key]
                one.rows[place] = rows[row]
                if row in refused:
                    one.refused[place] = refused[row]
                one.finish()
        finally:
            self._count(-len(batch))


def _encoded(
    encoder: Encoder, texts: Sequence[tuple[bool, str]]
) -> tuple[Floats, Mapping[int, str]]:
    """(n, dim) float32, and why there is no vector of some rows."""
    queries = encoder.query_inputs([text for of_users, text in texts if of_users])
    documents = encoder.document_inputs([text for of_users, text in texts if not of_users])
    left = {True: iter(queries), False: iter(documents)}
    inputs = [next(left[of_users]) for of_users, _ in texts]
    return encoded_where_possible(encoder.encode_texts, inputs)
