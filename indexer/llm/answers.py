"""Validate answers, and word the retry prompt for one that is unusable."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from indexer.llm.capabilities import Capabilities, RetryPrompt
from indexer.llm.options import option_logprobs
from indexer.llm.parsing import (
    OFF_SCHEMA,
    parse_answer,
    schema_problem,
    shortened,
    thought_end,
)
from indexer.llm.request import Answer, Request, Usage
from indexer.llm.wire import Completion
from p4r_qdrant.records import clean_text
from p4r_qdrant.settings.llm import section_of

KEPT_CHARACTERS = 20_000
"""Characters of an unusable answer that are kept, and shown to the model in the retry."""
_DO_ANSWER = (
    "You gave no answer the last time. Nobody asks for an opinion, only for the JSON object "
    "described above; where there is nothing to say, leave its fields as empty as it allows."
)
_DO_ANSWER_IN_TEXT = (
    "You gave no answer the last time. Nobody asks for an opinion, only for the answer in the form "
    "that is described above."
)
_IN_THOUGHT = "the answer was cut off in its thought"


@dataclass(slots=True)
class Attempt:
    """One request and all answers to it so far; `retry` is how it is asked next.

    sent: the limit of tokens of the last live call.
    hopeless: it would fail again, however it is asked next.
    final: its last problem would come again in another run.
    """

    request: Request
    retry: RetryPrompt
    usage: Usage = field(default_factory=Usage)
    problems: tuple[str, ...] = ()
    completion: str = ""
    finish_reason: str = ""
    refusals: tuple[str, ...] = ()
    sent: int = 0
    hopeless: bool = False
    final: bool = True

    def validate(
        self, completion: Completion, spent: Usage, capabilities: Capabilities
    ) -> Answer | None:
        """The answer if the completion is usable; else None, and `retry` says why not."""
        self.usage += spent
        self.completion = clean_text((completion.text or completion.thought)[:KEPT_CHARACTERS])
        self.finish_reason = completion.finish_reason
        thinks = capabilities.notice(self.request, completion)
        if completion.cut_off and thinks and not _is_whole(self.request, completion):
            self._cut_off_in_thought(completion, capabilities)
            return None
        value, problem, again = _validate(self.request, completion, self.retry)
        if again is None:
            if self.retry.max_tokens > self.request.max_tokens:  # the next ones need it as well
                known = capabilities.answer_tokens or 0
                capabilities.answer_tokens = max(known, self.retry.max_tokens)
            return self._answer(value)
        self.problems += (problem,)
        self.retry = again
        if problem.startswith(OFF_SCHEMA) and not completion.cut_off:
            capabilities.spelled_out = True
        return None

    def failed(self) -> Answer:
        """The failed answer, with all problems."""
        return replace(self._answer(None), completion=self.completion, final=self.final)

    def give_up(self, problem: str, *, final: bool) -> None:
        """Record a problem that no retry in this run can help."""
        self.problems += (problem,)
        self.hopeless, self.final = True, final

    def _answer(self, value: Any) -> Answer:
        return Answer(
            self.request,
            value,
            self.usage,
            self.problems,
            finish_reason=self.finish_reason,
            refusals=self.refusals,
        )

    def _cut_off_in_thought(self, completion: Completion, capabilities: Capabilities) -> None:
        """Ask once more with room for the thought; if it had that, more of the same is in vain."""
        used = completion.tokens[1] if completion.tokens else 0
        repeated = any(problem.startswith(_IN_THOUGHT) for problem in self.problems)
        if repeated or max(self.sent, used) > self.retry.max_tokens:
            limit = capabilities.limit(self.request, self.retry)
            setting = f"P4R_LLM__{section_of(self.request.step).upper()}__THOUGHT_TOKENS"
            self.give_up(f"{_IN_THOUGHT} after {limit} tokens: raise {setting}", final=True)
            capabilities.found_no_end()
        else:
            self.problems += (_IN_THOUGHT,)


def _validate(
    request: Request, completion: Completion, sent: RetryPrompt
) -> tuple[Any, str, RetryPrompt | None]:
    """(value, "", None) if the completion is usable, else (None, problem, retry prompt)."""
    limit = sent.max_tokens
    retry = RetryPrompt(limit, room=sent.room)
    do_answer = _DO_ANSWER if request.schema is not None else _DO_ANSWER_IN_TEXT
    if completion.refusal or completion.filtered:
        reason = completion.refusal and f": {shortened(completion.refusal)}"
        return None, f"the model refused to answer{reason}", replace(retry, rule=do_answer)
    if completion.cut_off and not _is_whole(request, completion):
        rule = f"Your last answer was cut off after {limit} tokens: keep this one shorter."
        problem = f"the answer was cut off after {limit} tokens"
        more = max(limit, min(2 * limit, 4 * request.max_tokens))
        return None, problem, replace(retry, max_tokens=more, rule=rule)
    value, problem = read_answer(request, completion)
    if not problem:
        return value, "", None
    if not completion.text.strip():
        return None, problem, replace(retry, rule=do_answer)
    form = "with one corrected JSON object" if request.schema is not None else "in that form"
    correction = f"This answer cannot be used: {problem}. Answer again, {form} and nothing else."
    shown = clean_text(completion.text[:KEPT_CHARACTERS])
    return None, problem, replace(retry, completion=shown, correction=correction)


def read_answer(request: Request, completion: Completion) -> tuple[Any, str]:
    """(value, problem); the problem is "" if the value is usable.

    The answer stands in the content or in the arguments of a tool call. Without either it may be
    the end of the thought, where an endpoint takes the whole answer for one.
    """
    if request.schema is None:
        return _read_plain(request, completion)
    problem = ""
    texts = [text for text in completion.texts if text.strip()]
    for text in texts or [completion.thought]:
        value, wrong = _read_text(request, text, at_end=not texts)
        if not wrong:
            return value, ""
        problem = problem or wrong
    return None, problem if texts else "the answer was empty"


def _read_plain(request: Request, completion: Completion) -> tuple[Any, str]:
    """(value, problem) of an answer without a schema: the text behind the thought."""
    text = completion.text
    start = thought_end(text)
    answer = clean_text(text[start:])
    if not answer:
        return None, "the answer was empty"
    value: Any = answer
    if request.options is not None:
        found = option_logprobs(completion.logprobs or (), request.options, start)
        if found is None:
            named = ", ".join(request.options.texts)
            where = f" behind {request.options.after!r}" if request.options.after else ""
            return None, f"it has none of {named}{where}"
        value = {"text": answer, "options": found}
    problem = request.check(value) if request.check is not None else None
    return value, problem or ""


def _read_text(request: Request, text: str, *, at_end: bool) -> tuple[Any, str]:
    assert request.schema is not None  # noqa: S101 - plain text is read elsewhere
    try:
        value = parse_answer(text, request.schema, at_end=at_end)
    except ValueError as error:
        return None, str(error)
    problem = schema_problem(value, request.schema)
    if problem is None and request.check is not None:
        problem = request.check(value)
    return value, problem or ""


def _is_whole(request: Request, completion: Completion) -> bool:
    """Whether an answer can be used whatever the finish reason says: JSON, or a usable text."""
    if request.schema is None:
        return not _read_plain(request, completion)[1]
    return any(map(_is_json, completion.texts))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
