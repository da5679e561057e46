"""The lines of the main table: through the real index and the real reranker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.evaluation.experiment.pool import Pool
from indexer.evaluation.experiment.scoring import Scorer
from indexer.evaluation.metrics import Ranks
from indexer.indexing.items import index_artifacts
from indexer.progress import SILENT, Progress
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.index.batching import batches
from p4r_qdrant.index.index import PersonaIndex
from p4r_qdrant.index.opening import open_index
from p4r_qdrant.records import Ranking
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.settings import (
    HistorySettings,
    IndexSettings,
    QdrantSettings,
    RerankSettings,
    Settings,
)

USERS_A_CALL = 64
MOST_PERSONAS = 256


@contextmanager
def indexed(
    folder: ArtifactFolder, path: Path, encoder: Encoder, domain: str, refusals: Refusals
) -> Iterator[PersonaIndex]:
    """The folder's personas in an embedded index; what is there already is not written again."""
    settings = Settings.model_construct(
        qdrant=QdrantSettings(path=path), index=IndexSettings(max_personas=MOST_PERSONAS)
    )
    with open_index(
        settings,
        dimension=encoder.dimension,
        fingerprint=encoder.fingerprint,
        encoder=encoder.name,
        create=True,
    ) as index:
        index_artifacts(folder, encoder, index, domain=domain, refusals=refusals)
        yield index


def reranked(
    index: PersonaIndex,
    encoder: Encoder,
    histories: Histories,
    pool: Pool,
    *,
    length: int,
    scorer: Scorer,
    weight: float | None = None,
    users: Sequence[str] | None = None,
    explain: int = 0,
    progress: Progress = SILENT,
) -> Iterator[tuple[str, Ranking]]:
    """Each user's ranking (of `users`, or all of the pool); with a weight by weighted fusion.

    Of the scorer there are decay, interests and prior. Users without a list are left out.
    """
    fusion = {} if weight is None else {"fusion": "weighted", "weight": weight}
    reranker = PersonaReranker(
        index,
        encoder,
        history=HistorySettings(length=length, decay=scorer.decay),
        rerank=RerankSettings.model_validate(
            {"interests": scorer.interests, "prior": scorer.prior} | fusion
        ),
    )
    chosen = set(pool.users if users is None else users)
    lists = [
        (user, own)
        for user, *row in zip(
            pool.users, pool.candidates.tolist(), pool.scores.tolist(), strict=True
        )
        if user in chosen
        and (own := [(pool.items[at], score) for at, score in zip(*row, strict=True) if at >= 0])
    ]
    for batch in batches(lists, USERS_A_CALL):
        rankings = reranker.rerank_many(
            [histories.get(user) for user, _ in batch],
            [candidates for _, candidates in batch],
            explain=explain,
        )
        yield from zip((user for user, _ in batch), rankings, strict=True)
        progress.advance(len(batch))


def ranks(
    rankings: Iterator[tuple[str, Ranking]], users: Sequence[str], wanted: Sequence[str | None]
) -> Ranks:
    """Where each user's wanted item stands; 0 for a miss."""
    target = dict(zip(users, wanted, strict=True))
    found = dict.fromkeys(users, 0)
    for user, ranking in rankings:
        for item in ranking.items:
            if item.item_id == target[user]:
                found[user] = item.rank
    return np.array(list(found.values()), dtype=np.int64)


class Stopwatch:
    """Milliseconds a user, over everything that was timed."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def ms_a_user(self, users: int) -> float:
        """Since it was made."""
        return 1000 * (time.perf_counter() - self._began) / max(users, 1)
