"""Reranking: a user, the candidates, one query, and the persona that explains each place."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from p4r_qdrant.encoder.adapter import tuned_history
from p4r_qdrant.encoder.base import ENDPOINT, VECTORS, Encoder, Floats, UserVector, load_encoder
from p4r_qdrant.errors import EncoderError, IndexMismatchError, InputError
from p4r_qdrant.index.index import IndexMetadata, PersonaIndex, StoredVector
from p4r_qdrant.index.payload import check_vectors
from p4r_qdrant.index.versions import Versions, open_versions
from p4r_qdrant.live.hotswap import Current
from p4r_qdrant.records import Candidate, Interaction, PersonaMatch, RankedItem, Ranking
from p4r_qdrant.settings import EncoderSettings, HistorySettings, RerankSettings, Settings

User = UserVector | Sequence[Interaction] | npt.NDArray[np.floating[Any]] | Sequence[float] | None
"""A history in any order or what became of one, a vector (dim,), or None (and []) for somebody
unknown."""

Vector = UserVector | npt.NDArray[np.float32]

CandidateLike = str | tuple[str, float | None] | Candidate
"""An item id, or one with the generator's score; lists of them are best first."""

LoadEncoder = Callable[[IndexMetadata], Encoder]
HistoryOf = Callable[[IndexMetadata], HistorySettings]

