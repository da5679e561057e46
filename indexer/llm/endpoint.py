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
    LLMRefusedError,
    TransientError,
    UnanswerableError,
    UnknownParameterError,
)
from indexer.llm.parsing import shortened
from indexer.llm.request import Request
from indexer.llm.wire import (
    MAX_RESPONSE_BYTES,
    Completion,
    TooLargeError,
    Transport,
    error_message,
    read_completion,
)
from p4r_qdrant.errors import SettingsError
from p4r_qdrant.retry_after import retry_after_s
from p4r_qdrant.settings import OPENAI_HOST, LLMSettings

_TRY_AGAIN = frozenset({408, 409, 425, 429})
_TOO_LONG = re.compile(
    r"context.{0,3}(length|size|window)|maximum context|prompt is too long|too many tokens", re.I
)
_FILTERED = re.compile(r"content.?(filter|policy|management)|invalid_prompt|safety", re.I)
_NO_CREDIT = re.compile(r"insufficient.?(quota|credit|balance)|billing", re.I)
_ECHO = 24
"""A match of so many characters between an error message and a prompt is no coincidence."""


class Endpoint:
    """The endpoint of the settings. Raises SettingsError if OpenAI is called without a key."""

    def __init__(self, settings: LLMSettings) -> None:
        if settings.api_key is None and settings.host == OPENAI_HOST:
            raise SettingsError(
                "there is no key for OpenAI: set P4R_LLM__API_KEY, or set P4R_LLM__BASE_URL to "
                "another endpoint"
            )
        self._settings = settings
        self._secret = settings.api_key.get_secret_value() if settings.api_key else ""
        self.client = self.connect()

    def connect(self, most: float = MAX_RESPONSE_BYTES) -> openai.AsyncOpenAI:
        """A new client that reads at most `most` bytes of a response."""
        timeout_s = self._settings.timeout_s
        return openai.AsyncOpenAI(
            base_url=self._settings.base_url,
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
        """Raises TransientError, UnanswerableError, UnknownParameterError, LLMRefusedError."""
        try:
            with self.connection():
                async with asyncio.timeout(self._settings.timeout_s):
                    response = await self.client.post(
                        "/chat/completions", body=body, cast_to=httpx2.Response
                    )
            return read_completion(response.content)
        except openai.APIStatusError as error:
            raise self.failure(error.status_code, error.body, request, error.response) from None

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
        message, with_codes = error_message(body)
        shown = self.shown(message, [f"{request.system} {request.user}"])
        if transient := self.transient(status, with_codes, response):
            return transient
        if status == 429:
            return self.refusal(status, shown, request.model)
        if status == 413 or (status in (400, 422) and _TOO_LONG.search(with_codes)):
            return UnanswerableError(f"the prompt is too long for the model: {shown}")
        if status in (400, 422) and _FILTERED.search(with_codes):
            return UnanswerableError(f"the endpoint's content filter refused the prompt: {shown}")
        if status in (400, 422):
            return UnknownParameterError(shown, with_codes)
        return self.refusal(status, shown, request.model)

    def transient(
        self, status: int, message: str, response: httpx2.Response | None
    ) -> TransientError | None:
        """The error if a retry may help, else None."""
        no_credit = status == 429 and _NO_CREDIT.search(message)
        if no_credit or not (status in _TRY_AGAIN or status >= 500):
            return None
        wait_s = retry_after_s(response.headers) if response is not None else 0.0
        return TransientError(f"HTTP {status}", wait_s, heard=True)

    def refusal(self, status: int, message: str, model: str) -> LLMRefusedError:
        """The error that stops a run: the next request would fail as well."""
        url = self._settings.base_url
        advice = {
            400: f"{url} rejects such requests",
            401: f"{url} rejects the key: set P4R_LLM__API_KEY",
            403: f"{url} forbids this request: check the rights of the key and the model's name",
            404: f"{url} has no model {model}, or is not a chat-completions endpoint: check "
            "P4R_LLM__MODEL and P4R_LLM__BASE_URL",
            429: f"the account at {url} has no credit left",
        }.get(status, f"{url} rejects such requests: check P4R_LLM__BASE_URL")
        return LLMRefusedError(f"{advice} (HTTP {status}: {message or 'no reason given'})")

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
