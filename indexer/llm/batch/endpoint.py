"""Exchanges with the endpoint about batches: /v1/files and /v1/batches."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import openai
from openai.types import Batch as TheirBatch

from indexer.llm.endpoint import Endpoint
from indexer.llm.errors import LLMRefusedError, TransientError, UnanswerableError
from indexer.llm.wire import error_body
from p4r_qdrant.settings import LLMSettings

MARK = "p4r_batch"
"""The metadata field that holds a batch's name."""
SETTLE_S = 3.0
"""Seconds between a failed creation and the search for the batch, which may exist."""
_NO_BATCHES = frozenset({404, 405, 501})


class GoneError(TransientError):
    """The file or batch does not exist, yet or any more."""


@dataclass(frozen=True, slots=True)
class State:
    """The state of a batch. If it failed, `why` is the endpoint's message, without a prompt."""

    status: str
    answered: int = 0
    failed: int = 0
    output: str = ""
    errors: str = ""
    """Ids of files; "" if there is none."""
    code: str = ""
    why: str = ""

    @property
    def lacks_results(self) -> bool:
        """The endpoint counts answers and names no file of them."""
        return self.answered > 0 and not self.output


class BatchEndpoint:
    """Every method is one exchange. Raises TransientError, GoneError and LLMRefusedError."""

    def __init__(self, endpoint: Endpoint, settings: LLMSettings) -> None:
        self._endpoint = endpoint
        self._url = settings.base_url
        self._timeout_s = settings.timeout_s
        self._client = endpoint.client
        self._downloads = endpoint.connect(math.inf)

    async def close(self) -> None:
        """Close its own connections."""
        await self._downloads.close()

    async def upload(self, path: Path) -> str:
        """Upload a file and return its id."""
        with self._failures(path), path.open("rb") as file:
            uploaded = await self._client.files.create(
                file=(f"p4r-{path.name}", file), purpose="batch"
            )
            return _text(uploaded, "id")

    async def create(self, file_id: str, name: str, path: Path) -> str:
        """Create a batch and return its id. If this fails, the batch may exist nevertheless."""
        try:
            with self._failures(path):
                async with asyncio.timeout(self._timeout_s):
                    created = await self._client.batches.create(
                        completion_window="24h",
                        endpoint="/v1/chat/completions",
                        input_file_id=file_id,
                        metadata={MARK: name},
                    )
                return _text(created, "id")
        except TransientError as error:
            error.wait_s = max(error.wait_s, SETTLE_S)
            raise

    async def find(self, name: str, file_id: str) -> str | None:
        """The id of the batch with this name or this input file; None if there is none."""
        after: str | openai.Omit = openai.omit
        seen = set[str]()
        while True:
            with self._failures():
                async with asyncio.timeout(self._timeout_s):
                    page = await self._client.batches.list(limit=100, after=after)
                batches = getattr(page, "data", None)
                if not isinstance(batches, list):
                    raise TransientError("the endpoint sent something other than a list")
                for batch in batches:
                    mine = (batch.metadata or {}).get(MARK) == name
                    if mine or batch.input_file_id == file_id:
                        return _text(batch, "id")
                ids = {batch.id for batch in batches}
            if not page.has_more or ids <= seen:  # some endpoints ignore paging
                return None
            seen |= ids
            after = batches[-1].id

    async def look(self, batch_id: str, path: Path) -> State:
        """The state of a batch; `path` is its input."""
        with self._failures(gone=True):
            async with asyncio.timeout(self._timeout_s):
                found = await self._client.batches.retrieve(batch_id)
            counts = found.request_counts
            answered, failed = (getattr(counts, name, 0) for name in ("completed", "failed"))
            code, why = self._reason(found, path)
            return State(
                _text(found, "status"),
                answered if isinstance(answered, int) else 0,
                failed if isinstance(failed, int) else 0,
                found.output_file_id or "",
                found.error_file_id or "",
                code,
                why,
            )

    async def fetch(self, file_id: str, file: IO[bytes], most: int) -> None:
        """Append the content of a file, at most `most` bytes."""
        end = file.tell() + most
        with self._failures(gone=True):
            async with self._downloads.files.with_streaming_response.content(file_id) as response:
                async for part in response.iter_bytes():
                    if file.tell() + len(part) > end:
                        raise LLMRefusedError(f"{self._url} sends more results than requested")
                    file.write(part)
        file.write(b"\n")

    def _reason(self, found: TheirBatch, path: Path) -> tuple[str, str]:
        """(code, message) of the first error of a failed batch."""
        errors = found.errors.data if found.errors else None
        if not errors:
            return "", "no reason given"
        first = errors[0]
        line = f", line {first.line} of its input" if first.line else ""
        message = self._endpoint.shown(f"{first.message or 'no reason given'}", _prompts(path))
        return str(first.code or ""), f"{message}{line}"

    @contextmanager
    def _failures(self, path: Path | None = None, *, gone: bool = False) -> Iterator[None]:
        """Translate every error of an exchange into one of three exceptions.

        `path`: the input whose prompts must not be shown. `gone`: 404 means GoneError.
        """
        try:
            with self._endpoint.connection():
                yield
        except openai.APIStatusError as error:
            raise self._failure(error, path, gone=gone) from None
        except (openai.APIResponseValidationError, ValueError, AttributeError, TypeError):
            # openai does not validate responses: an unexpected one fails where it is read.
            raise TransientError("the endpoint sent something other than a batch") from None
        except UnanswerableError as error:
            raise TransientError(str(error)) from None

    def _failure(self, error: openai.APIStatusError, path: Path | None, *, gone: bool) -> Exception:
        status, body = error.status_code, error_body(error.body)
        if status == 404 and gone:
            return GoneError("HTTP 404", heard=True)
        if status in _NO_BATCHES:
            return LLMRefusedError(
                f"{self._url} has no batch API (HTTP {status}): run without --batch"
            )
        if transient := self._endpoint.transient(status, body, error.response):
            return transient
        shown = self._endpoint.shown(body.message, _prompts(path) if path else ())
        if status == 413:
            return LLMRefusedError(
                f"{self._url} rejects a batch of this size: lower P4R_LLM__BATCH_REQUESTS "
                f"(HTTP 413: {shown or 'no reason given'})"
            )
        return self._endpoint.refusal(status, shown, "such a model for batches")


def _text(thing: object, name: str) -> str:
    """A required field; a proxy may send anything."""
    value = getattr(thing, name, None)
    if not isinstance(value, str) or not value:
        raise TransientError(f"the endpoint sent a response without {name}")
    return value


def _prompts(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file:
            messages = json.loads(line)["body"]["messages"]
            yield " ".join(message["content"] for message in messages)
