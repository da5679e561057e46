"""The protocol of all peers: a query in, a whole order of its candidates out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from indexer.llm import TOO_LONG, Answer, Request, Usage
from indexer.reasoning.failures import kind_of, reason_of
from p4r_qdrant.records import Interaction


@dataclass(frozen=True, slots=True)
class PeerCandidate:
    """A candidate with its texts; `score` is the generator's."""

    item_id: str
    title: str = ""
    text: str = ""
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PeerQuery:
    """One user and the candidates to order.

    history: without anything held out, newest first. candidates: in the generator's order, none
    twice. top: only so many places need to be right; None: all.
    """

    user_id: str
    history: tuple[Interaction, ...]
    candidates: tuple[PeerCandidate, ...]
    top: int | None = None


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """A peer's order of all candidates, as item ids.

    scores, explanations: by item id, where there are any. usage: of all calls that the query needs,
    also of those whose answers the ledger held. requests: questions; retries do not count.
    repaired: what had to be put right in answers (missing, repeated and unknown candidates).
    failed: requests without a usable answer; where they decide, candidates keep the generator's
    order. notes: what was left out or cut, counted.
    """

    order: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    explanations: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    repaired: int = 0
    failed: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)


class Asker(Protocol):
    """Answers one request; `assumed` is the answer that a dry run takes in its place."""

    async def __call__(self, request: Request, assumed: Any) -> Answer:
        """The answer, or the failure. Raises what stops a run."""


class Peer(ABC):
    """A reranker. `name` is its name in files and tables."""

    name: ClassVar[str]
    needs_logprobs: ClassVar[bool] = False
    """It asks for log-probabilities, which not every endpoint gives."""

    @abstractmethod
    async def rank(self, query: PeerQuery, ask: Asker) -> PeerAnswer:
        """Order the candidates. Raises what `ask` raises."""


class Exchange:
    """The calls for one query, and what is counted about them."""

    def __init__(self, ask: Asker) -> None:
        self._ask = ask
        self._keys: set[str] = set()
        self.usage = Usage()
        self.requests = 0
        self.repaired = 0
        self.failed = 0
        self.notes: Counter[str] = Counter()

    async def ask(self, request: Request, assumed: Any, *, can_split: bool = False) -> Any:
        """The value of the answer; None, and counted, if there is no usable one.

        can_split: raise TooLongError if the prompt does not fit into the model's context.
        """
        answer = await self._ask(request, assumed)
        if request.key not in self._keys:  # the same question twice is asked once
            self._keys.add(request.key)
            self.usage = self.usage + answer.usage
        too_long = not answer.ok and any(TOO_LONG in problem for problem in answer.problems)
        if too_long and can_split:
            raise TooLongError
        if too_long:
            self.too_long()
            return None
        self.requests += 1
        if not answer.ok:
            self.failed += 1
            self.notes[f"without a usable answer: {kind_of(reason_of(answer))}"] += 1
        return answer.value

    def too_long(self) -> None:
        """Count a request that fails because its prompt cannot be made to fit the model."""
        self.requests += 1
        self.failed += 1
        self.notes["prompts too long for the context of the model"] += 1

    def answer(
        self,
        order: Sequence[PeerCandidate],
        scores: Mapping[str, float] | None = None,
        explanations: Mapping[str, str] | None = None,
    ) -> PeerAnswer:
        """The answer to the query, with all counts."""
        return PeerAnswer(
            tuple(one.item_id for one in order),
            scores or {},
            explanations or {},
            self.usage,
            self.requests,
            self.repaired,
            self.failed,
            dict(+self.notes),
        )


class TooLongError(Exception):
    """A prompt does not fit into the model's context."""


def by_score(
    candidates: Sequence[PeerCandidate], scores: Mapping[str, float]
) -> list[PeerCandidate]:
    """Best score first, ties in the given order; then those without a score, in that order."""
    scored = [one for one in candidates if one.item_id in scores]
    scored.sort(key=lambda one: -scores[one.item_id])
    return scored + [one for one in candidates if one.item_id not in scores]
