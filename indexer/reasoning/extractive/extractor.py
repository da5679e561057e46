"""Answers the requests of the extractive steps with an encoder: slots and groups of sentences."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from indexer.ledger import Ledger
from indexer.llm import Answer, Request, Tally, Usage
from indexer.reasoning.extractive.grouping import MOST_GROUPED, groups, nearest_slots
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.salvage import encoded_where_possible
from p4r_qdrant.index.batching import batches

METHOD = "extractive 1"
"""Named in each request: another method gives other answers."""
ITEMS_AT_ONCE = 16
"""Requests whose sentences are encoded together, so that texts of one length share a batch."""
SENTENCES_AT_ONCE = 4_096
"""Sentences of one item whose vectors are in memory at once."""
SYNC_EVERY_S = 1.0
NO_SLOT = -1
"""The slot of a sentence that the encoder refuses."""

Positions = npt.NDArray[np.int64]

_grouping = threading.Lock()
"""Grouping runs on one thread: on several, k-means of a few sentences takes ten times as long. The
limit is one of the process, so that it must not be set twice at a time."""


@dataclass(frozen=True)
class Extraction:
    """How reviews are read.

    slots: what each aspect slot is about. encoder: the fingerprint of the encoder.
    """

    slots: tuple[str, ...]
    encoder: str
    seed: int = 0

    def request(
        self,
        step: str,
        reviews: Sequence[Sequence[str]],
        about: Mapping[str, str],
        *,
        grouped: bool = True,
    ) -> Request:
        """The request to read reviews of one item, each given as its sentences.

        The answer is {"slots": the position of the slot of each sentence, "groups": the groups of
        `grouping.groups`, none unless `grouped`}. The sentences of all reviews are numbered
        through, from 0.
        """
        asked = {"slots": self.slots, "reviews": reviews, "grouped": grouped, "seed": self.seed}
        user = json.dumps(asked, ensure_ascii=False)
        return Request(step, system=METHOD, user=user, schema={}, model=self.encoder, about=about)


class Extractor:
    """An encoder and a ledger; an async context manager, as an LLM is.

    The same requests in the same order make the same answers, to the last bit, also if the run is
    killed and started again: a batch in which an answer is missing is encoded as a whole.
    """

    price_factor = 0.0
    repeat_failed = True

    def __init__(self, encoder: Encoder, ledger: Ledger) -> None:
        self._encoder = encoder
        self._ledger = ledger
        self._slots: dict[tuple[str, ...], Floats] = {}
        self._threads = ThreadpoolController()
        self._synced_at = time.monotonic()
        self.tallies: dict[str, Tally] = {}

    def under_way(self) -> Collection[str]:
        """Nothing is ever paid for."""
        return ()

    async def run(self, requests: Iterable[Request]) -> AsyncGenerator[Answer, None]:
        """Yield one answer for each request, in their order."""
        with self._encoder.on_all_devices():
            for batch in batches(requests, ITEMS_AT_ONCE):
                for answer in await asyncio.to_thread(self._answers, batch):
                    yield answer
        await asyncio.to_thread(self._ledger.sync)

    async def ask(self, request: Request) -> Answer:
        """The answer to one request."""
        [answer] = await asyncio.to_thread(self._answers, [request])
        return answer

    def _answers(self, batch: Sequence[Request]) -> list[Answer]:
        held = [self._ledger.get(one.step, one.key) for one in batch]
        values = [one["answer"] for one in held if one is not None]
        if len(values) < len(batch):
            values = self._read([json.loads(one.user) for one in batch])
        for one, value, known in zip(batch, values, held, strict=True):
            tally = self.tallies.setdefault(one.step, Tally())
            tally.known += known is not None
            tally.answered += known is None
            record = {"about": dict(one.about), "answer": value, "model": one.model}
            self._ledger.put(one.step, one.key, record)  # ignored if it is known
        if time.monotonic() - self._synced_at >= SYNC_EVERY_S:
            self._ledger.sync()
            self._synced_at = time.monotonic()
        return [
            Answer(one, value, Usage(), known=known is not None)
            for one, value, known in zip(batch, values, held, strict=True)
        ]

    def _read(self, batch: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The values of the answers to several requests, which have the same slots."""
        [slots] = {tuple(one["slots"]) for one in batch}
        texts = [[text for review in one["reviews"] for text in review] for one in batch]
        starts = np.cumsum([0, *map(len, texts)])
        kept = [_evenly(len(own)) for own in texts]
        near, vectors = self._encoded(
            list(chain.from_iterable(texts)),
            slots,
            np.concatenate([start + own for start, own in zip(starts, kept, strict=False)]),
        )
        ends = np.cumsum([len(own) for own in kept])
        with _grouping, self._threads.limit(limits=1):
            return [
                _value(one, near[start:end], own, known)
                for one, start, end, own, known in zip(
                    batch, starts, starts[1:], kept, np.split(vectors, ends[:-1]), strict=False
                )
            ]

    def _encoded(
        self, texts: Sequence[str], slots: tuple[str, ...], kept: Positions
    ) -> tuple[list[int], Floats]:
        """The nearest slot of each text, and the vectors of the `kept` ones, (n_kept, dim)."""
        if slots not in self._slots:
            self._slots[slots] = self._encoder.encode_documents(slots)
        near: list[int] = []
        vectors = [np.zeros((0, self._encoder.dimension), dtype=np.float32)]
        for start in range(0, len(texts), SENTENCES_AT_ONCE):
            some = texts[start : start + SENTENCES_AT_ONCE]
            found, refused = encoded_where_possible(self._encoder.encode_documents, some)
            own = nearest_slots(found, self._slots[slots])
            near += [NO_SLOT if row in refused else slot for row, slot in enumerate(own)]
            vectors.append(found[kept[(start <= kept) & (kept < start + len(some))] - start])
        return near, np.concatenate(vectors)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ledger.sync()


def _value(
    asked: Mapping[str, Any], slots: list[int], numbers: Positions, vectors: Floats
) -> dict[str, Any]:
    """The value of an answer; vectors: (n, dim), those of the sentences with these numbers."""
    usable = np.isfinite(vectors).all(axis=1)
    found = groups(vectors[usable], asked["seed"]) if asked["grouped"] else []
    numbers = numbers[usable]
    return {"slots": slots, "groups": [numbers[own].tolist() for own in found]}


def _evenly(count: int) -> Positions:
    """At most `MOST_GROUPED` positions of `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_GROUPED)).round()).astype(np.int64)
