"""What an endpoint understands: JSON schemas, JSON mode, which parameters."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from indexer.llm.request import Request
from p4r_qdrant.records import clean_text

_FORM = re.compile(
    r"response.?format|json.?(schema|object|mode)|schema|structured|guided|grammar", re.I
)
_UNSUPPORTED = re.compile(r"support|unknown|unrecogni|not permitted|extra|deprecated", re.I)


@dataclass(frozen=True, slots=True)
class RetryPrompt:
    """What is said on asking again: a `rule` for the system, or a `correction` of an answer."""

    max_tokens: int
    rule: str = ""
    completion: str = ""
    correction: str = ""


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """How a call is worded: the answer's form, what its limit is called, a temperature or none."""

    form: str
    tokens: str = "max_tokens"
    temperature: bool = True


@dataclass(slots=True)
class Capabilities:
    """What one model takes for one step. Changes only towards simpler, so it comes to an end.

    Per step, since a schema that an endpoint cannot do must not cost the other steps theirs.
    """

    request_format: RequestFormat
    fixed_form: bool
    proved: bool = False
    spelled_out: bool = False
    """The endpoint took the JSON schema and did not keep to it: it is in the prompt from now on."""
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def simplify(self, complaint: str) -> bool:
        """Leave out what the endpoint complains of; False where that is nothing we could."""
        old = self.request_format
        if "max_tokens" in complaint and old.tokens == "max_tokens" and _refuses(complaint):
            self.request_format = replace(old, tokens="max_completion_tokens")
        elif "temperature" in complaint and old.temperature and _refuses(complaint):
            self.request_format = replace(old, temperature=False)
        elif not self.fixed_form and old.form != "text" and _FORM.search(complaint):
            simpler = "json_object" if old.form == "json_schema" else "text"
            self.request_format = replace(old, form=simpler)
        return self.request_format != old

    def body(self, request: Request, retry: RetryPrompt) -> dict[str, Any]:
        """The request as this model takes it."""
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
        for message in messages:  # half an emoji cannot be sent
            message["content"] = clean_text(message["content"])
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        body[request_format.tokens] = retry.max_tokens
        if request_format.temperature:
            body["temperature"] = request.temperature
        if request_format.form == "json_schema":
            schema_form = {"name": request.step, "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema_form}
        elif request_format.form == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body


def _refuses(complaint: str) -> bool:
    return _UNSUPPORTED.search(complaint) is not None