LONGEST_WAIT_S = 60.0
"""Between two attempts to follow a switch that failed."""
SAME = 5e-3
"""How far a score may be from the dot product of the vectors it is said to be of."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredUser:
    """A user whose vector is at `point`; `told` brings it whole, for the reasons.

    `told` raises IndexMismatchError where it is not there.
    """

    point: StoredVector
    told: Callable[[], UserVector]


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
            load_encoder = partial(encoder_of, encoder_settings)
        self._history = history if callable(history) else _always(history or HistorySettings())
        self._rerank = rerank or RerankSettings()
        if self._rerank.prior:
            _typical_user(index)  # better now than when the first user comes
        self._load_encoder = load_encoder
        self._serving = Current(
            _Serving(index, self._history(index.metadata), load_encoder, encoder)
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
                history=partial(history_of, settings),
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
        lists = [_distinct(one, position) for position, one in enumerate(candidates)]
        with self._serving.in_use() as serving:
            return self._rankings(serving, users, lists, top, filter, explain, options)

    def _rankings(
        self,
        serving: _Serving,
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
                explain=0 if fused else _least(top, explain),
                with_vectors=not fused and any(isinstance(one, UserVector) for one in vectors),
            )
        by_user = dict(zip(asked, matches, strict=True))
        orders = [
            _ordered(
                vectors[one],
                lists[one],
                by_user.get(one),
                options,
                only_matching=filter is not None,
            )
            for one in range(len(users))
        ]
        if fused:
            _explain(index, orders, _least(top, explain))
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
        given = _distinct(candidates, 0)
        item_ids = [item_id for item_id, _ in given]
        fused = options.fusion != "none"
        shown = _least(top, explain)
        with self._serving.in_use() as serving:
            matches = serving.index.best_personas_of(
                user.point, item_ids, filter, explain=0 if fused else shown
            )
            vector = user.told()
            order = _ordered(vector, given, matches, options, only_matching=filter is not None)
            if fused:
                _explain(serving.index, [order], shown)
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
        order = _Order(vector, nowhere, matches, scores, self._rerank.interests)
        return order.ranking(top, fingerprint)

    def _user_vectors(self, serving: _Serving, users: Sequence[User]) -> list[Vector | None]:
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
                _typical_user(index)
            fresh = _Serving(index, self._history(index.metadata), self._load_encoder)
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


def encoder_of(settings: EncoderSettings, made_with: IndexMetadata) -> Encoder:
    """The encoder an index was made with, or the one that `P4R_ENCODER__*` name instead.

    Raises IndexMismatchError where it is not the same, EncoderError where it cannot be loaded.
    """
    given = settings.model_fields_set & {"model", "adapter", "base_url"}
    if made_with.kind == VECTORS and not given:
        raise IndexMismatchError(
            f"the index holds vectors that were encoded elsewhere ({made_with.encoder}): give "
            "users as vectors, or name that encoder with P4R_ENCODER__*"
        )
    if made_with.kind == ENDPOINT and not given:
        raise IndexMismatchError(
            f"the index was made with {made_with.model} behind an address: set "
            "P4R_ENCODER__BASE_URL to it"
        )
    noted = {"model": made_with.model, "adapter": made_with.adapter}
    missing = {name: value for name, value in noted.items() if value and name not in given}
    try:
        encoder = load_encoder(settings.model_copy(update=missing))
    except EncoderError as error:
        if not missing or not given:
            raise
        raise IndexMismatchError(
            f"the index was made with the encoder {made_with.encoder}, and "
            f"{' and '.join(f'P4R_ENCODER__{name.upper()}' for name in sorted(given))} do not go "
            f"with it: {error}"
        ) from None
    return encoder


class _Serving:
    """An index, its encoder and the history it wants: what answers, and is replaced as one."""

    def __init__(
        self,
        index: PersonaIndex,
        history: HistorySettings,
        load: LoadEncoder | None,
        encoder: Encoder | None = None,
    ) -> None:
        self.index = index
        self.history = history
        self._load = load
        self._encoder_lock = threading.Lock()
        self._own: Encoder | None = None
        """The encoder that was loaded here, and is closed here."""
        self._encoder = self._checked(encoder) if encoder is not None else None

    @property
    def has_encoder(self) -> bool:
        return self._encoder is not None

    @property
    def encoder(self) -> Encoder:
        with self._encoder_lock:
            if self._encoder is None:
                if self._load is None:
                    raise InputError(
                        "this reranker has no encoder: give users as vectors, or an encoder to it"
                    )
                self._own = self._load(self.index.metadata)
                self._encoder = self._checked(self._own)
            return self._encoder

    def directions(self, vector: Vector | None, options: RerankSettings) -> Floats:
        """What the personas are compared with for a user: (k, dim) float32.

        The prior of a persona v is its mean similarity to known users, which is its similarity
        to their mean: v @ h - prior * (v @ mean) = v @ (h - prior * mean).
        """
        if vector is None:
            # Nobody to personalise for, but a filter to apply: any direction finds who matches.
            return np.eye(1, self.index.metadata.dimension, dtype=np.float32)
        if isinstance(vector, UserVector):
            rows = vector.directions(options.interests)
        else:
            rows = vector[None]
        if not options.prior:
            return rows
        return rows - np.float32(options.prior) * _typical_user(self.index)

    def _checked(self, encoder: Encoder) -> Encoder:
        self.index.metadata.check(encoder.dimension, encoder.fingerprint, "the persona index")
        return encoder

    def close(self) -> None:
        self.index.close()
        if self._own is not None:
            self._own.close()


def _typical_user(index: PersonaIndex) -> Floats:
    typical = index.metadata.typical
    if typical is None:
        raise IndexMismatchError(
            f"{index.location} has no typical user, which a persona prior needs: run `p4r index` "
            "or `p4r publish` with P4R_RERANK__PRIOR set, or set it to 0"
        )
    return typical


def history_of(settings: Settings, metadata: IndexMetadata) -> HistorySettings:
    """The history's length and decay: as they were set, else as the index's adapter records."""
    return tuned_history(settings.history, metadata.adapter or settings.encoder.adapter)


def _always(history: HistorySettings) -> HistoryOf:
    return lambda _: history


@dataclass(slots=True)
class _Order:
    """One user's candidates on their way into a ranking; `vector` is None for somebody unknown.

    generator: each item's place (from 1) and score there. scores: what ordered the matches.
    interests: see `RerankSettings`.
    """

    vector: Vector | None
    generator: Mapping[str, tuple[int, float | None]]
    matches: list[PersonaMatch]
    scores: Mapping[str, float | None]
    interests: float = 0.0

    def ranking(self, top: int | None, fingerprint: str) -> Ranking:
        """The first `top` as callers get them."""
        return Ranking(
            tuple(
                RankedItem(
                    item_id=match.item_id,
                    rank=rank,
                    score=self.scores.get(match.item_id),
                    persona_score=match.score,
                    persona=match.persona,
                    because=(
                        self.vector.because(match.vector, self.interests)
                        if isinstance(self.vector, UserVector) and match.vector is not None
                        else ()
                    ),
                    generator_score=self.generator[match.item_id][1],
                    generator_rank=self.generator[match.item_id][0],
                )
                for rank, match in enumerate(self.matches[:top], start=1)
            ),
            personalized=self.vector is not None,
            fingerprint=fingerprint,
        )


def _explain(index: PersonaIndex, orders: Sequence[_Order], shown: int | None) -> None:
    """Give the first matches of each order their texts, those of all users in one request."""
    asked = [order for order in orders if order.vector is not None]
    told = iter(
        index.explain(
            [match for order in asked for match in order.matches[:shown]],
            with_vectors=any(isinstance(order.vector, UserVector) for order in asked),
        )
    )
    for order in asked:
        first = len(order.matches[:shown])
        order.matches[:first] = islice(told, first)


def _ordered(
    vector: Vector | None,
    candidates: list[tuple[str, float | None]],
    matches: list[PersonaMatch] | None,
    options: RerankSettings,
    *,
    only_matching: bool,
) -> _Order:
    """One user's candidates in their final order, by persona scores or fused ones."""
    generator = {
        item_id: (place, score) for place, (item_id, score) in enumerate(candidates, start=1)
    }
    if only_matching and matches is not None:
        matches = [one for one in matches if one.score is not None]
        kept = {one.item_id for one in matches}
        candidates = [one for one in candidates if one[0] in kept]
    if vector is None or matches is None:
        unknown = [PersonaMatch(item_id) for item_id, _ in candidates]
        return _Order(None, generator, unknown, {})
    scores = {one.item_id: one.score for one in matches}
    if options.fusion != "none":
        scores = _fused(scores, candidates, options)
        # Without either score the generator's order holds; Python's sort is stable.
        matches = sorted(matches, key=lambda one: _best_first(scores[one.item_id], one.item_id))
    return _Order(vector, generator, matches, scores, options.interests)


