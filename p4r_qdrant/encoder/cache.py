"""Vectors of texts that were encoded before, in bounded memory."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np

from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.base import Encoder, EncoderOver
from p4r_qdrant.encoder.salvage import encoded_where_possible
from p4r_qdrant.errors import TextsRefusedError

ENTRY_BYTES = 320
"""Bytes that an entry takes beside its numbers: key, array object, links."""


class VectorCache:
    """The vectors of the texts that were used last, up to `megabytes`; 0 keeps none. Thread-safe.

    It holds hashes of texts, with a key that only this process has, and their vectors; never a
    text. `counted` is called with the numbers of texts that were found and not found.
    """

    def __init__(self, megabytes: float) -> None:
        self.counted: Callable[[int, int], None] = lambda _found, _missing: None
        self._most_bytes = int(megabytes * 1e6)
        self._bytes = 0
        self._rows: OrderedDict[bytes, Floats] = OrderedDict()
        self._lock = threading.Lock()
        self._secret = secrets.token_bytes(16)

    def get(self, encoder: Encoder, texts: Sequence[str], *, of_users: bool) -> list[Floats | None]:
        """The vector of each text, (dim,) float32; None for those that are not here.

        of_users: they are texts of histories, not of personas.
        """
        if not self._most_bytes:
            return [None] * len(texts)
        keys = list(self._keys(encoder, texts, of_users))
        with self._lock:
            found = [self._rows.get(key) for key in keys]
            for key, row in zip(keys, found, strict=True):
                if row is not None:
                    self._rows.move_to_end(key)
        missing = sum(row is None for row in found)
        self.counted(len(found) - missing, missing)
        return found

    def put(self, encoder: Encoder, texts: Sequence[str], rows: Floats, *, of_users: bool) -> None:
        """Keep vectors, (n, dim) float32; rows that are no numbers are left out."""
        if not self._most_bytes:
            return
        keys = self._keys(encoder, texts, of_users)
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                if key not in self._rows and np.isfinite(row).all():
                    self._rows[key] = row.copy()
                    self._bytes += row.nbytes + ENTRY_BYTES
            while self._bytes > self._most_bytes:
                _, oldest = self._rows.popitem(last=False)
                self._bytes -= oldest.nbytes + ENTRY_BYTES

    def clear(self) -> None:
        """Forget all vectors."""
        with self._lock:
            self._rows.clear()
            self._bytes = 0

    def _keys(self, encoder: Encoder, texts: Sequence[str], of_users: bool) -> Iterator[bytes]:
        """All that the vector of a text depends on, hashed."""
        prompt = encoder.query_prompt if of_users else encoder.document_prompt
        limit = encoder.lengths.limit if encoder.lengths else None
        space = repr((encoder.fingerprint, encoder.tolerance, of_users, limit, prompt))
        first = hashlib.blake2b(space.encode(), key=self._secret, digest_size=16)
        for text in texts:
            one = first.copy()
            one.update(text.encode(errors="surrogatepass"))
            yield one.digest()


class CachedEncoder(EncoderOver):
    """An encoder that takes the vectors of histories and personas from a cache where it can.

    `encode_texts` always encodes. Closing it closes the encoder, or calls `close`; the cache stays.
    """

    def __init__(
        self, encoder: Encoder, cache: VectorCache, close: Callable[[], None] | None = None
    ) -> None:
        super().__init__(encoder)
        self.kind, self.model, self.adapter = encoder.kind, encoder.model, encoder.adapter
        self.options, self.tolerance = encoder.options, encoder.tolerance
        self.workers = encoder.workers
        self._encoder = encoder
        self._cache = cache
        self._close: Callable[[], None] | None = close or encoder.close

    def encode_texts(self, batch: Sequence[str]) -> Floats:
        """See `Encoder`."""
        return self._encoder.encode_texts(batch)

    def encode_queries(self, batch: Sequence[str]) -> Floats:
        """See `Encoder`."""
        return self._cached(batch, self._encoder.encode_queries, of_users=True)

    def encode_documents(self, batch: Sequence[str]) -> Floats:
        """See `Encoder`."""
        return self._cached(batch, self._encoder.encode_documents, of_users=False)

    def _cached(
        self, batch: Sequence[str], encode: Callable[[Sequence[str]], Floats], *, of_users: bool
    ) -> Floats:
        rows = self._cache.get(self, batch, of_users=of_users)
        place_of = {text: n for n, text in enumerate(_distinct_missing(batch, rows))}
        fresh: Floats = np.zeros((0, self.dimension), dtype=np.float32)
        refused: Mapping[int, str] = {}
        if place_of:
            fresh, refused = encoded_where_possible(encode, list(place_of))
            self._cache.put(self, list(place_of), fresh, of_users=of_users)
        whole = [
            fresh[place_of[text]] if row is None else row
            for text, row in zip(batch, rows, strict=True)
        ]
        vectors: Floats = np.array(whole, dtype=np.float32).reshape(len(batch), self.dimension)
        if refused:
            reasons = {
                n: refused[place_of[text]]
                for n, text in enumerate(batch)
                if rows[n] is None and place_of[text] in refused
            }
            raise TextsRefusedError(batch, reasons, vectors)
        return vectors

    @contextmanager
    def on_all_devices(self) -> Iterator[None]:
        """See `Encoder`."""
        spread: AbstractContextManager[None] = self._encoder.on_all_devices()
        with spread:
            yield

    def close(self) -> None:
        """See `Encoder`."""
        close, self._close = self._close, None
        if close is not None:
            close()


def _distinct_missing(batch: Sequence[str], rows: Sequence[Floats | None]) -> list[str]:
    missing = (text for text, row in zip(batch, rows, strict=True) if row is None)
    return list(dict.fromkeys(missing))
