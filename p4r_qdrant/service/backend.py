"""What requests are answered from: the live version of the index, and all that goes with it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from p4r_qdrant import texts
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import (
    IndexMismatchError,
    IndexUnavailableError,
    MissingExtraError,
    P4RError,
    SettingsError,
)
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.live.hotswap import Current
from p4r_qdrant.live.loading import LoadEncoder, history_for_index
from p4r_qdrant.records import Persona
from p4r_qdrant.rerank.reranker import LONGEST_WAIT_S, PersonaReranker
from p4r_qdrant.settings import HistorySettings, QdrantSettings, Settings
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.store import UserStore

MOST_NOTED = 10_000
"""Items whose writing is remembered until the next version takes over."""
KEEP_UP_S = 5.0
"""How often what is not there yet is tried again, and, where the settings do not say, how often
the service looks for what was published."""

EncoderState = Literal["ready", "loading", "absent", "failed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What this process made of an item, and when (microseconds); without personas it is out."""

    at: int
    personas: Sequence[Persona] = ()
    summary: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Live:
    """One version of the index, for reading and for writing, its users and its encoder.

    They are replaced as one: whoever works with several of them takes them from one `Live`.
    """

    reranker: PersonaReranker
    writer: PersonaIndex
    users: UserStore
    history: HistorySettings
    written: dict[str, Written] = field(default_factory=dict)
    """Items written through this process lately: a version that was being made lacks them."""

    @property
    def index(self) -> PersonaIndex:
        """For reading: with a deadline, and perhaps a key, of its own."""
        return self.reranker.index

    @property
    def encoder(self) -> Encoder:
        """Loaded if it was not yet. Raises where there is none: see PersonaReranker."""
        return self.reranker.encoder

    def note(self, item_id: str, written: Written) -> None:
        """Remember the newest MOST_NOTED items that were written."""
        self.written.pop(item_id, None)
        self.written[item_id] = written
        if len(self.written) > MOST_NOTED:
            self.written.pop(next(iter(self.written)), None)

    def take_over(self, before: Live, *, encodes: bool) -> None:
        """Write what came through this process while this version was being made, and later.

        Without an encoder (`encodes`) personas cannot be: they stay behind, and the log says so.
        """
        made = self.writer.metadata
        began = 1_000_000 * datetime.fromisoformat(made.began_at or made.created_at).timestamp()
        missed = [
            (item_id, one) for item_id, one in list(before.written.items()) if one.at >= began
        ]
        put = [(item_id, one) for item_id, one in missed if one.personas]
        for item_id, one in missed:
            if not one.personas:
                self.writer.delete_item(item_id)
        if put and not encodes:
            _log.warning("%d items were put during the publish and have to be put again", len(put))
        elif put:
            vectors = iter(
                self.encoder.encode_texts(
                    [
                        texts.persona_text(each, one.summary)
                        for _, one in put
                        for each in one.personas
                    ]
                )
            )
            for item_id, one in put:
                own = np.stack(list(islice(vectors, len(one.personas))))
                self.writer.replace_item(item_id, one.personas, own, one.fields)

    def close(self) -> None:
        """Close everything. Closing twice is fine."""
        self.reranker.close()
        self.writer.close()
        self.users.close()


