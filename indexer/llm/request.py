"""Requests and answers, and their form in the ledger."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from indexer.ledger import Ledger, request_key
from indexer.llm.options import Options
from p4r_qdrant import __version__
from p4r_qdrant.records import clean_text
from p4r_qdrant.settings import LLMSettings


class Prompt(Protocol):
    """The two messages of a prompt."""

    @property
    def system(self) -> str:
        """Our instructions."""

    @property
    def user(self) -> str:
        """The material, from outside."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The two messages of a prompt, as they are."""

    system: str
    user: str


@dataclass(frozen=True, slots=True)
class RequestFields:
    """The fields of a request.

    schema: a JSON schema whose root is an object. For the endpoints' strict mode every object in
        it lists all its properties as required and has `additionalProperties: false`. None: the
        answer is plain text, without its thought.
    options: the texts whose log-probabilities are wanted. Only for plain text: the answer is then
        {"text": ..., "options": {option: log-probability}}.
    numbers: the answer is an order of the numbers from 1 to this, [2] > [1]. A local model is held
        to that form; an endpoint is not.
    check: takes an answer that fits the schema, or such a text; returns what is wrong with it, in a
        sentence that is shown to the model, or None.
    about: the ids of the records that the prompt is made of (item_id, user_id). They are stored
        with the answer, so that a user's answers can be erased.
    template: the hash of the prompt template; stored with the answer.
    max_tokens: the limit of the answer, without thought, where the settings have none; a truncated
        answer is asked again with twice as many.
    key: the ledger key; made of everything that is sent if it is not given.
    """

    step: str
    prompt: Prompt = field(repr=False)
    schema: Mapping[str, Any] | None = field(repr=False)
    model: str
    temperature: float = 0.0
    max_tokens: int = 1024
    check: Callable[[Any], str | None] | None = field(default=None, repr=False)
    about: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    key: str = ""
    options: Options | None = None
    numbers: int | None = None

    def __post_init__(self) -> None:
        if not self.key:
            parameters: dict[str, Any] = {
                "temperature": self.temperature,
                "max_tokens": self.max_tokens,
            }
            if self.options is not None:
                parameters["options"] = self.options.identity
            key = request_key(
                template=self.step,
                content=[self.system, self.user, self.schema],
                model=self.model,
                parameters=parameters,
            )
            object.__setattr__(self, "key", key)

    @property
    def system(self) -> str:
        """The system message."""
        return self.prompt.system

    @property
    def user(self) -> str:
        """The user message."""
        return self.prompt.user


class Request(RequestFields):
    """One request to the LLM. Its prompt is `prompt`, or else the texts `system` and `user`."""

    __slots__ = ()

    def __init__(
        self,
        step: str,
        prompt: Prompt | None = None,
        *fields: Any,
        system: str = "",
        user: str = "",
        **more: Any,
    ) -> None:
        super().__init__(step, prompt or Texts(system, user), *fields, **more)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests that can be iterated more than once: `make` starts a new iteration."""

    make: Callable[[], Iterator[Request]]

    def __iter__(self) -> Iterator[Request]:
        return self.make()


@dataclass(frozen=True, slots=True)
class Usage:
    """What is spent. `cost_usd` is None if a price is unknown."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            (self.cost_usd or 0) + (other.cost_usd or 0) if known else None,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request, or its failure.

    value: the JSON value; None if the request failed.
    usage: what it cost; for a `known` answer, what it cost when it was asked.
    problems: what was wrong, one sentence for each attempt.
    completion: the model's last text, if the request failed.
    known: the ledger held the answer, or the failure, already.
    finish_reason: of the last completion, as the endpoint names it.
    refusals: what the endpoint refused on the way: parameters, limits, the request itself.
    final: the request has failed and would fail again, asked as it is.
    """

    request: Request
    value: Any = field(repr=False)
    usage: Usage
    problems: tuple[str, ...] = field(default=(), repr=False)
    completion: str = field(default="", repr=False)
    known: bool = False
    finish_reason: str = ""
    refusals: tuple[str, ...] = field(default=(), repr=False)
    final: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


@dataclass(slots=True)
class Tally:
    """Live counts of one step. `known` answers came from the ledger and cost nothing now.

    given_up: requests that failed for good in an earlier run, and were not asked now.
    """

    answered: int = 0
    failed: int = 0
    known: int = 0
    given_up: int = 0
    retries: int = 0
    usage: Usage = Usage()


def estimate_tokens(text: str) -> int:
    """An upper estimate of the tokens of a text: a third of its UTF-8 bytes."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 3)


def circumstances(settings: LLMSettings, step: str) -> str:
    """All that decides a request's answer and is not in its key, as a hash.

    A request that has failed for good is worth asking again once these have changed.
    """
    one = settings.of(step)
    limits = one.answer_tokens, one.thought_tokens, settings.attempts, settings.answer_form
    return request_key(template=__version__, content=[settings.base_url, *limits], model=one.model)


def to_record(answer: Answer, settings: LLMSettings) -> dict[str, Any]:
    """The ledger record of an answer."""
    request, usage = answer.request, answer.usage
    record: dict[str, Any] = {"about": dict(request.about), "template": request.template}
    if answer.ok:
        record["answer"] = answer.value
    else:
        record["completion"] = answer.completion
        record["final"] = circumstances(settings, request.step) if answer.final else None
    return record | {
        "problems": [clean_text(problem) for problem in answer.problems],
        "refusals": [clean_text(refusal) for refusal in answer.refusals],
        "finish_reason": clean_text(answer.finish_reason),
        "model": request.model,
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
        "time": int(time.time()),
    }


def from_record(request: Request, record: Mapping[str, Any]) -> Answer:
    """The answer, or the failure, in a ledger record."""
    usage = usage_of(record)
    problems = tuple(record["problems"])
    value, completion = record.get("answer"), record.get("completion", "")
    final = record.get("final") is not None
    return Answer(request, value, usage, problems, completion, known=True, final=final)


def given_up(ledger: Ledger, request: Request, settings: LLMSettings) -> Answer | None:
    """The failure of a request that would fail again; None if it is worth asking."""
    record = ledger.failure(request.step, request.key)
    if record is None or record.get("final") != circumstances(settings, request.step):
        return None
    return from_record(request, record)


def usage_of(record: Mapping[str, Any]) -> Usage:
    """What an answer in a ledger record cost."""
    names = ("calls", "prompt_tokens", "completion_tokens", "cost_usd")
    return Usage(**{name: record[name] for name in names})
