"""Reranking: a user, the candidates, one query, and the persona that explains each place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.user_vector import UserVector
from p4r_qdrant.errors import IndexMismatchError, InputError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.index.payload import check_vectors
from p4r_qdrant.index.versions import Versions
from p4r_qdrant.live.hotswap import Current
from p4r_qdrant.live.loading import (
    HistoryOf,
    LoadEncoder,
    always,
    encoder_for_index,
    history_for_index,
)
from p4r_qdrant.live.pair import IndexAndEncoder, typical_user
from p4r_qdrant.records import Interaction, PersonaMatch, Ranking
from p4r_qdrant.rerank.candidates import CandidateLike, User, Vector, distinct_candidates
from p4r_qdrant.rerank.ordering import Order, explain_orders, order_candidates, smaller_limit
from p4r_qdrant.settings import EncoderSettings, HistorySettings, RerankSettings, Settings
from p4r_qdrant.users.records import StoredUser

LONGEST_WAIT_S = 60.0
"""Between two attempts to follow a switch that failed."""


SAME = 5e-3
"""How far a score may be from the dot product of the vectors it is said to be of."""


_log = logging.getLogger(__name__)


class PersonaReranker:
    """Reorders candidates by their best persona for a user (Eq. 10), and says why.

    `RerankSettings` may ask for several interests and a persona prior in place of Eq. 10:
    score(u, i) = max over p in P_i and j of q_j @ v_p, where
    q_j = (1 - interests) h_u + interests e_uj - prior * mean of h over known users.
    A user given as a vector has no single interactions: one q, of h_u.

    Candidates without personas keep the generator's order behind the scored ones. Ties are
    broken by item id. Thread-safe.

    Made by `from_settings` it can follow `p4r publish`: `refresh` puts the version that is live
    now, and its encoder, in the place of the old ones. A call is answered by one of both pairs.
    """

    def __init__(
        self,
        index: PersonaIndex,
        encoder: Encoder | None = None,
        *,
        history: HistorySettings | HistoryOf | None = None,
        rerank: RerankSettings | None = None,
        encoder_settings: EncoderSettings | None = None,
        load_encoder: LoadEncoder | None = None,
    ) -> None:
        """`encoder` is needed for users given as histories; with `encoder_settings` (or a
        function of your own that loads it) it is loaded when the first of them comes. It must be
        the one the index was made with. Raises IndexMismatchError where it is not, or where
        `rerank` asks for a prior and the index has no typical user.
        """
        if load_encoder is None and encoder_settings is not None:
            load_encoder = partial(encoder_for_index, encoder_settings)
        self._history = history if callable(history) else always(history or HistorySettings())
        self._rerank = rerank or RerankSettings()
        if self._rerank.prior:
            typical_user(index)  # better now than when the first user comes
        self._load_encoder = load_encoder
        self._serving = Current(
            IndexAndEncoder(index, self._history(index.metadata), load_encoder, encoder)
        )
        self._refreshing = threading.Lock()
        self._versions: Versions | None = None
        self._closing = threading.Event()
        self._follower: threading.Thread | None = None
        self.problem = ""
        """Why the last `refresh` failed; empty where it did not."""

    @classmethod
    def from_settings(
        cls, settings: Settings | None = None, *, load_encoder: LoadEncoder | None = None
    ) -> PersonaReranker:
        """The reranker that `P4R_*` and p4r.toml ask for, on an index that exists.

        Its encoder is the one that made the index, as far as `P4R_ENCODER__*` do not name
        another; `load_encoder` finds encoders of your own by what was noted with the index. With
        `P4R_QDRANT__REFRESH_S` it follows what is published by itself.
        """
        settings = settings or Settings.load()
        versions = open_versions(settings)
        index = None
        try:
            index = versions.open_live()
            reranker = cls(
                index,
                history=partial(history_for_index, settings),
                rerank=settings.rerank,
                encoder_settings=settings.encoder,
                load_encoder=load_encoder,
            )
        except BaseException:
            if index is not None:
                index.close()
            versions.close()
            raise
        reranker._versions = versions
        if settings.qdrant.refresh_s:
            reranker._follow(settings.qdrant.refresh_s)
        return reranker

    @property
    def index(self) -> PersonaIndex:
        """The index that answers now."""
        return self._serving.now.index

    def rerank(
        self,
        user: User,
        candidates: Sequence[CandidateLike],
        top: int | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        explain: int | None = 10,
        rerank: RerankSettings | None = None,
    ) -> Ranking:
        """Rerank one user's candidates, best first; see `rerank_many`."""
        return self.rerank_many(
            [user], [candidates], top, filter=filter, explain=explain, rerank=rerank
        )[0]

    def rerank_many(
        self,
        users: Sequence[User],
        candidates: Sequence[Sequence[CandidateLike]],
        top: int | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        explain: int | None = 10,
        rerank: RerankSettings | None = None,
    ) -> list[Ranking]:
        """Rerank each user's candidates; all users are scored in one call.

        `top` cuts each ranking. `filter` (see `index.filters`) keeps only the candidates known
        to match it; one without personas is not. The first `explain` items (None: all) carry
        their persona, and for users given as histories what each interaction contributed.
        What `rerank` sets counts in place of the reranker's own settings, for this call.

        Raises InputError for an empty candidate list, VectorError for a vector that does not
        fit, IndexMismatchError where the encoder is not the index's.
        """
        if len(users) != len(candidates):
            raise InputError(f"{len(users)} users but {len(candidates)} candidate lists")
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        options = self._options(rerank)
        lists = [distinct_candidates(one, position) for position, one in enumerate(candidates)]
        with self._serving.in_use() as serving:
            return self._rankings(serving, users, lists, top, filter, explain, options)

    def _rankings(
        self,
        serving: IndexAndEncoder,
        users: Sequence[User],
        lists: list[list[tuple[str, float | None]]],
        top: int | None,
        filter: Mapping[str, Any] | None,  # noqa: A002
        explain: int | None,
        options: RerankSettings,
    ) -> list[Ranking]:
        """What `rerank_many` returns, from one index and its encoder."""
        index = serving.index
        vectors = self._user_vectors(serving, users)
        asked = [
            position
            for position, vector in enumerate(vectors)
            if vector is not None or filter is not None
        ]
        matches: list[list[PersonaMatch]] = []
        fused = options.fusion != "none"
        if asked:
            matches = index.best_personas(
                [serving.directions(vectors[one], options) for one in asked],
                [[item_id for item_id, _ in lists[one]] for one in asked],
                filter,
                explain=0 if fused else smaller_limit(top, explain),
                with_vectors=not fused and any(isinstance(one, UserVector) for one in vectors),
            )
        by_user = dict(zip(asked, matches, strict=True))
        orders = [
            order_candidates(
                vectors[one],
                lists[one],
                by_user.get(one),
                options,
                only_matching=filter is not None,
            )
            for one in range(len(users))
        ]
        if fused:
            explain_orders(index, orders, smaller_limit(top, explain))
        return [order.ranking(top, index.metadata.fingerprint) for order in orders]

    def rerank_stored(
        self,
        user: StoredUser,
        candidates: Sequence[CandidateLike],
        top: int | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        explain: int | None = 10,
        rerank: RerankSettings | None = None,
    ) -> Ranking:
        """Rerank for a user whose vector the query names; see `rerank_many`.

        Raises IndexMismatchError where the vector is not there.
        """
        options = self._options(rerank)
        known = partial(self.rerank, top=top, filter=filter, explain=explain, rerank=rerank)
        if options.interests or options.prior:  # then the query is made of more than the vector
            return known(user.told(), candidates)
        given = distinct_candidates(candidates, 0)
        item_ids = [item_id for item_id, _ in given]
        fused = options.fusion != "none"
        shown = smaller_limit(top, explain)
        with self._serving.in_use() as serving:
            matches = serving.index.best_personas_of(
                user.point, item_ids, filter, explain=0 if fused else shown
            )
            vector = user.told()
            order = order_candidates(
                vector, given, matches, options, only_matching=filter is not None
            )
            if fused:
                explain_orders(serving.index, [order], shown)
            ranking = order.ranking(top, serving.index.metadata.fingerprint)
        first = next((one for one in order.matches if one.vector is not None), None)
        if first is None or abs(float(vector.vector @ first.vector) - (first.score or 0)) < SAME:
            return ranking
        # The user did something between the query and the reading: reasons must be the score's.
        return known(vector, candidates)

    def _options(self, rerank: RerankSettings | None) -> RerankSettings:
        """The reranker's own settings, but for what `rerank` sets."""
        changed = rerank.model_dump(exclude_unset=True) if rerank else {}
        return self._rerank.model_copy(update=changed)

    def recommend(
        self,
        user: User,
        top: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        exclude: Collection[str] = (),
    ) -> Ranking:
        """The `top` items of the whole catalogue for a user, best first, each with its persona.

        Found by nearness of personas, so approximately where the index has HNSW links
        (P4R_INDEX__HNSW), exactly and slowly where it has none. `exclude`: items not to be named,
        such as those the user has had. Empty for somebody unknown. Raises as `rerank_many` does.
        """
        with self._serving.in_use() as serving:
            fingerprint = serving.index.metadata.fingerprint
            [vector] = self._user_vectors(serving, [user])
            if vector is None:
                return Ranking((), personalized=False, fingerprint=fingerprint)
            matches = serving.index.nearest_items(
                serving.directions(vector, self._rerank),
                top,
                filter,
                exclude=exclude,
                with_vectors=isinstance(vector, UserVector),
            )
        nowhere: dict[str, tuple[int, float | None]] = {one.item_id: (0, None) for one in matches}
        scores = {one.item_id: one.score for one in matches}
        order = Order(vector, nowhere, matches, scores, self._rerank.interests)
        return order.ranking(top, fingerprint)

    def _user_vectors(self, serving: IndexAndEncoder, users: Sequence[User]) -> list[Vector | None]:
        """h_u of the histories, given vectors as they are, None for those unknown."""
        vectors: list[Vector | None] = [None] * len(users)
        histories: dict[int, Sequence[Interaction]] = {}
        for position, user in enumerate(users):
            if isinstance(user, UserVector):
                check_vectors([user.vector], serving.index.metadata.dimension, f"user {position}")
                vectors[position] = user
                continue
            if user is None or len(user) == 0:
                continue
            if isinstance(user[0], Interaction):
                histories[position] = user  # type: ignore[assignment]
                continue
            given: Any = [user]
            dimension = serving.index.metadata.dimension
            vectors[position] = check_vectors(given, dimension, f"user {position}")[0]
        if histories:
            encoded = serving.encoder.user_vectors(
                list(histories.values()), length=serving.history.length, decay=serving.history.decay
            )
            for position, vector in zip(histories, encoded, strict=True):
                vectors[position] = vector
        return vectors

    @property
    def needs_scores(self) -> bool:
        """Whether every candidate must come with the generator's score (weighted fusion)."""
        return self._rerank.fusion == "weighted"

    @property
    def encoder(self) -> Encoder:
        """The encoder of histories; loaded now if it was not yet.

        Raises InputError where there is none, IndexMismatchError where it is not the index's.
        """
        with self._serving.in_use() as serving:
            return serving.encoder

    def refresh(self) -> bool:
        """Go over to the version that is live now; True where that was another one.

        Calls under way end on the old one, which is closed afterwards. Raises P4RError where the
        new one or its encoder cannot be opened, and then the old one goes on.
        """
        if self._versions is None:
            raise InputError("only a reranker made by from_settings can follow what is published")
        with self._refreshing:
            try:
                moved = self._go_over(self._versions)
            except Exception as error:
                self.problem = str(error)
                raise
            self.problem = ""
            return moved

    def _go_over(self, versions: Versions) -> bool:
        name = versions.live()
        if name == self.index.version or self._closing.is_set():
            return False
        if name is None:
            raise IndexMismatchError(f"{versions.missing()} any more; publish it again")
        index = versions.open(name)
        try:
            if self._rerank.prior:
                typical_user(index)
            fresh = IndexAndEncoder(index, self._history(index.metadata), self._load_encoder)
            if self._serving.now.has_encoder:
                fresh.encoder  # noqa: B018 - loaded now, and not when the first user comes
        except BaseException:
            index.close()
            raise
        self._serving.replace(fresh)
        return True

    def _follow(self, every_s: float) -> None:
        """Refresh again and again, until closed; after failures less and less often."""

        def follow() -> None:
            wait = every_s
            while not self._closing.wait(wait):
                told = self.problem
                try:
                    self.refresh()
                    wait = every_s
                except Exception as error:
                    wait = min(2 * wait, max(every_s, LONGEST_WAIT_S))
                    if str(error) != told:
                        _log.warning("%s goes on being served: %s", self.index.location, error)

        self._follower = threading.Thread(target=follow, name="p4r-refresh", daemon=True)
        self._follower.start()

    def close(self) -> None:
        """Close the index. Closing twice is fine."""
        self._closing.set()
        if self._follower is not None:
            self._follower.join()
        with self._refreshing:
            self._serving.now.close()
            if self._versions is not None:
                self._versions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
