"""One HTTP exchange with the endpoint: it ends with a completion or with one exception."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import openai

from indexer.llm.errors import (
    ErrorBody,
    LLMRefusedError,
    RefusedRequestError,
    TransientError,
    UnanswerableError,
)
from indexer.llm.parsing import shortened
from indexer.llm.request import Request
from indexer.llm.wire import (
    MAX_RESPONSE_BYTES,
    Completion,
    TooLargeError,
    Transport,
    completion_of,
    error_body,
    read_json,
)
from p4r_qdrant.errors import SettingsError
from p4r_qdrant.retry_after import retry_after_s
from p4r_qdrant.settings import OPENAI_HOST, LLMSettings

_TRY_AGAIN = frozenset({408, 409, 425, 429})
_RETRY_AFTER = frozenset({"retry-after", "retry-after-ms"})
_TOO_LONG = re.compile(
    r"context.{0,3}(length|size|window|limit)|maximum context|prompt is too long|too many tokens"
    r"|max_new_tokens|sequence length",
    re.I,
)
_FILTERED = re.compile(
    r"content.?(filter|policy|management|exists.risk)|invalid_prompt|safety|moderation|flagged"
    r"|data_inspection|inappropriate",
    re.I,
)
_NO_CREDIT = re.compile(
    r"(insufficient|exceeded|no)\w*(quota|credit|balance|funds|budget)|billing|budget_exceeded"
    r"|arrear|overdue",
    re.I,
)
"""Codes, never sentences: what an endpoint says of a busy minute may mention billing."""
_OF_THE_ACCOUNT = frozenset({401, 402, 407})
_ECHO = 24
"""A match of so many characters between an error message and a prompt is no coincidence."""


def check_key(settings: LLMSettings, otherwise: str = "") -> None:
    """Raise SettingsError if OpenAI is called without a key; `otherwise` says what needs none."""
    if settings.api_key is None and settings.host == OPENAI_HOST:
        raise SettingsError(
            "there is no key for OpenAI: set P4R_LLM__API_KEY, or set P4R_LLM__BASE_URL to "
            "another endpoint" + (f"; {otherwise}" if otherwise else "")
        )


class Endpoint:
    """The endpoint of the settings. Raises SettingsError if OpenAI is called without a key."""

    def __init__(self, settings: LLMSettings) -> None:
        check_key(settings)
        self._settings = settings
        self._secret = settings.api_key.get_secret_value() if settings.api_key else ""
        self.client = self.connect()

    def connect(self, most: float = MAX_RESPONSE_BYTES) -> openai.AsyncOpenAI:
        """A new client that reads at most `most` bytes of a response."""
        timeout_s = self._settings.timeout_s
        url, query = self._settings.address
        return openai.AsyncOpenAI(
            base_url=url,
            default_query=query,
            default_headers=self._settings.key_headers,
            api_key=self._secret or "none",
            max_retries=0,
            http_client=httpx2.AsyncClient(
                transport=Transport(self._settings, most),
                timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s)),
                follow_redirects=False,  # prompts go to the configured address only
                headers={"Accept-Encoding": "identity"},  # compression would evade the size limit
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()

    async def complete(self, request: Request, body: dict[str, Any]) -> Completion:
        """Raises TransientError, UnanswerableError, RefusedRequestError, LLMRefusedError."""
        try:
            with self.connection():
                async with asyncio.timeout(self._settings.timeout_s):
                    response = await self.client.post(
                        "/chat/completions", body=body, cast_to=httpx2.Response
                    )
        except openai.APIStatusError as error:
            raise self.failure(error.status_code, error.body, request, error.response) from None
        return self.completion(read_json(response.content), request)

    def completion(self, data: Any, request: Request) -> Completion:
        """Read the body of a response with status 200; raises as `complete` does."""
        match data:
            case {"choices": [_, *_]}:
                pass
            case {"error": dict() as error}:  # some routers answer 200 and put the status here
                code = str(error.get("code") or "")
                status = int(code) if code.isdecimal() and 400 <= int(code) < 600 else 500
                raise self.failure(status, error, request)
        return completion_of(data)

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Translate connection errors into TransientError and UnanswerableError."""
        try:
            yield
        except (TimeoutError, openai.APITimeoutError) as error:
            reason = f"no whole response within {self._settings.timeout_s:g} s"
            heard = not isinstance(error.__cause__, httpx2.ConnectTimeout)
            raise TransientError(reason, heard=heard) from None
        except openai.APIConnectionError as error:
            what = type(error.__cause__).__name__ if error.__cause__ else "it was lost"
            raise TransientError(f"the connection failed: {what}") from None
        except httpx2.TransportError as error:  # while a body is streamed
            raise TransientError(f"the connection failed: {type(error).__name__}") from None
        except TooLargeError:
            megabytes = MAX_RESPONSE_BYTES >> 20
            raise UnanswerableError(f"the response was larger than {megabytes} MB") from None

    def failure(
        self, status: int, body: object, request: Request, response: httpx2.Response | None = None
    ) -> Exception:
        """The error for a status other than 200; `body` is the parsed body of the response."""
        error = error_body(body)
        shown = self.shown(error.message, [f"{request.system} {request.user}"])
        if transient := self.transient(status, error, response):
            return transient
        if _NO_CREDIT.search(error.codes):
            return self.refusal(status, shown, request.model, advice=402)
        if response is not None and (there := response.headers.get("location")):
            return LLMRefusedError(
                f"{self._settings.base_url} redirects to {shortened(there, 200)} (HTTP {status}), "
                "and prompts go to the address of the settings alone: check P4R_LLM__BASE_URL"
            )
        if status in _OF_THE_ACCOUNT:
            return self.refusal(status, shown, request.model)
        if _FILTERED.search(error.searched):
            return UnanswerableError(f"the endpoint's content filter refused the prompt: {shown}")
        too_long = status == 413 or bool(_TOO_LONG.search(error.searched))
        return RefusedRequestError(status, shown, error, too_long=too_long)

    def transient(
        self, status: int, error: ErrorBody, response: httpx2.Response | None
    ) -> TransientError | None:
        """The error if a retry may help, else None.

        It helps if the endpoint says when, or if the status says so and no code speaks of credit.
        """
        wait_s = error.wait_s
        if response is not None and _RETRY_AFTER & response.headers.keys():
            wait_s = retry_after_s(response.headers)
        passes = (
            (status in _TRY_AGAIN or status >= 500)
            and status != 501
            and not _NO_CREDIT.search(error.codes)
        )
        if not passes and (wait_s is None or status in _OF_THE_ACCOUNT or status < 400):
            return None
        return TransientError(f"HTTP {status}", wait_s or 0.0, heard=True)

    def refusal(
        self, status: int, message: str, model: str, advice: int | None = None
    ) -> LLMRefusedError:
        """The error that stops a run: the next request would fail as well.

        `advice`: the status whose advice fits; by default `status`.
        """
        url = self._settings.base_url
        sentence = {
            400: f"{url} rejects such requests",
            401: f"{url} rejects the key: set P4R_LLM__API_KEY",
            403: f"{url} forbids this request: check the rights of the key and the model's name",
            404: f"{url} has no model {model}, or is not a chat-completions endpoint: check "
            "P4R_LLM__MODEL and P4R_LLM__BASE_URL",
            402: f"the account at {url} has no credit left",
        }.get(advice or status, f"{url} rejects such requests: check P4R_LLM__BASE_URL")
        return LLMRefusedError(f"{sentence} (HTTP {status}: {message or 'no reason given'})")

    def no_logprobs(self, request: Request) -> LLMRefusedError:
        """The error that stops a run which needs log-probabilities, from an endpoint without."""
        return LLMRefusedError(
            f"{self._settings.base_url} gives no log-probabilities for {request.model}, which "
            f"{request.step} needs: name another model or endpoint"
        )

    def shown(self, message: str, prompts: Iterable[str]) -> str:
        """The endpoint's message, fit to be shown: short, without the key and without a prompt."""
        text = message.replace(self._secret, "***") if self._secret else message
        text = shortened(text, 200)
        windows = [text[at : at + _ECHO] for at in range(len(text) - _ECHO + 1)]
        for prompt in prompts:
            plain = " ".join(prompt.split())
            if any(window in plain for window in windows):
                return "the endpoint's message repeats the prompt and is not shown"
        return text
