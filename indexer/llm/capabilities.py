"""What an endpoint supports: JSON schemas, JSON mode, which parameters."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from indexer.llm.request import Request
from p4r_qdrant.records import clean_text

_FORM = re.compile(
    r"response.?format|json.?(schema|object|mode)|schema|structured|guided|grammar", re.I
)
_UNSUPPORTED = re.compile(r"support|unknown|unrecogni|not permitted|extra|deprecated", re.I)

AnswerForm = Literal["json_schema", "json_object", "text"]
LimitName = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True, slots=True)
class RetryPrompt:
    """How a request is asked again: with a `rule` in the system message or with a `correction`.

    completion: the unusable answer that is corrected. A first call has neither.
    """

    max_tokens: int
    rule: str = ""
    completion: str = ""
    correction: str = ""


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """The form of the answer, the name of the token limit, and whether a temperature is sent."""

    form: AnswerForm
    limit_name: LimitName = "max_tokens"
    temperature: bool = True


@dataclass(slots=True)
class Capabilities:
    """The request format that one model accepts for one step.

    It only ever gets simpler, so the search ends. It is kept per step: one step's schema may be
    too difficult for an endpoint that supports the schemas of the others.
    """

    request_format: RequestFormat
    fixed_form: bool
    proved: bool = False
    """A call in this format has succeeded."""
    spelled_out: bool = False
    """The endpoint accepted the JSON schema and ignored it: the prompt now holds it as well."""
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def simplify(self, message: str) -> bool:
        """Leave out what the endpoint's error message names; False if it names nothing we send."""
        old = self.request_format
        if "max_tokens" in message and old.limit_name == "max_tokens" and _refuses(message):
            self.request_format = replace(old, limit_name="max_completion_tokens")
        elif "temperature" in message and old.temperature and _refuses(message):
            self.request_format = replace(old, temperature=False)
        elif not self.fixed_form and old.form != "text" and _FORM.search(message):
            simpler: AnswerForm = "json_object" if old.form == "json_schema" else "text"
            self.request_format = replace(old, form=simpler)
        return self.request_format != old

    def body(self, request: Request, retry: RetryPrompt) -> dict[str, Any]:
        """The JSON body of a call."""
        request_format = self.request_format
        system = request.system
        if request_format.form != "json_schema" or self.spelled_out:
            schema = json.dumps(request.schema, ensure_ascii=False)
            system += f"\n\nAnswer with one JSON object that fits this JSON schema:\n{schema}"
        if retry.rule:
            system += f"\n\n{retry.rule}"
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": request.user},
        ]
        if retry.correction:
            messages += [
                {"role": "assistant", "content": retry.completion},
                {"role": "user", "content": retry.correction},
            ]
        for message in messages:  # a lone surrogate cannot be encoded
            message["content"] = clean_text(message["content"])
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        body[request_format.limit_name] = retry.max_tokens
        if request_format.temperature:
            body["temperature"] = request.temperature
        if request_format.form == "json_schema":
            schema_form = {"name": request.step, "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema_form}
        elif request_format.form == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body


def _refuses(message: str) -> bool:
    return _UNSUPPORTED.search(message) is not None