class Backend:
    """Opened once, kept open; follows what is published; thread-safe.

    A Qdrant that cannot be reached is tried again until it can; everything else that is wrong
    (no collection, a wrong key, another encoder) is raised by `open`.
    """

    def __init__(self, settings: Settings, load_encoder: LoadEncoder | None = None) -> None:
        """`load_encoder` in place of what the settings and the index name."""
        self.settings = settings
        self.encoder_state: EncoderState = "loading"
        self.problem = ""
        """Why what was published last is not followed; empty where it is."""
        own = settings.qdrant
        self._follow_s = own.refresh_s if "refresh_s" in own.model_fields_set else KEEP_UP_S
        self._wait_s, self._next = self._follow_s, 0.0
        self._load_encoder = load_encoder
        self._versions: Versions | None = None
        self._current: Current[Live] | None = None
        self._lock = threading.Lock()

    def open(self) -> bool:
        """Open the index; False where Qdrant cannot be reached. Raises InputError."""
        with self._lock:
            if self._current is not None:
                return True
            try:
                self._versions = self._versions or open_versions(self.settings)
                live = self._opened(self._versions)
            except IndexUnavailableError as error:
                _log.warning("the index is not open yet: %s", error)
                return False
            self._current = Current(live)
        _log.info("reranking from %s", live.index.location)
        return True

    def _opened(self, versions: Versions) -> Live:
        name = versions.live()
        if name is None:
            raise IndexMismatchError(f"{versions.missing()}; make it with `p4r index`")
        settings = self.settings
        with ExitStack() as undo:
            writer = undo.enter_context(versions.open(name))
            writer.repair()
            index = writer
            if settings.qdrant.url is not None:
                with open_versions(reading(settings)) as readable:
                    index = undo.enter_context(readable.open(name))
            users = undo.enter_context(closing(open_store(settings, name, writer.metadata)))
            reranker = PersonaReranker(
                index,
                history=partial(history_for_index, settings),
                rerank=settings.rerank,
                encoder_settings=settings.encoder,
                load_encoder=self._load_encoder,
            )
            undo.pop_all()
        return Live(reranker, writer, users, history_for_index(settings, writer.metadata))

    def refresh(self) -> bool:
        """Go over to the version that is live now; True where that was another one.

        Who is at work ends on the old one. Raises P4RError where the new one or its encoder cannot
        be opened, and then the old one goes on.
        """
        with self._lock:
            if self._current is None or self._versions is None:
                return False
            if self._versions.live() == self._current.now.index.version:
                return False
            fresh = self._opened(self._versions)
            try:
                is_ready = self.encoder_state == "ready"
                if is_ready:
                    fresh.encoder  # noqa: B018 - loaded now, and not when the first user comes
                fresh.take_over(self._current.now, encodes=is_ready)
            except BaseException:
                fresh.close()
                raise
            self._current.replace(fresh)
        _log.info("reranking from %s", fresh.index.location)
        return True

    @contextmanager
    def in_use(self) -> Iterator[Live]:
        """What answers one request, from its beginning to its end.

        Raises IndexUnavailableError while the index is not open.
        """
        if self._current is None:
            raise IndexUnavailableError("the index is not open yet")
        with self._current.in_use() as live:
            yield live

    def is_now(self, live: Live) -> bool:
        """Whether this is what answers now, and was not replaced."""
        return self._current is not None and self._current.now is live

    @property
    def is_open(self) -> bool:
        """Whether the index is."""
        return self._current is not None

    def load_encoder(self) -> None:
        """Load the encoder now, rather than with the first request that needs it."""
        try:
            with self.in_use() as live:
                live.encoder  # noqa: B018 - loaded by asking for it
            self.encoder_state = "ready"
        except MissingExtraError as error:
            self.encoder_state = "absent"
            _log.info("only vectors and known users are reranked: %s", error)
        except P4RError as error:
            self.encoder_state = "failed"
            _log.error("histories cannot be encoded: %s", error)

    def keep_up(self) -> None:
        """What is done again and again: open what is not open, follow what was published."""
        if not self.open():
            return
        self.follow()
        if self.encoder_state in ("loading", "failed"):
            self.load_encoder()

    def follow(self) -> None:
        """`refresh` where its time has come; after failures less and less often."""
        if not self._follow_s or time.monotonic() < self._next:
            return
        try:
            self.refresh()
            self.problem, self._wait_s = "", self._follow_s
        except Exception as error:  # whatever it is, the old version goes on answering
            if str(error) != self.problem:
                _log.warning("the version before goes on being served: %s", error)
            self.problem = str(error)
            self._wait_s = min(2 * self._wait_s, max(self._follow_s, LONGEST_WAIT_S))
        self._next = time.monotonic() + self._wait_s

    async def keep_up_forever(self) -> None:
        """Call `keep_up` now and then, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.keep_up)
            except P4RError as error:
                _log.error("%s", error)
            except Exception:
                _log.exception("keeping up failed")
            await asyncio.sleep(min(KEEP_UP_S, self._follow_s or KEEP_UP_S))

    def is_reachable(self) -> bool:
        """Whether the index answers right now."""
        with suppress(P4RError), self.in_use() as live:
            live.index.get("-")
            return True
        return False

    def close(self) -> None:
        """Close everything. Closing twice is fine."""
        with self._lock:
            if self._current is not None:
                self._current.now.close()
            if self._versions is not None:
                self._versions.close()


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
