"""One version of the index, opened with everything that requests need of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from pydantic import ValidationError

from p4r_qdrant import texts
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import SettingsError
from p4r_qdrant.index import provisional
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.live.loading import LoadEncoder, history_for_index
from p4r_qdrant.moderation import withheld
from p4r_qdrant.records import Persona
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.settings import HistorySettings, QdrantSettings, RerankSettings, Settings
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.store import UserStore

MAX_WRITTEN = 10_000
"""Items whose last write is remembered until the next version is live."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """The last write of an item by this process.

    publish: `Versions.publishes` after the write. personas: empty if the item was deleted.
    """

    publish: int
    personas: Sequence[Persona] = ()
    summary: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Live:
    """One version of the index for reading and writing, its users and its encoder.

    They are replaced together: code that uses several of them takes them from one `Live`.
    """

    reranker: PersonaReranker
    writer: PersonaIndex
    users: UserStore
    history: HistorySettings
    written: dict[str, Written] = field(default_factory=dict)
    """Recent writes of this process: a version that was being published lacks them."""

    @classmethod
    def open(cls, settings: Settings, versions: Versions, name: str, load: LoadEncoder) -> Live:
        """Open the version `name`, whose encoder `load` loads at first use."""
        with ExitStack() as undo:
            writer = undo.enter_context(versions.open(name))
            writer.repair()
            index = writer
            if settings.qdrant.url is not None:
                with open_versions(reading(settings)) as readable:
                    index = undo.enter_context(readable.open(name))
            history = history_for_index(settings, writer.metadata)
            store = open_store(settings, name, writer.metadata, history)
            users = undo.enter_context(closing(store))
            reranker = PersonaReranker(
                index,
                history=partial(history_for_index, settings),
                rerank=settings.rerank,
                load_encoder=load,
            )
            undo.pop_all()
        return cls(reranker, writer, users, history)

    @property
    def version(self) -> str:
        """Name of the version of the index."""
        return self.index.version

    @property
    def index(self) -> PersonaIndex:
        """The index for reading, with its own deadline and perhaps its own key."""
        return self.reranker.index

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded at first use. Raises as `PersonaReranker.encoder` does."""
        return self.reranker.encoder

    def reread(self) -> None:
        """Read the metadata of the index again: a publish may have changed it."""
        self.index.refresh()
        if self.writer is not self.index:
            self.writer.refresh()

    def items_of(
        self, user_ids: Iterable[str], rerank: RerankSettings | None = None
    ) -> dict[str, dict[str, str]]:
        """The items of users' whole histories, if scores need them; else nothing is read."""
        if not self.reranker.uses_items(rerank):
            return {user_id: {} for user_id in user_ids}
        return {user_id: self.users.items(user_id) for user_id in dict.fromkeys(user_ids)}

    def note(self, item_id: str, written: Written) -> None:
        """Remember a write. Only the newest MAX_WRITTEN items are kept."""
        self.written.pop(item_id, None)
        self.written[item_id] = written
        if len(self.written) > MAX_WRITTEN:
            self.written.pop(next(iter(self.written)), None)

    def take_over(self, before: Live, *, can_encode: bool) -> None:
        """Repeat the writes that this process made since the publish of this version began.

        No clocks are compared: see `Versions.begin_publish`. Without an encoder (`can_encode`) new
        personas cannot be written; a warning counts them.
        """
        number = self.writer.metadata.publish
        began = int(number) if number.isdecimal() else 0
        missed = [
            (item_id, one) for item_id, one in list(before.written.items()) if one.publish >= began
        ]
        policy, writer = self.writer.metadata.policy, self.writer
        wanted = [(item_id, one) for item_id, one in missed if one.personas]
        put = [
            (item_id, one)
            for item_id, one in wanted
            if not withheld(policy, one.personas, writer.get(item_id))
        ]
        if len(put) < len(wanted):
            _log.warning(
                "%d items were put during the publish and are not approved: they are not served",
                len(wanted) - len(put),
            )
        for item_id, one in missed:
            if not one.personas:
                self.writer.delete_item(item_id)
        if put and not can_encode:
            _log.warning(
                "%d items were put during the publish, and no encoder is ready: put them again",
                len(put),
            )
        elif put:
            persona_texts = [
                text for _, one in put for text in texts.persona_texts(one.personas, one.summary)
            ]
            vectors = iter(self.encoder.encode_documents(persona_texts))
            for item_id, one in put:
                own = np.stack(list(islice(vectors, len(one.personas))))
                self.writer.replace_item(item_id, one.personas, own, one.fields)
                provisional.add(self.writer, [(item_id, own)])

    def close(self) -> None:
        """Close everything. Closing twice is fine."""
        self.reranker.close()
        self.writer.close()
        self.users.close()


def reading(settings: Settings) -> Settings:
    """The settings for reading: the deadline of a rerank, and the reading key if there is one."""
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
