"""The questions of one step in one run: each built and rendered once, where memory allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from indexer.artifacts.lines import Refusals
from indexer.llm import Request
from indexer.reasoning.step import Question, Step

HELD_CHARACTERS = 16_000_000
"""Prompt text that is kept in memory between the passes of a run."""
QUESTION_CHARACTERS = 2_000
"""What a question counts beside its prompts: the record that it is about."""


class Questions:
    """The questions of a step; iterate as often as needed: to estimate, to ask, to write.

    Up to `HELD_CHARACTERS` of prompt text the questions are kept: each is built once and each
    prompt is rendered once. A larger catalogue is streamed anew in each pass, so that memory stays
    flat. Then only the ledger key of each request is kept (about 200 bytes): no pass renders a
    prompt again, except to send it.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        step.keys = {}
        self._held: list[Question] | None = None
        self._left_out: Counter[str] = Counter()
        self._room = HELD_CHARACTERS if step.asks else 0

    def __iter__(self) -> Iterator[Question]:
        self.step.left_out.clear()
        if self._held is None:
            return self._build()
        self.step.left_out.update(self._left_out)
        return iter(self._held)

    def requests(self) -> Iterator[Request]:
        """All requests, in input order."""
        for question in self:
            yield from question.requests

    def _build(self) -> Iterator[Question]:
        held: list[Question] = []
        room = self._room
        for question in self.step.questions():
            if room > 0:
                held.append(question)
                room -= QUESTION_CHARACTERS
                room -= sum(len(one.system) + len(one.user) for one in question.requests)
                if room <= 0:
                    held.clear()
                    self._room = 0
            yield question
        self.step.refusals = Refusals()  # broken input is reported once, not in each pass
        if room > 0:
            self._held = held
            self._left_out = Counter(self.step.left_out)
