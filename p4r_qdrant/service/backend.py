"""What requests are answered from: the reranker, its encoder, and the index for writing."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import Literal

from pydantic import ValidationError

from p4r_qdrant.encoder import Encoder
from p4r_qdrant.errors import (
    IndexUnavailableError,
    MissingExtraError,
    P4RError,
    SettingsError,
)
from p4r_qdrant.index.base import PersonaIndex, open_index
from p4r_qdrant.reranker import PersonaReranker
from p4r_qdrant.service.users.store import UserStore, open_store
from p4r_qdrant.settings import QdrantSettings, Settings

KEEP_UP_S = 5.0
"""How often what is not there yet is tried again."""

EncoderState = Literal["ready", "loading", "absent", "failed"]

_log = logging.getLogger(__name__)


class Backend:
    """Opened once, kept open; thread-safe.

    A Qdrant that cannot be reached is tried again until it can; everything else that is wrong
    (no collection, a wrong key, another encoder) is raised by `open`.
    """

    def __init__(self, settings: Settings, encoder: Encoder | None = None) -> None:
        """`encoder` in place of the one that the settings name."""
        self.settings = settings
        self.encoder_state: EncoderState = "loading"
        self._given_encoder = encoder
        self._reranker: PersonaReranker | None = None
        self._writer: PersonaIndex | None = None
        self._users: UserStore | None = None
        self._lock = threading.Lock()

    def open(self) -> bool:
        """Open the index; False where Qdrant cannot be reached. Raises InputError."""
        with self._lock:
            if self._reranker is not None:
                return True
            try:
                self._open()
            except IndexUnavailableError as error:
                _log.warning("the index is not open yet: %s", error)
                return False
        _log.info("reranking from %s", self.reranker.index.location)
        return True

    def _open(self) -> None:
        settings = self.settings
        writer = open_index(settings)
        try:
            # A server's queries have a deadline, and perhaps a key, of their own.
            index = writer if settings.qdrant.url is None else open_index(reading(settings))
        except BaseException:
            writer.close()
            raise
        try:
            self._users = open_store(settings, writer.metadata.dimension)
        except BaseException:
            index.close()
            writer.close()
            raise
        self._writer = writer
        self._reranker = PersonaReranker(
            index,
            self._given_encoder,
            history=settings.history,
            rerank=settings.rerank,
            encoder_settings=settings.encoder,
        )

    @property
    def reranker(self) -> PersonaReranker:
        """Raises IndexUnavailableError while the index is not open."""
        if self._reranker is None:
            raise IndexUnavailableError("the index is not open yet")
        return self._reranker

    @property
    def writer(self) -> PersonaIndex:
        """The index for writing. Raises IndexUnavailableError while it is not open."""
        if self._writer is None:
            raise IndexUnavailableError("the index is not open yet")
        return self._writer

    @property
    def users(self) -> UserStore:
        """What users did. Raises IndexUnavailableError while the index is not open."""
        if self._users is None:
            raise IndexUnavailableError("the index is not open yet")
        return self._users

    @property
    def fingerprint(self) -> str:
        """Of the encoder whose vectors the index holds."""
        return self.reranker.index.metadata.fingerprint

    @property
    def is_open(self) -> bool:
        """Whether the index is."""
        return self._reranker is not None

    def encoder(self) -> Encoder:
        """The encoder of the index in use. Raises where there is none: see PersonaReranker."""
        return self.reranker.encoder

    def load_encoder(self) -> None:
        """Load the encoder now, rather than with the first request that needs it."""
        try:
            self.encoder()
            self.encoder_state = "ready"
        except MissingExtraError as error:
            self.encoder_state = "absent"
            _log.info("only vectors and known users are reranked: %s", error)
        except P4RError as error:
            self.encoder_state = "failed"
            _log.error("histories cannot be encoded: %s", error)

    def keep_up(self) -> None:
        """What is done every KEEP_UP_S seconds: open what is not open, load what is not loaded."""
        if not self.open():
            return
        if self.encoder_state in ("loading", "failed"):
            self.load_encoder()

    async def keep_up_forever(self) -> None:
        """Call `keep_up` now and then, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.keep_up)
            except P4RError as error:
                _log.error("%s", error)
            except Exception:
                _log.exception("keeping up failed")
            await asyncio.sleep(KEEP_UP_S)

    def is_reachable(self) -> bool:
        """Whether the index answers right now."""
        with suppress(P4RError):
            self.reranker.index.get("-")
            return True
        return False

    def close(self) -> None:
        """Close everything. Closing twice is fine."""
        with self._lock:
            if self._reranker is not None:
                self._reranker.close()
            if self._writer is not None:
                self._writer.close()
            if self._users is not None:
                self._users.close()


def reading(settings: Settings) -> Settings:
    """The settings of the reranking path: its deadline, and its key where it has one."""
    own = settings.service
    changed = {
        "timeout_s": min(settings.qdrant.timeout_s, own.deadline_ms / 1000),
        "api_key": own.qdrant_read_key or settings.qdrant.api_key,
    }
    try:
        qdrant = QdrantSettings(**(settings.qdrant.model_dump() | changed))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise SettingsError(f"P4R_SERVICE__QDRANT_READ_KEY: {problem}") from None
    return settings.model_copy(update={"qdrant": qdrant})
