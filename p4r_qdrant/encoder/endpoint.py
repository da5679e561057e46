"""An encoder behind an OpenAI-compatible /v1/embeddings address: text-embeddings-inference, vLLM.

torch is not needed here. The weights cannot be seen from here either: the probe in the fingerprint
tells models apart (see `fingerprint.py`).
"""

from __future__ import annotations

import base64
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np

from p4r_qdrant import texts
from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.encoder.base import ENDPOINT, Encoder
from p4r_qdrant.encoder.border import reason_of, translated
from p4r_qdrant.encoder.fingerprint import PROBES, TWIN, alike, made_of
from p4r_qdrant.encoder.lengths import Lengths, guessed_tokens
from p4r_qdrant.encoder.salvage import encoded_or_refused
from p4r_qdrant.errors import AuthenticationError, EncoderError, SettingsError, TextsRefusedError
from p4r_qdrant.retry_after import retry_after_s
from p4r_qdrant.settings import EncoderSettings

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 8.0
MAY_PASS = frozenset({429, 502, 503, 504})
"""What servers answer while they start, are busy or overloaded."""
HUNG_UP = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""What a server that dies of a batch does."""
PROBE_S = 5.0
QUICK_TRIES = 3
"""How often a batch is sent that the server fails on, before it is seen as the batch's fault."""
TOO_LARGE = frozenset({400, 413, 422})
"""What servers answer to more texts at once, or longer ones, than they take."""


