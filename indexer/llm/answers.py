"""Validate answers, and word the retry prompt for one that is unusable."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Self

from indexer.llm.capabilities import Capabilities, RetryPrompt
from indexer.llm.parsing import OFF_SCHEMA, parse_answer, schema_problem, shortened
from indexer.llm.request import Answer, Request, Usage
from indexer.llm.wire import Completion
from p4r_qdrant.records import clean_text

KEPT_CHARACTERS = 20_000
"""Characters of an unusable answer that are kept, and shown to the model in the retry."""
_DO_ANSWER = (
    "You gave no answer the last time. Nobody asks for an opinion, only for the JSON object "
    "described above; where there is nothing to say, leave its fields as empty as it allows."
)


@dataclass(slots=True)
class Attempt:
    """One request and all answers to it so far; `retry` is how it is asked next."""

    request: Request
    retry: RetryPrompt
    usage: Usage = field(default_factory=Usage)
    problems: tuple[str, ...] = ()
    completion: str = ""

    @classmethod
    def first(cls, request: Request) -> Self:
        """A request that was not asked yet."""
        return cls(request, RetryPrompt(request.max_tokens))

    def validate(
        self, completion: Completion, spent: Usage, capabilities: Capabilities
    ) -> Answer | None:
        """The answer if the completion is usable; else None, and `retry` says why not."""
        self.usage += spent
        self.completion = clean_text(completion.text[:KEPT_CHARACTERS])
        value, problem, again = _validate(self.request, completion, self.retry.max_tokens)
        if again is None:
            return Answer(self.request, value, self.usage, self.problems)
        self.problems += (problem,)
        self.retry = again
        if problem.startswith(OFF_SCHEMA) and completion.finish_reason != "length":
            capabilities.spelled_out = True
        return None

    def failed(self) -> Answer:
        """The failed answer, with all problems."""
        return Answer(self.request, None, self.usage, self.problems, self.completion)


def _validate(
    request: Request, completion: Completion, max_tokens: int
) -> tuple[Any, str, RetryPrompt | None]:
    """(value, "", None) if the completion is usable, else (None, problem, retry prompt)."""
    retry = RetryPrompt(max_tokens)
    if completion.refusal or completion.finish_reason == "content_filter":
        reason = completion.refusal and f": {shortened(completion.refusal)}"
        return None, f"the model refused to answer{reason}", replace(retry, rule=_DO_ANSWER)
    if completion.finish_reason == "length" and not _is_json(completion.text):
        rule = f"Your last answer was cut off after {max_tokens} tokens: keep this one shorter."
        problem = f"the answer was cut off after {max_tokens} tokens"
        return None, problem, RetryPrompt(min(2 * max_tokens, 4 * request.max_tokens), rule)
    if not completion.text.strip():
        return None, "the answer was empty", replace(retry, rule=_DO_ANSWER)
    value, problem = _read_answer(request, completion.text)
    if not problem:
        return value, "", None
    correction = (
        f"This answer cannot be used: {problem}. Answer again, with one corrected JSON object "
        "and nothing else."
    )
    shown = clean_text(completion.text[:KEPT_CHARACTERS])
    return None, problem, replace(retry, completion=shown, correction=correction)


def _read_answer(request: Request, text: str) -> tuple[Any, str]:
    """(value, problem); the problem is "" if the value is usable."""
    try:
        value = parse_answer(text)
    except ValueError as error:
        return None, str(error)
    problem = schema_problem(value, request.schema)
    if problem is None and request.check is not None:
        problem = request.check(value)
    return value, problem or ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