def _fused(
    personas: Mapping[str, float | None],
    candidates: list[tuple[str, float | None]],
    fusion: RerankSettings,
) -> dict[str, float | None]:
    """One score from both: weighted min-max, or reciprocal ranks.

    An item without personas is judged by the generator alone: what the generator says of it
    stands in for the persona part, so that it is neither punished nor preferred.
    """
    persona_part: dict[str, float]
    scored = {item_id: score for item_id, score in personas.items() if score is not None}
    if fusion.fusion == "weighted":
        missing = next((item_id for item_id, score in candidates if score is None), None)
        if missing is not None:
            raise InputError(
                f"weighted fusion needs the generator's scores and candidate {missing!r} has "
                "none; add them or set P4R_RERANK__FUSION=rrf"
            )
        weight = fusion.weight
        generator_part = _min_max({item_id: score or 0.0 for item_id, score in candidates})
        persona_part = _min_max(scored)
    else:
        weight = 0.5
        constant = fusion.rrf_k
        generator_part = {
            item_id: 1 / (constant + rank) for rank, (item_id, _) in enumerate(candidates, 1)
        }
        order = sorted(scored, key=lambda item_id: _best_first(scored[item_id], item_id))
        persona_part = {item_id: 1 / (constant + rank) for rank, item_id in enumerate(order, 1)}
    return {
        item_id: weight * persona_part.get(item_id, other) + (1 - weight) * other
        for item_id, other in generator_part.items()
    }


def _distinct(candidates: Sequence[CandidateLike], position: int) -> list[tuple[str, float | None]]:
    """Candidates as (item id, generator score), each id once, at its first place."""
    if isinstance(candidates, str):
        raise InputError("candidates must be a list of item ids, not one text")
    pairs: dict[str, float | None] = {}
    for candidate in candidates:
        if isinstance(candidate, Candidate):
            item_id, score = candidate.item_id, candidate.score
        elif isinstance(candidate, str):
            item_id, score = candidate, None
        else:
            try:
                item_id, score = candidate
                score = None if score is None else float(score)
            except (TypeError, ValueError):
                raise InputError(
                    f"candidate {candidate!r} of user {position} is neither an item id nor an id "
                    "with a number"
                ) from None
        if not isinstance(item_id, str):
            raise InputError(f"the candidate {item_id!r} of user {position} is no text; use str()")
        if score is not None and not math.isfinite(score):
            raise InputError(f"the generator's score of candidate {item_id!r} is {score}")
        pairs.setdefault(item_id, score)
    if not pairs:
        raise InputError(f"user {position} has no candidates; give at least one item id")
    return list(pairs.items())


def _best_first(score: float | None, item_id: str) -> tuple[bool, float, str]:
    return (
        score is None,
        -score if score is not None else 0.0,
        item_id if score is not None else "",
    )


def _least(top: int | None, explain: int | None) -> int | None:
    given = [limit for limit in (top, explain) if limit is not None]
    return min(given) if given else None


def _min_max(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores scaled to 0..1; all 0.5 where they are all the same."""
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    if high <= low:
        return dict.fromkeys(scores, 0.5)
    return {item_id: (score - low) / (high - low) for item_id, score in scores.items()}
