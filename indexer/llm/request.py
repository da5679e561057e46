"""What is asked, what comes of it, and the form in which the ledger keeps that."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from indexer.ledger import request_key
from p4r_qdrant.records import clean_text


class Prompt(Protocol):
    """The two messages of a prompt."""

    @property
    def system(self) -> str:
        """Our instructions."""

    @property
    def user(self) -> str:
        """The material, from outside."""


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to ask. `schema` is a JSON schema whose root is an object.

    For the endpoints' strict mode every object in it lists all its properties as required and
    has `additionalProperties: false`. `check` looks at an answer that fits the schema and returns
    what is wrong with it in a sentence the model is shown, or None. `about` names the records the
    answer comes from (item_id, user_id): it is stored with the answer, so that it can be found
    when somebody has a right to be forgotten; and so is `template`, the hash of the prompt's
    wording. `max_tokens` bounds the answer; a truncated one is asked again with twice as many.

    Without a `key` of the caller's own (`request_key`) it is made of everything that is sent.
    """

    step: str
    prompt: Prompt = field(repr=False)
    schema: Mapping[str, Any] = field(repr=False)
    model: str
    temperature: float = 0.0
    max_tokens: int = 1024
    check: Callable[[Any], str | None] | None = field(default=None, repr=False)
    about: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            key = request_key(
                template=self.step,
                content=[self.system, self.user, self.schema],
                model=self.model,
                parameters={"temperature": self.temperature, "max_tokens": self.max_tokens},
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


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests that can be gone through more than once: `make` makes them anew each time."""

    make: Callable[[], Iterator[Request]]

    def __iter__(self) -> Iterator[Request]:
        return self.make()


@dataclass(frozen=True, slots=True)
class Usage:
    """What was spent. `cost_usd` is None where a price is not known."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0

    @property
    def tokens(self) -> int:
        """Both kinds together."""
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
    """What came of a request.

    `value` is None where it failed; `problems` says, a sentence an attempt, what was wrong, and
    `completion` is then the last text the model gave. `known`: it was in the ledger already, and
    its usage is what it cost then.
    """

    request: Request
    value: Any = field(repr=False)
    usage: Usage
    problems: tuple[str, ...] = field(default=(), repr=False)
    completion: str = field(default="", repr=False)
    known: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


@dataclass(slots=True)
class Tally:
    """One step's counts, live. `known` answers came from the ledger and cost nothing now."""

    answered: int = 0
    failed: int = 0
    known: int = 0
    retries: int = 0
    usage: Usage = Usage()


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, rather too many than too few: a third of its bytes."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 3)


def to_record(answer: Answer) -> dict[str, Any]:
    """What the ledger keeps of an answer."""
    request, usage = answer.request, answer.usage
    record: dict[str, Any] = {"about": dict(request.about), "template": request.template}
    if answer.ok:
        record["answer"] = answer.value
    else:
        record["completion"] = answer.completion
    return record | {
        "problems": [clean_text(problem) for problem in answer.problems],
        "model": request.model,
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
        "time": int(time.time()),
    }


def from_record(request: Request, record: Mapping[str, Any]) -> Answer:
    """The answer that the ledger kept."""
    usage = usage_of(record)
    return Answer(request, record["answer"], usage, tuple(record["problems"]), known=True)


def usage_of(record: Mapping[str, Any]) -> Usage:
    """What an answer in the ledger took."""
    names = ("calls", "prompt_tokens", "completion_tokens", "cost_usd")
    return Usage(**{name: record[name] for name in names})
