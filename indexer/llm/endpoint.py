"""One HTTP exchange with the endpoint; every way it can end is a completion or one exception."""

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
    complaint_of,
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
"""So many characters of a prompt in an endpoint's error are no coincidence."""


class Endpoint:
    """The endpoint of the settings. Raises SettingsError where OpenAI is asked without a key."""

    def __init__(self, settings: LLMSettings) -> None:
        if settings.api_key is None and settings.host == OPENAI_HOST:
            raise SettingsError(
                "there is no key for OpenAI: set P4R_LLM__API_KEY, or P4R_LLM__BASE_URL to "
                "another endpoint"
            )
        self._settings = settings
        self._secret = settings.api_key.get_secret_value() if settings.api_key else ""
        self.client = self.connect()

    def connect(self, most: float = MAX_RESPONSE_BYTES) -> openai.AsyncOpenAI:
        """A client of its own, whose responses have at most so many bytes."""
        timeout_s = self._settings.timeout_s
        return openai.AsyncOpenAI(
            base_url=self._settings.base_url,
            api_key=self._secret or "none",
            max_retries=0,
            http_client=httpx2.AsyncClient(
                transport=Transport(self._settings, most),
                timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s)),
                follow_redirects=False,  # prompts go where the settings say, nowhere else
                headers={"Accept-Encoding": "identity"},  # a bound that compression cannot evade
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
        """Turns what may happen to a connection into TransientError and UnanswerableError."""
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
        """What a status other than 200 means for a request; `body` is the error's own object."""
        message, complaint = complaint_of(body)
        said = self.said(message, [f"{request.system} {request.user}"])
        if transient := self.transient(status, complaint, response):
            return transient
        if status == 429:
            return self.refusal(status, said, request.model)
        if status == 413 or (status in (400, 422) and _TOO_LONG.search(complaint)):
            return UnanswerableError(f"the prompt is too long for the model: {said}")
        if status in (400, 422) and _FILTERED.search(complaint):
            return UnanswerableError(f"the endpoint's content filter refused the prompt: {said}")
        if status in (400, 422):
            return UnknownParameterError(said, complaint)
        return self.refusal(status, said, request.model)

    def transient(
        self, status: int, complaint: str, response: httpx2.Response | None
    ) -> TransientError | None:
        """The error to try again after, None where that would be in vain."""
        no_credit = status == 429 and _NO_CREDIT.search(complaint)
        if no_credit or not (status in _TRY_AGAIN or status >= 500):
            return None
        wait_s = retry_after_s(response.headers) if response is not None else 0.0
        return TransientError(f"HTTP {status}", wait_s, heard=True)

    def refusal(self, status: int, said: str, model: str) -> LLMRefusedError:
        """What stops a run: the next request would fare no better."""
        url = self._settings.base_url
        advice = {
            400: f"{url} does not take such requests",
            401: f"{url} refuses the key: set P4R_LLM__API_KEY",
            403: f"{url} does not allow this with this key: check its rights and the model's name",
            404: f"{url} has no model {model}, or is no such endpoint: check "
            "P4R_LLM__MODEL and P4R_LLM__BASE_URL",
            429: f"the account at {url} has no credit left",
        }.get(status, f"{url} does not take such requests: check P4R_LLM__BASE_URL")
        return LLMRefusedError(f"{advice} (HTTP {status}: {said or 'no reason given'})")

    def said(self, message: str, prompts: Iterable[str]) -> str:
        """The endpoint's words for people: short, without the key, without a prompt."""
        text = message.replace(self._secret, "***") if self._secret else message
        text = shortened(text, 200)
        windows = [text[at : at + _ECHO] for at in range(len(text) - _ECHO + 1)]
        for prompt in prompts:
            plain = " ".join(prompt.split())
            if any(window in plain for window in windows):
                return "its explanation repeats the prompt and is left out"
        return text
