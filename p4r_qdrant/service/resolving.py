"""Turn the users of a rerank request into vectors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from p4r_qdrant.encoder.user_vector import UserVector, history_texts, user_vector
from p4r_qdrant.errors import IndexUnavailableError, P4RError, TextsRefusedError, for_log
from p4r_qdrant.records import Interaction
from p4r_qdrant.rerank.users import KnownUser, items_of
from p4r_qdrant.schemas.operations import EncoderState
from p4r_qdrant.service import problems
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.batching import Batcher, BusyError
from p4r_qdrant.service.metrics import Metrics
from p4r_qdrant.service.request import FailedError, RankThreads, Request, log_failure
from p4r_qdrant.users.records import StoredInteraction
from p4r_qdrant.users.store import UserStore

MAX_REMEMBERED = 100
"""User vectors that wait to be written. Beyond that they are dropped, and encoded again later."""

_log = logging.getLogger(__name__)


class Resolver:
    """Finds the vector of each user: given, stored, or encoded from a history."""

    def __init__(
        self, backend: Backend, batcher: Batcher, metrics: Metrics, threads: RankThreads
    ) -> None:
        self._backend = backend
        self._batcher = batcher
        self._metrics = metrics
        self._threads = threads
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="p4r-remember")
        self._remembering = 0

    async def resolve(self, request: Request) -> None:
        """Fill in `request.users`, and `request.reasons` for those that fail.

        Raises ProblemError (429) if too many texts wait for the encoder.
        """
        histories: dict[int, Sequence[Interaction]] = {}
        known = {}
        for position, user in enumerate(request.body.users):
            if user.vector is not None:
                request.users[position] = np.asarray(user.vector, dtype=np.float32)
            elif user.history:
                histories[position] = user.interactions()
            elif user.user_id is not None:
                known[position] = user.user_id
        bare = await self._look_up(request, known) if known else {}
        for position, user_id in known.items():
            if user_id in bare:
                histories[position] = [one.record for one in bare[user_id]]
        if histories:
            await self._encode(request, histories)
        for position, user_id in known.items():
            made = request.users[position]
            if user_id in bare and isinstance(made, UserVector):
                self._remember(request.live.users, bare[user_id], made)
        await self.add_items(request)

    async def _look_up(
        self, request: Request, known: Mapping[int, str]
    ) -> dict[str, list[StoredInteraction]]:
        """Fill in stored vectors. Returns the interactions of users that have no vector here."""
        store = request.live.users

        def work() -> tuple[dict[str, UserVector], dict[str, list[StoredInteraction]]]:
            vectors = store.user_vectors(list(set(known.values())))
            missing = set(known.values()) - vectors.keys()
            return vectors, {user_id: store.recent(user_id) for user_id in missing}

        try:
            with self._metrics.stage("user"):
                vectors, bare = await self._threads.run(work, request)
        except FailedError as error:
            request.degrade(list(known), error.reason)
            return {}
        for position, user_id in known.items():
            request.users[position] = vectors.get(user_id)
        return bare

    async def add_items(self, request: Request) -> None:
        """Add the items of whole histories to users, if the collaborative score needs them."""
        if not request.live.reranker.uses_items(request.fusion):
            return
        wanted = {
            at: user.user_id
            for at, user in enumerate(request.body.users)
            if user.user_id is not None and not user.history and request.reasons[at] is None
        }
        items: dict[str, dict[str, str]] = {}
        if wanted:
            live = request.live
            try:
                with self._metrics.stage("user"):
                    work = partial(live.items_of, wanted.values(), request.fusion)
                    items = await self._threads.run(work, request)
            except FailedError as error:
                request.degrade(list(wanted), error.reason)
                return
        for position, user in enumerate(request.body.users):
            own = items_of(user.interactions()) if user.history else {}
            own = items.get(wanted.get(position, ""), own)
            vector = request.users[position]
            if own and request.reasons[position] is None:
                assert vector is None or isinstance(vector, UserVector)  # noqa: S101
                request.users[position] = KnownUser(vector, own)

    async def _encode(
        self, request: Request, histories: Mapping[int, Sequence[Interaction]]
    ) -> None:
        """Fill in the vectors of histories, encoded as one batch."""
        history = request.live.history
        positions = list(histories)
        users = [history_texts(one, history.length) for one in histories.values()]
        texts = [text for pairs in users for _, text in pairs]
        if not texts:
            return
        if self._backend.encoder_state != EncoderState.READY:
            request.degrade(positions, "encoder_unavailable")
            return
        try:
            with self._metrics.stage("encode"):
                async with asyncio.timeout(request.seconds_left):
                    rows = await self._batcher.encode(request.live, texts, of_users=True)
        except TextsRefusedError as error:
            log_failure(error)
            rows = error.vectors
        except BusyError:
            raise problems.busy(
                "too many histories are waiting for the encoder "
                "(P4R_SERVICE__MAX_WAITING_TEXTS); try again in a second"
            ) from None
        except TimeoutError:
            request.degrade(positions, "deadline")
            return
        except IndexUnavailableError:
            request.degrade(positions, "index_unavailable")
            return
        except Exception as error:
            log_failure(error)
            request.degrade(positions, "encoder_unavailable")
            return
        start = 0
        for position, pairs in zip(positions, users, strict=True):
            own = rows[start : start + len(pairs)]
            start += len(pairs)
            if np.isfinite(own).all():
                request.users[position] = user_vector([one for one, _ in pairs], own, history.decay)
            else:  # one of the texts was refused
                request.degrade([position], "encoder_unavailable")

    def _remember(
        self, store: UserStore, recent: Sequence[StoredInteraction], made: UserVector
    ) -> None:
        """Write what was encoded, so that the next request finds it."""
        if self._remembering >= MAX_REMEMBERED:
            return
        spoken = [one for one in recent if one.text]
        encoded = [one.encoded(row) for one, row in zip(spoken, made.embeddings, strict=True)]

        def work() -> None:
            try:
                store.remember(encoded)
            except P4RError as error:
                _log.warning("a user vector was not written: %s", for_log(error))
            finally:
                self._remembering -= 1

        self._remembering += 1
        self._writer.submit(work)

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.shutdown(wait=True, cancel_futures=True)
