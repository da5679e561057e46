"""Reranking: a user, the candidates, one query, and the persona that explains each place."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from p4r_qdrant.encoder import Encoder, PersonaEncoder, UserVector
from p4r_qdrant.errors import InputError
from p4r_qdrant.index.base import PersonaIndex, open_index
from p4r_qdrant.index.payload import check_vectors
from p4r_qdrant.records import Candidate, Interaction, PersonaMatch, RankedItem, Ranking
from p4r_qdrant.settings import EncoderSettings, HistorySettings, RerankSettings, Settings

User = UserVector | Sequence[Interaction] | npt.NDArray[np.floating[Any]] | Sequence[float] | None
"""A history in any order or what became of one, a vector (dim,), or None (and []) for somebody
unknown."""

Vector = UserVector | npt.NDArray[np.float32]

CandidateLike = str | tuple[str, float | None] | Candidate
"""An item id, or one with the generator's score; lists of them are best first."""


class PersonaReranker:
    """Reorders candidates by their best persona for a user (Eq. 10), and says why.

    Candidates without personas keep the generator's order behind the scored ones. Ties are
    broken by item id. Thread-safe.
    """

    def __init__(
        self,
        index: PersonaIndex,
        encoder: Encoder | None = None,
        *,
        history: HistorySettings | None = None,
        rerank: RerankSettings | None = None,
        encoder_settings: EncoderSettings | None = None,
    ) -> None:
        """`encoder` is needed for users given as histories; with `encoder_settings` it is loaded
        when the first of them comes. It must be the one the index was made with.
        """
        self.index = index
        self._history = history or HistorySettings()
        self._rerank = rerank or RerankSettings()
        self._encoder_settings = encoder_settings
        self._encoder_lock = threading.Lock()
        self._encoder = self._checked(encoder) if encoder is not None else None

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> PersonaReranker:
        """The reranker that `P4R_*` and p4r.toml ask for, on an index that exists."""
        settings = settings or Settings.load()
        return cls(
            open_index(settings),
            history=settings.history,
            rerank=settings.rerank,
            encoder_settings=settings.encoder,
        )

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
        `rerank` fuses otherwise than the reranker's own settings, for this call.

        Raises InputError for an empty candidate list, VectorError for a vector that does not
        fit, IndexMismatchError where the encoder is not the index's.
        """
        if len(users) != len(candidates):
            raise InputError(f"{len(users)} users but {len(candidates)} candidate lists")
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        fusion = rerank or self._rerank
        lists = [_distinct(one, position) for position, one in enumerate(candidates)]
        vectors = self._user_vectors(users)
        # Nobody to personalise for, but a filter to apply: any direction finds who matches.
        anywhere = np.eye(1, self.index.metadata.dimension, dtype=np.float32)[0]
        asked = [
            position
            for position, vector in enumerate(vectors)
            if vector is not None or filter is not None
        ]
        matches: list[list[PersonaMatch]] = []
        fused = fusion.fusion != "none"
        if asked:
            matches = self.index.best_personas(
                np.array([_direction(vectors[one], anywhere) for one in asked], dtype=np.float32),
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
                fusion,
                only_matching=filter is not None,
            )
            for one in range(len(users))
        ]
        if fused:
            self._explain(orders, _least(top, explain))
        return [order.ranking(top) for order in orders]

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
        [vector] = self._user_vectors([user])
        if vector is None:
            return Ranking((), personalized=False)
        matches = self.index.nearest_items(
            _direction(vector, np.zeros(0, np.float32)),
            top,
            filter,
            exclude=exclude,
            with_vectors=isinstance(vector, UserVector),
        )
        nowhere: dict[str, tuple[int, float | None]] = {one.item_id: (0, None) for one in matches}
        scores = {one.item_id: one.score for one in matches}
        return _Order(vector, nowhere, matches, scores).ranking(top)

    def _explain(self, orders: Sequence[_Order], shown: int | None) -> None:
        """Give the first matches of each order their texts, those of all users in one request."""
        asked = [order for order in orders if order.vector is not None]
        told = iter(
            self.index.explain(
                [match for order in asked for match in order.matches[:shown]],
                with_vectors=any(isinstance(order.vector, UserVector) for order in asked),
            )
        )
        for order in asked:
            first = len(order.matches[:shown])
            order.matches[:first] = islice(told, first)

    def _user_vectors(self, users: Sequence[User]) -> list[Vector | None]:
        """h_u of the histories, given vectors as they are, None for those unknown."""
        vectors: list[Vector | None] = [None] * len(users)
        histories: dict[int, Sequence[Interaction]] = {}
        for position, user in enumerate(users):
            if isinstance(user, UserVector):
                check_vectors([user.vector], self.index.metadata.dimension, f"user {position}")
                vectors[position] = user
                continue
            if user is None or len(user) == 0:
                continue
            if isinstance(user[0], Interaction):
                histories[position] = user  # type: ignore[assignment]
                continue
            given: Any = [user]
            vectors[position] = check_vectors(
                given, self.index.metadata.dimension, f"user {position}"
            )[0]
        if histories:
            encoded = self.encoder.user_vectors(
                list(histories.values()), length=self._history.length, decay=self._history.decay
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
        with self._encoder_lock:
            if self._encoder is None:
                if self._encoder_settings is None:
                    raise InputError(
                        "this reranker has no encoder: give users as vectors, or an encoder to it"
                    )
                self._encoder = self._checked(PersonaEncoder.from_settings(self._encoder_settings))
            return self._encoder

    def _checked(self, encoder: Encoder) -> Encoder:
        self.index.metadata.check(encoder.dimension, encoder.fingerprint, "the persona index")
        return encoder

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(slots=True)
class _Order:
    """One user's candidates on their way into a ranking; `vector` is None for somebody unknown.

    generator: each item's place (from 1) and score there. scores: what ordered the matches.
    """

    vector: Vector | None
    generator: Mapping[str, tuple[int, float | None]]
    matches: list[PersonaMatch]
    scores: Mapping[str, float | None]

    def ranking(self, top: int | None) -> Ranking:
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
                        self.vector.because(match.vector)
                        if isinstance(self.vector, UserVector) and match.vector is not None
                        else ()
                    ),
                    generator_score=self.generator[match.item_id][1],
                    generator_rank=self.generator[match.item_id][0],
                )
                for rank, match in enumerate(self.matches[:top], start=1)
            ),
            personalized=self.vector is not None,
        )


def _ordered(
    vector: Vector | None,
    candidates: list[tuple[str, float | None]],
    matches: list[PersonaMatch] | None,
    fusion: RerankSettings,
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
    if fusion.fusion != "none":
        scores = _fused(scores, candidates, fusion)
        # Without either score the generator's order holds; Python's sort is stable.
        matches = sorted(matches, key=lambda one: _best_first(scores[one.item_id], one.item_id))
    return _Order(vector, generator, matches, scores)


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


def _direction(vector: Vector | None, anywhere: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if vector is None:
        return anywhere
    return vector.vector if isinstance(vector, UserVector) else vector


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
