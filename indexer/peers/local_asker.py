"""Answers the questions of peers by a local model, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from indexer.ledger import Ledger
from indexer.llm import TOO_LONG, Answer, Request, Usage, given_up
from indexer.llm.answers import read_answer
from indexer.llm.request import from_record, to_record
from indexer.llm.wire import Completion
from indexer.peers.generation import written
from indexer.peers.held_orders import written_orders
from indexer.peers.local import BATCH_TOKENS, LocalModel, Messages, by_length
from p4r_qdrant.records import clean_text
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

    Where a question is about the first token alone, one forward pass answers it; other answers are
    written, the most probable token at each place, of those that the form of an order allows. A
    question that has failed is not asked again: the same model fails again. repeat_failed: ask it
    all the same.
    """

    def __init__(self, model: LocalModel, ledger: Ledger, *, repeat_failed: bool = False) -> None:
        self._model = model
        self._ledger = ledger
        self._settings = local_settings(model)
        self._repeat_failed = repeat_failed
        self._waiting: list[_Waiting] = []
        self._open: dict[str, asyncio.Future[Answer]] = {}
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, request: Request, assumed: Any) -> Answer:  # noqa: ARG002
        """The model's answer, or what is wrong with it."""
        if (record := self._ledger.get(request.step, request.key)) is not None:
            return from_record(request, record)
        if not self._repeat_failed and (failure := given_up(self._ledger, request, self._settings)):
            return failure
        if (same := self._open.get(request.key)) is not None:
            return await asyncio.shield(same)
        tokens = self._model.tokens(Messages(request.system, request.user))
        if len(tokens) + _room(request) > self._model.longest:
            problem = f"{TOO_LONG}: {len(tokens)} tokens of {self._model.longest}"
            return Answer(request, None, Usage(), (problem,))
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[request.key] = future
        future.add_done_callback(lambda _: self._open.pop(request.key, None))
        self._waiting.append(_Waiting(request, tokens, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await asyncio.shield(future)

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            every, self._waiting = self._waiting, []
            for batch in _batches(every):
                try:
                    answers = await asyncio.to_thread(self._answers, batch)
                except Exception as error:
                    for one in batch:
                        one.future.set_exception(error)
                    continue
                for one, answer in zip(batch, answers, strict=True):
                    one.future.set_result(answer)

    def _answers(self, batch: list[_Waiting]) -> list[Answer]:
        """The answers to questions of one kind; each is in the ledger."""
        prompts, request = [one.tokens for one in batch], batch[0].request
        options = request.options
        if options is not None and not options.after:
            scores = self._model.option_logprobs(prompts, options)
            return [self._chosen(one, own) for one, own in zip(batch, scores, strict=True)]
        if request.numbers is not None:
            found = written_orders(self._model, prompts, request.numbers)
        else:
            alternatives = options.alternatives if options else 0
            found = written(self._model, prompts, request.max_tokens, alternatives)
        return [self._read(one, own) for one, own in zip(batch, found, strict=True)]

    def _chosen(self, one: _Waiting, scores: dict[str, float]) -> Answer:
        value = {"text": max(scores, key=scores.__getitem__), "options": scores}
        return self._kept(Answer(one.request, value, Usage(1, len(one.tokens), 1, 0.0)))

    def _read(self, one: _Waiting, completion: Completion) -> Answer:
        """The answer in a text, read as an endpoint's is."""
        value, problem = read_answer(one.request, completion)
        asked, wrote = completion.tokens or (0, 0)
        if problem and completion.cut_off:
            problem = f"the answer was cut off after {wrote} tokens"
        return self._kept(
            Answer(
                one.request,
                value if not problem else None,
                Usage(1, asked, wrote, 0.0),
                (problem,) if problem else (),
                completion=clean_text(completion.text) if problem else "",
                finish_reason=completion.finish_reason,
                final=bool(problem),
            )
        )

    def _kept(self, answer: Answer) -> Answer:
        request = answer.request
        record = to_record(answer, self._settings)
        self._ledger.put(request.step, request.key, record, ok=answer.ok)
        return answer


def _room(request: Request) -> int:
    """The tokens that the answer may need."""
    at_once = request.options is not None and not request.options.after
    return 1 if at_once else request.max_tokens


def _batches(every: list[_Waiting]) -> Iterator[list[_Waiting]]:
    """Batches of one kind each, alike in length, so that one pass is not too large."""
    kinds: dict[Any, list[_Waiting]] = {}
    for one in every:
        kind = (one.request.options, one.request.numbers, _room(one.request))
        kinds.setdefault(kind, []).append(one)
    for (*_, room), own in kinds.items():
        for places in by_length([len(one.tokens) + room for one in own], BATCH_TOKENS):
            yield [own[at] for at in places]


def local_settings(model: LocalModel, language: str | None = None) -> LLMSettings:
    """Settings whose model is this one, so that the ledger tells its answers apart."""
    return LLMSettings(model=model.name, price_input=0.0, price_output=0.0, language=language)
