"""One HTTP exchange with the endpoint; every way it can end is a completion or one exception."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx2
import openai

from indexer.llm.errors import (
    HopelessError,
    LLMRefusedError,
    TransientError,
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
    retry_after,
)
from p4r_qdrant.errors import SettingsError
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
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=self._secret or "none",
            max_retries=0,
            http_client=httpx2.AsyncClient(
                transport=Transport(settings),
                timeout=httpx2.Timeout(settings.timeout_s, connect=min(10.0, settings.timeout_s)),
                follow_redirects=False,  # prompts go where the settings say, nowhere else
                headers={"Accept-Encoding": "identity"},  # a bound that compression cannot evade
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def complete(self, request: Request, body: dict[str, Any]) -> Completion:
        """Raises TransientError, HopelessError, UnknownParameterError, LLMRefusedError."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._client.post(
                    "/chat/completions", body=body, cast_to=httpx2.Response
                )
            return read_completion(response.content)
        except openai.APIStatusError as error:
            raise self._translated(error, request) from None
        except (TimeoutError, openai.APITimeoutError) as error:
            reason = f"no whole response within {self._settings.timeout_s:g} s"
            heard = not isinstance(error.__cause__, httpx2.ConnectTimeout)
            raise TransientError(reason, heard=heard) from None
        except openai.APIConnectionError as error:
            what = type(error.__cause__).__name__ if error.__cause__ else "it was lost"
            raise TransientError(f"the connection failed: {what}") from None
        except TooLargeError:
            megabytes = MAX_RESPONSE_BYTES >> 20
            raise HopelessError(f"the response was larger than {megabytes} MB") from None

    def _translated(self, error: openai.APIStatusError, request: Request) -> Exception:
        status, (message, complaint) = error.status_code, complaint_of(error.body)
        said = self.said(message, request)
        if status == 429 and _NO_CREDIT.search(complaint):
            return self.refusal(status, said, request)
        if status in _TRY_AGAIN or status >= 500:
            wait_s = retry_after(error.response.headers)
            return TransientError(f"HTTP {status}", wait_s, heard=True)
        if status == 413 or (status in (400, 422) and _TOO_LONG.search(complaint)):
            return HopelessError(f"the prompt is too long for the model: {said}")
        if status in (400, 422) and _FILTERED.search(complaint):
            return HopelessError(f"the endpoint's content filter refused the prompt: {said}")
        if status in (400, 422):
            return UnknownParameterError(said, complaint)
        return self.refusal(status, said, request)

    def refusal(self, status: int, said: str, request: Request) -> LLMRefusedError:
        """What stops a run: the next request would fare no better."""
        url = self._settings.base_url
        advice = {
            400: f"{url} does not take such requests",
            401: f"{url} refuses the key: set P4R_LLM__API_KEY",
            403: f"{url} does not allow this with this key: check its rights and the model's name",
            404: f"{url} has no model {request.model}, or is no such endpoint: check "
            "P4R_LLM__MODEL and P4R_LLM__BASE_URL",
            429: f"the account at {url} has no credit left",
        }.get(status, f"{url} does not take such requests: check P4R_LLM__BASE_URL")
        return LLMRefusedError(f"{advice} (HTTP {status}: {said or 'no reason given'})")

    def said(self, message: str, request: Request) -> str:
        """The endpoint's words for people: short, without the key, without the prompt."""
        text = message.replace(self._secret, "***") if self._secret else message
        text = shortened(text, 200)
        prompt = " ".join(f"{request.system} {request.user}".split())
        windows = range(max(1, len(text) - _ECHO + 1))
        if any(len(text) >= _ECHO and text[at : at + _ECHO] in prompt for at in windows):
            return "its explanation repeats the prompt and is left out"
        return text
