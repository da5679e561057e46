"""An encoder behind an OpenAI-compatible /v1/embeddings address: text-embeddings-inference, vLLM.

torch is not needed here. The weights cannot be seen from here either, so the fingerprint holds a
probe of them: what the endpoint makes of a few fixed texts, in coarse steps, which `same_encoder`
compares with a step of leave. A model that was replaced under its name is found out by it; one that
was only retouched (cosines above some 0.99) may not be: give it a name of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
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
from p4r_qdrant.encoder.fingerprint import PROBE_LEVELS
from p4r_qdrant.errors import AuthenticationError, EncoderError, InputError, SettingsError
from p4r_qdrant.retry_after import retry_after_s
from p4r_qdrant.settings import EncoderSettings

PROBES = (
    "A novel about three sisters and a flooded orchard.",
    "Nurses on night shifts who cook for a whole week at once.",
    "category preference: sea voyages; quality criteria: maps that can be read.",
)
"""Texts whose vectors tell one model from another."""
DIRECTIONS = 8
"""Onto how many fixed directions each of those vectors is projected."""
STEP = 0.12
"""Of the projections, scaled to a variance of 1. The same model, served in another precision, moves
them by some 0.03; another model by more than 1."""

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 8.0
TOO_LARGE = frozenset({400, 413, 422})
"""What servers answer to more texts at once, or longer ones, than they take."""


class EndpointEncoder(Encoder):
    """The model `settings.model` at `settings.base_url`: see `Encoder` for what it does.

    Thread-safe. A batch is sent again after 429, 5xx and broken connections, as the answer's
    Retry-After says, until `settings.timeout_s` are over. Raises SettingsError where the address
    has no such model, AuthenticationError where it refuses the key, EncoderError where it fails or
    answers something else than vectors.
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
        try:
            probes = self._first(list(PROBES))
        except BaseException:
            self.close()
            raise
        self.fingerprint = _fingerprint(settings.model, probes)

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
        try:
            for part, answer in zip(parts, answers, strict=True):
                vectors[part] = answer.result()
        finally:
            for answer in answers:
                answer.cancel()
        return vectors

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._client.close()

    def _first(self, batch: list[str]) -> Floats:
        """The first answer, from which the width and the form of all others follow."""
        response = self._post(batch)
        if response.status_code in TOO_LARGE:  # it may know numbers only
            self._form = "float"
            response = self._post(batch)
        return self._vectors(response, batch)

    def _encode(self, batch: list[str]) -> Floats:
        """One batch; in halves where the server takes no more at once."""
        response = self._post(batch)
        if response.status_code in TOO_LARGE and len(batch) > 1:
            half = len(batch) // 2
            self._batch_size = min(self._batch_size, max(1, half))
            return np.concatenate([self._encode(batch[:half]), self._encode(batch[half:])])
        return self._vectors(response, batch)

    def _post(self, batch: list[str]) -> httpx.Response:
        """The answer to a batch, which is sent again while it may still succeed."""
        body = {"model": self._settings.model, "input": batch, "encoding_format": self._form}
        deadline = time.monotonic() + self._settings.timeout_s
        wait = FIRST_WAIT_S
        while True:
            left = deadline - time.monotonic()
            asked = wait
            try:
                response = self._client.post(self._url, json=body, timeout=max(left, 0.001))
            except httpx.HTTPError as error:
                problem = str(error) or type(error).__name__
            else:
                if response.status_code != 429 and response.status_code < 500:
                    return response
                problem = f"{response.status_code} {response.reason_phrase}"
                asked = max(wait, retry_after_s(response.headers))
            if time.monotonic() + asked >= deadline:
                raise EncoderError(
                    f"the encoder at {self._url} gave no answer within "
                    f"{self._settings.timeout_s:g} s ({problem}); check that it runs, or raise "
                    "P4R_ENCODER__TIMEOUT_S"
                )
            time.sleep(asked)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _vectors(self, response: httpx.Response, batch: list[str]) -> Floats:
        """What an answer says of each text, checked: (n, dim) float32, normalised."""
        self._check_status(response, batch)
        try:
            rows: list[Any] = [None] * len(batch)
            data = response.json()["data"]
            for place, one in enumerate(data):
                rows[_place(one, place, len(batch))] = _numbers(one["embedding"])
            is_whole = len(data) == len(batch) and all(row is not None for row in rows)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, binascii.Error):
            raise EncoderError(
                f"the encoder at {self._url} answers something else than embeddings; "
                "P4R_ENCODER__BASE_URL must be that of an OpenAI-compatible server"
            ) from None
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
            raise EncoderError(
                f"the encoder at {self._url} answers a vector that is zero, NaN or infinite to "
                f"the text {text[:60]!r}"
            )
        return normalised(matrix)

    def _check_status(self, response: httpx.Response, batch: list[str]) -> None:
        code = response.status_code
        if code == 200:
            return
        said = " ".join(response.text.split())[:200]
        if code in (401, 403):
            raise AuthenticationError(
                f"the encoder at {self._url} refused the API key; check P4R_ENCODER__API_KEY"
            )
        if code == 404:
            raise SettingsError(
                f"there is no model {self.model!r} at {self._url} ({said or code}); check "
                "P4R_ENCODER__MODEL, and that P4R_ENCODER__BASE_URL ends as in http://host:8080/v1"
            )
        if code in TOO_LARGE and self.dimension:
            raise InputError(
                f"the encoder at {self._url} does not take the text {batch[0][:60]!r} of "
                f"{len(batch[0])} characters ({said}); let it truncate, or shorten the text"
            )
        raise EncoderError(f"the encoder at {self._url} answers {code}: {said}")


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
    numbers = np.array(embedding, dtype=np.float32)  # a null is NaN
    if numbers.ndim != 1:
        raise ValueError
    return numbers


def _fingerprint(model: str, probes: Floats) -> str:
    """Model, width and text templates as a hash, and the probe, a character each projection."""
    width = probes.shape[1]
    # Directions that every machine makes alike: the bits of hashes.
    bits = b"".join(
        hashlib.sha256(f"{direction} {block}".encode()).digest()
        for direction in range(DIRECTIONS)
        for block in range(-(-width // 256))
    )
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(DIRECTIONS, -1)[:, :width]
    scaled = probes.astype(np.float64) @ (2.0 * signs.T - 1.0)
    middle = len(PROBE_LEVELS) // 2
    levels = np.clip(np.floor(scaled / STEP).astype(int) + middle, 0, len(PROBE_LEVELS) - 1)
    named = hashlib.sha256(repr([model, width, texts.fingerprint()]).encode()).hexdigest()[:16]
    return f"{named}.{''.join(PROBE_LEVELS[one] for one in levels.ravel())}"
