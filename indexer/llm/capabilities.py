"""What an endpoint supports and needs: schemas, JSON mode, which parameters, how many tokens."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from indexer.llm.parsing import THOUGHT_MARK
from indexer.llm.request import Request, estimate_tokens
from indexer.llm.wire import Completion
from p4r_qdrant.records import clean_text
from p4r_qdrant.settings.llm import THOUGHT_TOKENS

_FORM = re.compile(
    r"response.?format|json.?(schema|object|mode)|schema|structured|guided|grammar|\bstrict\b", re.I
)
_UNSUPPORTED = re.compile(r"support|unknown|unrecogni|not permitted|extra|deprecated", re.I)
_NO_SYSTEM = re.compile(
    r"system.{0,12}(role|message|prompt|instruction)|role.{0,40}system|developer instruction"
    r"|roles must alternate",
    re.I,
)
_LIMIT = re.compile(
    r"max_(completion_|output_|new_)?tokens|maxOutputTokens|(output|completion) tokens", re.I
)
_LOGPROBS = re.compile(r"log.?prob", re.I)
_POSITIVE = re.compile(r"positive|greater|larger|above|> ?0|\(0|non.?zero", re.I)
_NUMBER = re.compile(r"\d+(?:,\d{3})*")
_CONTEXT = re.compile(r"context\D{0,40}(\d+(?:,\d{3})*)(?![\d,]*\s*\+)", re.I)
LOW_TEMPERATURE = 0.01
"""Sent in place of 0 to an endpoint that wants a positive temperature."""
LEAST_ROOM = 16
"""Tokens for an answer below which it is not asked for."""

AnswerForm = Literal["json_schema", "json_object", "text"]
LimitName = Literal["max_tokens", "max_completion_tokens", ""]
Temperature = Literal["as set", "low", ""]


@dataclass(frozen=True, slots=True)
class RetryPrompt:
    """How a request is asked again: with a `rule` in the system message or with a `correction`.

    max_tokens: the limit of the answer, without thought.
    completion: the unusable answer that is corrected. A first call has neither.
    room: the tokens for answer and thought that the context leaves, once the endpoint said so.
    """

    max_tokens: int
    rule: str = ""
    completion: str = ""
    correction: str = ""
    room: int | None = None

    @property
    def is_first(self) -> bool:
        """Nothing was wrong yet."""
        return not (self.rule or self.correction)


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """What is sent beside the prompt; "" means that a parameter is left out.

    system: whether there is a system message; else its text begins the user's message.
    most_tokens: the largest limit of tokens that the endpoint accepts, if it said so.
    most_alternatives: the same for the alternatives of a token.
    """

    form: AnswerForm
    limit_name: LimitName = "max_tokens"
    temperature: Temperature = "as set"
    system: bool = True
    most_tokens: int | None = None
    most_alternatives: int | None = None

    def __str__(self) -> str:
        """What is sent, in words."""
        sent = [
            self.form,
            self.limit_name and f"{self.limit_name} {self.most_tokens or ''}".strip(),
        ]
        sent += [self.temperature and f"temperature {self.temperature}"]
        sent += ["a system message" if self.system else ""]
        return ", ".join(filter(None, sent))

    def without(
        self, message: str, request: Request, limit: int, *, fixed_form: bool
    ) -> RequestFormat | None:
        """A format without what the endpoint's error message names, or with another value of it.

        None if it names nothing that is sent. `limit`: the tokens that were asked for.
        """
        refused = _UNSUPPORTED.search(message) is not None
        if request.options is not None and _LOGPROBS.search(message):
            asked = self.most_alternatives or request.options.alternatives
            fewer = [one for one in _numbers(message) if 1 < one < asked]
            return replace(self, most_alternatives=max(fewer)) if fewer else None
        if self.system and _NO_SYSTEM.search(message):
            return replace(self, system=False)
        if self.limit_name == "max_tokens" and refused and "max_tokens" in message:
            return replace(self, limit_name="max_completion_tokens")
        if self.limit_name and _LIMIT.search(message):
            lower = [one for one in _numbers(message) if LEAST_ROOM <= one < limit]
            if lower:
                return replace(self, most_tokens=max(lower))
            if refused:
                return replace(self, limit_name="")
        if self.temperature and "temperature" in message.lower():
            low = self.temperature == "as set" and request.temperature < LOW_TEMPERATURE
            low = low and _POSITIVE.search(message) is not None
            return replace(self, temperature="low" if low else "")
        if not fixed_form and self.form != "text" and _FORM.search(message):
            return replace(self, form="json_object" if self.form == "json_schema" else "text")
        return None


@dataclass(frozen=True, slots=True)
class Room:
    """The tokens of a model's context, and those of a prompt in it, as the endpoint counts."""

    context: int
    prompt: int
    estimated: int
    """Our estimate of the same prompt."""

    @property
    def left(self) -> int:
        """The tokens that the prompt leaves."""
        return self.context - self.prompt

    def left_by(self, request: Request) -> int:
        """About the tokens that another prompt leaves."""
        prompt = _estimated(request) * self.prompt / max(1, self.estimated)
        return max(LEAST_ROOM, self.context - math.ceil(prompt))