class EndpointEncoder(Encoder):
    """The model `settings.model` at `settings.base_url`: see `Encoder` for what it does.

    Thread-safe. A batch is sent again after 429, 5xx and broken connections, as the answer's
    Retry-After says, until `settings.timeout_s` are over. A batch that the server fails on, while
    it encodes others, is halved, down to the text that it cannot encode.

    Raises SettingsError where the address has no such model, AuthenticationError where it refuses
    the key, TextsRefusedError for single texts, EncoderError where the server fails, cannot be
    reached, answers something else than vectors, or does not tell texts apart.
    """

    kind = ENDPOINT
    tolerance = 1e-2

    def __init__(self, settings: EncoderSettings) -> None:
        self._settings = settings
        self._url = f"{(settings.base_url or '').rstrip('/')}/embeddings"
        self.name = self.model = settings.model
        self.workers = settings.concurrency
        self._batch_size = settings.batch_size
        self._form = "base64"
        self._closed = False
        key = settings.api_key
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            limits=httpx.Limits(max_connections=settings.concurrency),
            # What is not encrypted goes where the settings say, through no proxy.
            trust_env=not self._url.lower().startswith("http:"),
        )
        self._pool = ThreadPoolExecutor(settings.concurrency, "p4r-encoder")
        self._dimension_lock = threading.Lock()
        self.dimension = 0
        self.query_prompt, self.document_prompt = settings.query_prompt, settings.document_prompt
        self.options = settings.model_dump(
            include={"query_prompt", "document_prompt", "max_tokens"}, exclude_defaults=True
        )
        if settings.max_tokens is not None:
            self.lengths = Lengths(settings.max_tokens, guessed_tokens)
        try:
            self.fingerprint = self._probed()
        except BaseException:
            self.close()
            raise

    def _probed(self) -> str:
        """The fingerprint, from the first answer, which also tells the width and the form."""
        *inputs, twin = (self.document_prompt + text for text in (*PROBES, TWIN))
        response = self._post(inputs)
        if response.status_code in TOO_LARGE:  # it may know numbers only
            self._form = "float"
            response = self._post(inputs)
        if response.status_code in TOO_LARGE:  # it may take one text at a time only
            self._batch_size = 1
            alone = [self._vectors(self._post([one]), [one]) for one in inputs]
            probes = np.concatenate(alone)
        else:
            probes = self._vectors(response, inputs)
        probes = np.concatenate([probes, self._vectors(self._post([twin]), [twin])])
        if (same := alike(probes)) is not None:
            one, other = ((*PROBES, TWIN)[row] for row in same)
            raise EncoderError(
                f"the encoder at {self._url} gives different texts the same vector ({one[:20]!r}"
                f"..., {other[:20]!r}...): check the model that it serves"
            )
        exact = [self.model, self.dimension, texts.fingerprint()]
        return made_of([*exact, *([self.options] if self.options else [])], probes[: len(PROBES)])

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """(n, dim) float32, L2-normalised, in the order of `batch`. Thread-safe."""
        if self._closed:
            raise EncoderError(f"the encoder at {self._url} is closed")
        # Texts of one length together: servers pad a batch to its longest.
        order = sorted(range(len(batch)), key=lambda one: len(batch[one]))
        parts = [
            order[start : start + self._batch_size]
            for start in range(0, len(order), self._batch_size)
        ]
        vectors = np.zeros((len(batch), self.dimension), dtype=np.float32)
        answers = [self._pool.submit(self._encode, [batch[one] for one in part]) for part in parts]
        refused: dict[int, str] = {}
        try:
            for part, answer in zip(parts, answers, strict=True):
                try:
                    vectors[part] = answer.result()
                except TextsRefusedError as error:
                    vectors[part] = error.vectors
                    refused |= {part[place]: reason for place, reason in error.reasons.items()}
        finally:
            for answer in answers:
                answer.cancel()
        if refused:
            raise TextsRefusedError(batch, refused, vectors)
        return vectors

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    def _encode(self, batch: list[str]) -> Floats:
        """One batch; in halves where the server takes no more at once, or fails on a text."""

        def encode(part: Sequence[str]) -> Floats:
            # Halves are sent once: others wait, and a text that is alone gets all its tries.
            is_half = 1 < len(part) < len(batch)
            return self._vectors(self._post(part, 1 if is_half else QUICK_TRIES), part)

        return encoded_or_refused(batch, encode, self.dimension, self._is_of_the_texts)

    def _is_of_the_texts(self, error: EncoderError) -> bool:
        """Whether the server fails on these texts only, however it fails."""
        if isinstance(error, _DownError):
            return False
        return isinstance(error, _TextsError) or self._still_works()

    def _post(self, batch: Sequence[str], quick_tries: int = QUICK_TRIES) -> httpx.Response:
        """The answer to a batch, which is sent again while it may still succeed."""
        deadline = time.monotonic() + self._settings.timeout_s
        wait = FIRST_WAIT_S
        for tries in itertools.count(1):
            asked, response, said = wait, None, ""
            try:
                response = self._send(batch, deadline - time.monotonic())
            except httpx.TransportError as error:
                problem = reason_of(error)
                if isinstance(error, httpx.ConnectError) and not self.dimension:
                    raise EncoderError(
                        f"the encoder at {self._url} gave no answer ({problem}); check that it "
                        "runs, and P4R_ENCODER__BASE_URL"
                    ) from None
                may_pass = not isinstance(error, HUNG_UP)
            else:
                code = response.status_code
                may_pass = code in MAY_PASS
                if code < 500 and not may_pass:
                    return response
                said = _said(response)
                problem = f"{code} {response.reason_phrase}: {said}".rstrip(": ")
                asked = max(wait, retry_after_s(response.headers))
            is_over = time.monotonic() + asked >= deadline
            if (is_over or (tries >= quick_tries and not may_pass)) and self._still_works():
                if response is not None and response.status_code >= 500:
                    return response
                if response is None:
                    raise _TextsError(f"the encoder at {self._url} gives no answer ({problem})")
            if is_over:
                raise _DownError(
                    f"the encoder at {self._url} gave no answer within "
                    f"{self._settings.timeout_s:g} s ({problem}); check that it runs, or raise "
                    "P4R_ENCODER__TIMEOUT_S"
                ).quoting(said)
            time.sleep(asked)
            wait = min(2 * wait, LONGEST_WAIT_S)
        raise AssertionError  # it counts for ever

    def _send(self, batch: Sequence[str], seconds: float) -> httpx.Response:
        """One request. Raises httpx.TransportError, which may pass, or EncoderError."""
        body = {"model": self.model, "input": list(batch), "encoding_format": self._form}
        with translated(
            lambda reason: EncoderError(f"the encoder at {self._url} cannot be asked ({reason})")
        ):
            try:
                return self._client.post(self._url, json=body, timeout=max(seconds, 0.001))
            except httpx.TransportError as error:
                problem = error
        raise problem

    def _still_works(self) -> bool:
        """Whether the server encodes a text that it has encoded before."""
        if not self.dimension:
            return False
        try:
            response = self._send(PROBES[:1], PROBE_S)
            return response.status_code == 200 and bool(self._vectors(response, PROBES[:1]).size)
        except (httpx.TransportError, EncoderError):
            return False

    def _vectors(self, response: httpx.Response, batch: Sequence[str]) -> Floats:
        """What an answer says of each text, checked: (n, dim) float32, normalised."""
        self._check_status(response, batch)
        with translated(
            lambda _: EncoderError(
                f"the encoder at {self._url} answers something else than embeddings "
                f"({_said(response)[:80]}); P4R_ENCODER__BASE_URL must be that of an "
                "OpenAI-compatible server"
            ).quoting(_said(response)[:80])
        ):
            rows: list[Any] = [None] * len(batch)
            data = response.json()["data"]
            for place, one in enumerate(data):
                rows[_place(one, place, len(batch))] = _numbers(one["embedding"])
            is_whole = len(data) == len(batch) and all(row is not None for row in rows)
        if not is_whole:
            raise EncoderError(
                f"the encoder at {self._url} answers {len(data)} vectors to {len(batch)} texts, "
                "and not one to each"
            )
        widths = {len(row) for row in rows}
        with self._dimension_lock:
            self.dimension = self.dimension or len(rows[0])
        if widths != {self.dimension}:
            raise EncoderError(
                f"the encoder at {self._url} answers vectors of {sorted(widths)} numbers, before "
                f"they had {self.dimension}: is another model there now?"
            )
        matrix = np.array(rows, dtype=np.float32)
        norms = np.linalg.norm(matrix, axis=1)
        wrong = ~np.isfinite(norms) | (norms < 1e-12)
        if wrong.any():
            text = batch[int(np.argmax(wrong))]
            raise _TextsError(
                f"the encoder at {self._url} answers a vector that is zero, NaN or infinite to "
                f"the text {text[:60]!r}"
            ).quoting(repr(text[:60]))
        return normalised(matrix)

    def _check_status(self, response: httpx.Response, batch: Sequence[str]) -> None:
        code, said = response.status_code, _said(response)
        if code == 200:
            return
        answer = f"the encoder at {self._url} answers {code}: {said or response.reason_phrase}"
        if self.dimension and code not in TOO_LARGE and (code >= 500 or self._still_works()):
            raise _TextsError(answer).quoting(said)
        if code in (401, 403):
            raise AuthenticationError(
                f"the encoder at {self._url} refused the API key; check P4R_ENCODER__API_KEY"
            )
        if code == 404:
            raise SettingsError(
                f"there is no model {self.model!r} at {self._url} ({said or code}); check "
                "P4R_ENCODER__MODEL, and that P4R_ENCODER__BASE_URL ends as in http://host:8080/v1"
            ).quoting(said)
        if code in TOO_LARGE and self.dimension:
            if len(batch) > 1:
                self._batch_size = min(self._batch_size, max(1, len(batch) // 2))
            advice = "let it truncate, or set P4R_ENCODER__MAX_TOKENS"
            raise _TextsError(f"{answer}; {advice}").quoting(said)
        raise EncoderError(answer).quoting(said)


class _DownError(EncoderError):
    """The server gives no answer to anything."""


class _TextsError(EncoderError):
    """The server fails on these texts, while it encodes others."""


def _said(response: httpx.Response) -> str:
    """The server's own reason, wherever it stands in its answer."""
    try:
        found = response.json()
    except ValueError:
        found = response.text
    while isinstance(found, dict):
        found = next((found[key] for key in _REASONS if found.get(key)), response.text)
    return " ".join(str(found).split())[:200]


_REASONS = ("error", "message", "detail", "errors")
"""Where servers say why, the outer key first."""


def _place(one: dict[str, Any], place: int, count: int) -> int:
    """Whose vector it is: answers need not come in the order of the questions."""
    index = int(one.get("index", place))
    if not 0 <= index < count:
        raise IndexError
    return index


def _numbers(embedding: Any) -> Floats:
    """One vector, given as numbers or as the base64 of little-endian float32: (dim,)."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    with np.errstate(over="ignore"):  # infinite, and refused as such
        numbers = np.array(embedding, dtype=np.float32)  # a null is NaN
    if numbers.ndim != 1:
        raise ValueError
    return numbers
