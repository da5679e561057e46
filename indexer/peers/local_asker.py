"""Answers the questions of letters and pointwise by a local model, many at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from indexer.ledger import Ledger
from indexer.llm import TOO_LONG, Answer, Request, Usage
from indexer.llm.request import from_record, to_record
from indexer.peers.local import LocalModel, Messages
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import LLMSettings

GATHER_S = 0.005
"""Seconds in which further requests join a batch."""


@dataclass(frozen=True)
class _Waiting:
    request: Request
    tokens: list[int]
    future: asyncio.Future[Answer]


class LocalAsker:
    """An asker for peers. Answers are kept in the ledger; they cost time, and nothing else.

    It gives probabilities and writes no text: peers that need written answers get an InputError.
    """

    def __init__(self, model: LocalModel, ledger: Ledger) -> None:
        self._model = model
        self._ledger = ledger
        self._waiting: list[_Waiting] = []
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, request: Request, assumed: Any) -> Answer:  # noqa: ARG002
        """The log-probabilities of the options at the first token of the answer."""
        if request.options is None or request.options.after:
            raise InputError(
                f"{request.step} needs written answers, and a local model gives probabilities: "
                "choose letters, pointwise, or ratings with reasoning=false, or an endpoint"
            )
        if (record := self._ledger.get(request.step, request.key)) is not None:
            return from_record(request, record)
        tokens = self._model.tokens(Messages(request.system, request.user))
        if len(tokens) > self._model.longest:
            problem = f"{TOO_LONG}: {len(tokens)} tokens of {self._model.longest}"
            return Answer(request, None, Usage(), (problem,))
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, tokens, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            batch, self._waiting = self._waiting, []
            try:
                answers = await asyncio.to_thread(self._answers, batch)
            except Exception as error:
                for one in batch:
                    if not one.future.done():
                        one.future.set_exception(error)
                continue
            for one, answer in zip(batch, answers, strict=True):
                if not one.future.done():
                    one.future.set_result(answer)

    def _answers(self, batch: list[_Waiting]) -> list[Answer]:
        found: dict[int, Answer] = {}
        kinds = {one.request.options: None for one in batch}
        for options in kinds:
            places = [at for at, one in enumerate(batch) if one.request.options == options]
            assert options is not None  # noqa: S101 - checked when they came
            scores = self._model.option_logprobs([batch[at].tokens for at in places], options)
            for at, own in zip(places, scores, strict=True):
                found[at] = self._kept(batch[at], own)
        return [found[at] for at in range(len(batch))]

    def _kept(self, one: _Waiting, scores: dict[str, float]) -> Answer:
        value = {"text": max(scores, key=scores.__getitem__), "options": scores}
        answer = Answer(one.request, value, Usage(1, len(one.tokens), 1, 0.0))
        record = to_record(answer, LLMSettings(model=self._model.name))
        self._ledger.put(one.request.step, one.request.key, record)
        return answer


def local_settings(model: LocalModel) -> LLMSettings:
    """Settings whose model is this one, so that the ledger tells its answers apart."""
    return LLMSettings(model=model.name, price_input=0.0, price_output=0.0)
