"""Encode the histories of concurrent requests together, in micro-batches.

One batch runs at a time, on one thread, because there is one encoder. Texts that come meanwhile
make the next batch. An idle encoder waits a few milliseconds for more texts.

A batch takes one text of each request in turn until it is full, so a request with many or long
texts is spread over several batches, and others wait for one batch at most. Texts whose vectors
are in the cache wait for nothing.
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
from p4r_qdrant.encoder.cache import VectorCache
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
    """A request. rows: its vectors so far, by place; refused: why there is none.

    left: the places that are in no batch yet.
    """

    live: HasEncoder
    texts: Sequence[str]
    of_users: bool
    done: asyncio.Future[Floats] = field(repr=False)
    rows: dict[int, Floats] = field(repr=False)
    left: deque[int] = field(repr=False)
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
        cache: VectorCache | None = None,
    ) -> None:
        """cache: vectors of texts that were encoded before; None: each text is encoded."""
        self._metrics = metrics
        self._cache = cache or VectorCache(0)
        self._loaded: HasEncoder | None = None
        """The object whose encoder was used last: to ask for it takes no time."""
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
        rows: dict[int, Floats] = {}
        if live is self._loaded:
            found = self._cache.get(live.encoder, batch, of_users=of_users)
            rows = {place: row for place, row in enumerate(found) if row is not None}
        left = deque(place for place in range(len(batch)) if place not in rows)
        if left and self._texts_waiting and self._texts_waiting + len(left) > self._most:
            raise BusyError
        one = _Waiting(
            live, batch, of_users, asyncio.get_running_loop().create_future(), rows, left
        )
        if left:
            self._waiting.append(one)
            self._count(len(left))
            self._wake.set()
        else:
            one.finish()
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
                self._count(-len(one.left))
                continue
            size = len(one.texts[one.left[0]])
            if batch and (one.live is not batch[0][0].live or size > room):
                left.append(one)
                continue
            batch.append((one, one.left.popleft()))
            room -= size
            if one.left:
                self._waiting.append(one)
        self._waiting = left
        return batch

    async def _encode(self, batch: list[tuple[_Waiting, int]]) -> None:
        texts = [(one.of_users, one.texts[place]) for one, place in batch]
        distinct = {key: row for row, key in enumerate(dict.fromkeys(texts))}
        if not distinct:
            return
        self._metrics.batch_texts.observe(len(distinct))
        live = batch[0][0].live
        try:
            rows, refused = await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: _encoded(live.encoder, list(distinct), self._cache)
            )
            self._loaded = live
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
    encoder: Encoder, texts: Sequence[tuple[bool, str]], cache: VectorCache
) -> tuple[Floats, Mapping[int, str]]:
    """(n, dim) float32, and why there is no vector of some rows. The others go to the cache."""
    of_users = [row for row, (is_of_user, _) in enumerate(texts) if is_of_user]
    of_items = [row for row, (is_of_user, _) in enumerate(texts) if not is_of_user]
    inputs = [text for _, text in texts]
    for rows, read in ((of_users, encoder.query_inputs), (of_items, encoder.document_inputs)):
        for row, text in zip(rows, read([inputs[row] for row in rows]), strict=True):
            inputs[row] = text
    vectors, refused = encoded_where_possible(encoder.encode_texts, inputs)
    for rows, is_of_user in ((of_users, True), (of_items, False)):
        cache.put(encoder, [texts[row][1] for row in rows], vectors[rows], of_users=is_of_user)
    return vectors, refused
