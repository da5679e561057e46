"""Rerank with the index and the reranker that the service uses."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.evaluation.experiment.pool import Pool
from indexer.evaluation.experiment.scoring import Scorer
from indexer.indexing.items import index_artifacts
from indexer.metrics import Ranks
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
    """The personas of the folder in an embedded index; unchanged items are not written again."""
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


@dataclass(frozen=True)
class Through:
    """An index and an encoder to rerank with. length: the interactions of a history."""

    index: PersonaIndex
    encoder: Encoder
    histories: Histories
    length: int
    progress: Progress = SILENT


def reranked(
    through: Through,
    pool: Pool,
    scorer: Scorer,
    *,
    weight: float | None = None,
    users: Collection[str] | None = None,
    explain: int = 0,
) -> Iterator[tuple[str, Ranking]]:
    """The ranking of each user (of `users`, or of all in the pool); fused if there is a weight.

    The scorer gives decay, interests and prior. Users without a list are skipped.
    """
    fusion = {} if weight is None else {"fusion": "weighted", "weight": weight}
    reranker = PersonaReranker(
        through.index,
        through.encoder,
        history=HistorySettings(length=through.length, decay=scorer.decay),
        rerank=RerankSettings.model_validate(
            {"interests": scorer.interests, "prior": scorer.prior} | fusion
        ),
    )
    lists = [(user, own) for user, own in pool.lists() if users is None or user in users]
    for batch in batches(lists, USERS_A_CALL):
        rankings = reranker.rerank_many(
            [through.histories.get(user) for user, _ in batch],
            [candidates for _, candidates in batch],
            explain=explain,
        )
        yield from zip((user for user, _ in batch), rankings, strict=True)
        through.progress.advance(len(batch))


def ranks(
    rankings: Iterator[tuple[str, Ranking]], users: Sequence[str], wanted: Sequence[str | None]
) -> Ranks:
    """The rank of each user's wanted item, (n_users,); 0 for a miss."""
    target = dict(zip(users, wanted, strict=True))
    found = dict.fromkeys(users, 0)
    for user, ranking in rankings:
        for item in ranking.items:
            if item.item_id == target[user]:
                found[user] = item.rank
    return np.array(list(found.values()), dtype=np.int64)


class Stopwatch:
    """Measures the milliseconds per user since it was created."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def ms_a_user(self, users: int) -> float:
        """Milliseconds so far, divided by the number of users."""
        return 1000 * (time.perf_counter() - self._began) / max(users, 1)