@dataclass(slots=True)
class Capabilities:
    """What is known of one model in one step.

    The request format only ever gets simpler, so the search ends. It is kept per step: one step's
    schema may be too difficult for an endpoint that supports the schemas of the others.

    answer_tokens: the limit of an answer; None: the request's own. An answer that needed more
    raises it for the step.
    thought_tokens: what is added for the thought. None: nothing, until the model shows that it
    thinks.
    """

    request_format: RequestFormat
    fixed_form: bool
    answer_tokens: int | None = None
    thought_tokens: int | None = None
    proved: bool = False
    """A call in this format has succeeded."""
    spelled_out: bool = False
    """The endpoint accepted the JSON schema and ignored it: the prompt now holds it as well."""
    room: Room | None = None
    """What the endpoint said of the context, once an answer did not fit into it."""
    guessed: bool = False
    """That the model thinks is concluded from prose that was cut off."""
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def first_prompt(self, request: Request) -> RetryPrompt:
        """How a request is asked first."""
        return RetryPrompt(self.answer_tokens or request.max_tokens)

    def wanted(self, retry: RetryPrompt) -> int:
        """The tokens of answer and thought that a call would get in a context without end."""
        return retry.max_tokens + (self.thought_tokens or 0)

    def limit(self, request: Request, retry: RetryPrompt) -> int:
        """The tokens of answer and thought that a call may use."""
        limits = [
            self.wanted(retry),
            retry.room,
            self.request_format.most_tokens,
            None if self.room is None else self.room.left_by(request),
        ]
        return min(limit for limit in limits if limit is not None)

    def notice(self, request: Request, completion: Completion) -> bool:
        """Whether the model thinks; if so, all calls of the step get tokens for it from now on.

        Prose that is cut off where JSON was wanted is taken for a thought, until that proves wrong.
        """
        text = completion.text
        surely = bool(
            completion.thought.strip()
            or completion.thought_tokens
            or THOUGHT_MARK.search(text)
            or (completion.cut_off and not text.strip())
        )
        is_prose = request.schema is not None and completion.cut_off
        is_prose = is_prose and not text.lstrip().startswith(("{", "```", "["))
        thinks = surely or (is_prose and self.thought_tokens != 0)
        if thinks and self.thought_tokens is None:
            self.thought_tokens = THOUGHT_TOKENS
            self.guessed = True
        if surely:
            self.guessed = False
        return thinks

    def found_no_end(self) -> None:
        """Record that a thought did not end with room for it: if it was a guess, it was none."""
        if self.guessed:
            self.thought_tokens = 0

    def body(
        self, request: Request, retry: RetryPrompt, request_format: RequestFormat | None = None
    ) -> dict[str, Any]:
        """The JSON body of a call."""
        request_format = request_format or self.request_format
        system = request.system
        form = request_format.form if request.schema is not None else "text"
        if request.schema is not None and (form != "json_schema" or self.spelled_out):
            schema = json.dumps(request.schema, ensure_ascii=False)
            system += f"\n\nAnswer with one JSON object that fits this JSON schema:\n{schema}"
        if retry.rule:
            system += f"\n\n{retry.rule}"
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": request.user},
        ]
        if not request_format.system:
            messages = [{"role": "user", "content": f"{system}\n\n{request.user}"}]
        if retry.correction:
            messages += [
                {"role": "assistant", "content": retry.completion},
                {"role": "user", "content": retry.correction},
            ]
        for message in messages:  # a lone surrogate cannot be encoded
            message["content"] = clean_text(message["content"])
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        if request_format.limit_name:
            limit = self.limit(request, retry)
            body[request_format.limit_name] = min(limit, request_format.most_tokens or limit)
        if request_format.temperature:
            is_low = request_format.temperature == "low"
            body["temperature"] = LOW_TEMPERATURE if is_low else request.temperature
        if form == "json_schema":
            schema_form = {"name": request.step, "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema_form}
        elif form == "json_object":
            body["response_format"] = {"type": "json_object"}
        if request.options is not None:
            most = request_format.most_alternatives or request.options.alternatives
            body["logprobs"] = True
            body["top_logprobs"] = min(most, request.options.alternatives)
        return body


def room_in(message: str, request: Request, limit: int) -> Room | None:
    """What an error about the context's length says; None if a smaller limit would not help.

    Endpoints word it in many ways. The context is the number after that word, else the largest
    one; the prompt is the largest other number that is neither the limit nor a sum with it.
    """
    numbers = _numbers(message)
    named = _CONTEXT.search(message)
    sums = {one + limit for one in numbers if one != limit}
    others = [one for one in numbers if one != limit and one not in sums]
    context = _numbers(named[1])[0] if named else max(others, default=0)
    smaller = [one for one in others if one < context]
    prompt = max(smaller, default=context if others.count(context) > 1 else None)
    estimated = _estimated(request)
    room = Room(context, estimated if prompt is None else prompt, estimated)
    return room if LEAST_ROOM <= room.left < limit else None


def names_logprobs(message: str) -> bool:
    """Whether an error message speaks of log-probabilities."""
    return _LOGPROBS.search(message) is not None


def _estimated(request: Request) -> int:
    return estimate_tokens(request.system + request.user)


def _numbers(text: str) -> list[int]:
    return [int(one.replace(",", "")) for one in _NUMBER.findall(text)]
