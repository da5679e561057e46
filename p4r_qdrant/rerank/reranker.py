"""Rerank candidates with a persona index."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from p4r_qdrant.closing import Closing
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.cache import VectorCache
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.opening import open_versions
from p4r_qdrant.live.following import Following
from p4r_qdrant.live.hotswap import Current
from p4r_qdrant.live.loading import (
    HistoryOf,
    LoadEncoder,
    SharedEncoders,
    always,
    encoder_for_index,
    history_for_index,
)
from p4r_qdrant.live.pair import IndexAndEncoder, typical_user
from p4r_qdrant.records import PersonaMatch, Ranking, WhyNot
from p4r_qdrant.rerank.candidates import CandidateLike, distinct_candidates
from p4r_qdrant.rerank.changes import past_of
from p4r_qdrant.rerank.ordering import Request, rank_users
from p4r_qdrant.rerank.recommending import recommend
from p4r_qdrant.rerank.scoring import resolved
from p4r_qdrant.rerank.users import User, known_users
from p4r_qdrant.rerank.why_not import catalogue_candidates, why_not
from p4r_qdrant.settings import EncoderSettings, HistorySettings, RerankSettings, Settings


class PersonaReranker(Closing):
    """Reorders candidates by their best persona for a user (Eq. 10), and explains the order.

    With `fusion = "standard"` the persona score is one part of three; see `standard`.

    `RerankSettings` can add several interests and a persona prior to Eq. 10:
    score(u, i) = max over p in P_i and j of q_j @ v_p, where
    q_j = (1 - interests) h_u + interests e_uj - prior * mean of h over known users.
    A user given as a vector has no single interactions, so there is one q, of h_u.

    Candidates without personas follow the scored ones, in the generator's order. Ties are
    broken by item id. Thread-safe.

    A reranker made by `from_settings` can follow `p4r publish`: `refresh` switches to the version
    that is live now, and to its encoder. Each call is answered by one version as a whole.
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
        """Users given as histories need `encoder`, the one that made the index.

        Instead, `encoder_settings` or a function `load_encoder` can load it at first use. Raises
        IndexMismatchError if the encoder is another one, or if `rerank` sets a prior and the
        index has no typical user.
        """
        if load_encoder is None and encoder_settings is not None:
            load_encoder = partial(encoder_for_index, encoder_settings)
        self._history = history if callable(history) else always(history or HistorySettings())
        self._rerank = rerank or RerankSettings()
        self._load_encoder = load_encoder
        self._serving = Current(self._pair(index, encoder))
        self._following: Following[IndexAndEncoder] | None = None

    def _pair(self, index: PersonaIndex, encoder: Encoder | None = None) -> IndexAndEncoder:
        if self._rerank.prior:
            typical_user(index)  # raises now, rather than when the first user comes
        return IndexAndEncoder(index, self._history(index.metadata), self._load_encoder, encoder)

    @classmethod
    def from_settings(
        cls, settings: Settings | None = None, *, load_encoder: LoadEncoder | None = None
    ) -> PersonaReranker:
        """The reranker that `P4R_*` and p4r.toml describe, on an index that exists.

        Its encoder is the one that made the index, unless `P4R_ENCODER__*` name another one;
        `load_encoder` loads an encoder of your own from what the index notes of it. With
        `P4R_QDRANT__REFRESH_S` the reranker follows `p4r publish` by itself.
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
                load_encoder=SharedEncoders(
                    load_encoder or partial(encoder_for_index, settings.encoder),
                    VectorCache(settings.encoder.cache_mb),
                ),
            )
        except BaseException:
            if index is not None:
                index.close()
            versions.close()
            raise

        def open_version(name: str, old: IndexAndEncoder) -> IndexAndEncoder:
            index = versions.open(name)
            try:
                fresh = reranker._pair(index)
                if old.has_encoder:
                    fresh.encoder  # noqa: B018 - loaded now, not when the first user comes
            except BaseException:
                index.close()
                raise
            return fresh

        every_s = settings.qdrant.refresh_s
        reranker._following = Following(versions, reranker._serving, open_version, every_s)
        if every_s:
            reranker._following.start()
        return reranker

    @property
    def index(self) -> PersonaIndex:
        """The index that answers now; see `refresh`."""
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

        `top` cuts each ranking. `filter` (see `index.filters`) keeps only the candidates that
        match it; candidates without personas never do. The first `explain` items (None: all)
        carry their persona and, for users given as histories, the share of each interaction.
        What `rerank` sets replaces the reranker's own settings for this call.

        Raises InputError for an empty candidate list, VectorError for a vector that does not fit
        the index, IndexMismatchError if the encoder did not make the index.
        """
        if len(users) != len(candidates):
            raise InputError(f"{len(users)} users but {len(candidates)} candidate lists")
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        lists = [distinct_candidates(one, position) for position, one in enumerate(candidates)]
        with self._serving.in_use() as serving:
            options = self._options(rerank)
            request = Request.of(serving.index, options, top, filter, explain)
            return rank_users(serving, known_users(serving, users), lists, request)

    def _options(self, rerank: RerankSettings | None) -> RerankSettings:
        """The reranker's own settings, changed by what `rerank` sets."""
        changed = rerank.model_dump(exclude_unset=True) if rerank else {}
        return self._rerank.model_copy(update=changed)

    def recommend(
        self,
        user: User,
        top: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        exclude: Collection[str] = (),
        seen: bool = False,
        rerank: RerankSettings | None = None,
    ) -> Ranking:
        """The `top` items of the whole catalogue for a user, best first, each with its reasons.

        Candidates are the items with the nearest personas and, with `fusion = "standard"`, those
        with the best collaborative scores; the one score orders both. An unknown user gets the most
        popular items that the version records, perhaps none.

        The search is approximate if the index has HNSW links (P4R_INDEX__HNSW), else exact and
        slow. `exclude`: item ids to leave out. `seen`: whether items of the user's history may come
        again. Else as `rerank_many`.
        """
        with self._serving.in_use() as serving:
            [known] = known_users(serving, [user])
            options, weights = resolved(self._options(rerank), serving.index, catalogue=True)
            unwanted = set(exclude) if seen else {*exclude, *known.items}
            request = Request(options, weights, top, filter, None, has_generator=False)
            return recommend(serving, known, unwanted, request)

    def why_not(
        self,
        user: User,
        item_id: str,
        candidates: Sequence[CandidateLike] | None = None,
        top: int = 10,
        *,
        additions: int = 0,
        rerank: RerankSettings | None = None,
    ) -> WhyNot:
        """Why an item is not among the first `top`, and the smallest change that lifts it there.

        First each of the user's own items is left out; if that does not suffice, up to `additions`
        known items are added, which needs the encoder. A change that is returned was applied: its
        rank is that of the same candidates, ranked for the changed user. candidates: None for the
        items of the catalogue that `recommend` considers. Of a user given as a `UserVector` the
        older interactions are unknown; a plain vector has no history to change.

        Raises InputError if the item is not among the candidates, or if the user has it already and
        the catalogue is asked; else as `rerank_many`.
        """
        if top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        with self._serving.in_use() as serving:
            past = past_of(serving, user)
            if candidates is not None:
                given = distinct_candidates(candidates, 0)
                request = Request.of(serving.index, self._options(rerank), top)
            else:
                options, weights = resolved(self._options(rerank), serving.index, catalogue=True)
                request = Request(options, weights, top, has_generator=False)
                given = catalogue_candidates(serving, past.user, item_id, request)
            return why_not(serving, past, item_id, given, request, additions)

    def uses_items(self, rerank: RerankSettings | None = None) -> bool:
        """Whether scores need the items of users' whole histories: `KnownUser.items`."""
        with self._serving.in_use() as serving:
            index, options = serving.index, self._options(rerank)
            found = [resolved(options, index, catalogue=one) for one in (False, True)]
            return any(o.fusion == "standard" and w.collaborative > 0 for o, w in found)

    def search(
        self,
        text: str,
        top: int = 10,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
    ) -> list[PersonaMatch]:
        """The `top` items whose personas are nearest to a person described in words, best first.

        Raises InputError for a text without words or a wrong filter.
        """
        if not text.strip():
            raise InputError("describe the person in words, as in 'a night nurse who cooks'")
        with self._serving.in_use() as serving:
            [person] = serving.encoder.encode_queries([text])
            return serving.index.nearest_items(person, top, filter)

    @property
    def needs_scores(self) -> bool:
        """Whether every candidate needs the generator's score (weighted fusion)."""
        return self._rerank.fusion == "weighted"

    @property
    def encoder(self) -> Encoder:
        """The encoder of histories, loaded at first use.

        Raises InputError if there is none, IndexMismatchError if it did not make the index.
        """
        with self._serving.in_use() as serving:
            return serving.encoder

    @property
    def problem(self) -> str:
        """Why the last `refresh` failed; empty if it did not fail."""
        return self._following.problem if self._following else ""

    def refresh(self) -> bool:
        """Switch to the version that is live now. True if it is another one.

        Calls that are running end on the old version, which is closed afterwards. Raises P4RError
        if the new version or its encoder cannot be opened; the old version then stays.
        """
        if self._following is None:
            raise InputError("only a reranker made by from_settings can follow `p4r publish`")
        return self._following.refresh()

    def close(self) -> None:
        """Close the index. Closing twice is fine."""
        if self._following is not None:
            self._following.close()
        self._serving.now.close()
