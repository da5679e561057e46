"""`p4r demo`: the example catalogue, indexed and reranked, with nothing but this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.names import ASPECTS, CANDIDATES, PERSONAS
from indexer.indexing.collaborative import Fitting
from indexer.indexing.items import index_artifacts
from indexer.progress import SILENT, Progress
from indexer.reranking import Reranked, rerank_file
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.local import BUNDLED_MODEL, PersonaEncoder
from p4r_qdrant.index.opening import open_index
from p4r_qdrant.records import Aspects, ItemPersonas
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.settings import CollaborativeSettings, QdrantSettings, RerankSettings, Settings

READERS = ("maren-o", "norm-t", "jude-v")
"""Three readers of the bookshop whose tastes have little in common."""
SCORE = RerankSettings(
    fusion="standard", persona_weight=1, collaborative_weight=1, generator_weight=0
)
"""Both reasons show; on validation items of so few readers nothing can be chosen."""
LEAST_RATING = 4.0
"""Mean rating of a persona's evidence from which on the persona speaks for its item."""


def run(
    artifacts: Path,
    index_folder: Path,
    readers: Sequence[str],
    *,
    encoder: Encoder | None = None,
    refusals: Refusals | None = None,
    progress: Progress = SILENT,
) -> Iterator[Reranked]:
    """Index a catalogue in `index_folder` on the embedded engine and rerank for `readers`.

    Personas and the interactions of all readers count the same. Everything is computed from the
    files of `artifacts`. The encoder is the bundled all-MiniLM-L6-v2 unless another one is given.
    P4R_* and p4r.toml are ignored: they may name an index that is in use.
    """
    folder = ArtifactFolder(artifacts)
    progress.start("loading the encoder")
    encoder = encoder or PersonaEncoder(BUNDLED_MODEL)
    settings = Settings.model_construct(qdrant=QdrantSettings(path=index_folder))
    refusals = refusals if refusals is not None else Refusals()
    with open_index(settings, encoder=encoder, create=True) as index:
        progress.start("indexing items", folder.estimated_lines(PERSONAS))
        index_artifacts(
            folder, encoder, index, domain="books", refusals=refusals, progress=progress
        )
        progress.start("fitting the collaborative part")
        fitting = Fitting.planned(
            folder,
            CollaborativeSettings(),
            Refusals(),
            shape=(folder.estimated_lines(PERSONAS), encoder.dimension),
            training_only=True,
        )
        if fitting is not None:
            fitting.fit(index, {}, 0)
        reranker = PersonaReranker(index, encoder, rerank=SCORE)
        candidates = folder.file(CANDIDATES)
        for number, reader in enumerate(readers):
            # The files are read again for each reader; a broken line is reported once.
            reported = Refusals() if number else refusals
            yield from rerank_file(folder, candidates, reranker, reported, user=reader)


def speaking_for(folder: ArtifactFolder) -> set[str]:
    """The ids of the personas that speak for their item: good reasons to show first.

    A persona may also stand for readers who did not like an item, and its rationale is then a
    complaint. A persona speaks for its item if the reviews that it cites as evidence rate the item
    `LEAST_RATING` of 5 or better on average, or if it cites none: then it was written from the
    description of the item alone.
    """
    if not folder.has(ASPECTS):
        return {
            one.persona_id
            for _, _, found in read_lines(folder.file(PERSONAS), ItemPersonas, Refusals())
            for one in found.personas
        }
    ratings = {
        (one.user_id, one.item_id): one.rating
        for _, _, one in read_lines(folder.file(ASPECTS), Aspects, Refusals())
    }
    chosen = set()
    for _, _, found in read_lines(folder.file(PERSONAS), ItemPersonas, Refusals()):
        for one in found.personas:
            cited = [ratings.get((user_id, found.item_id)) for user_id in one.evidence]
            known = [rating for rating in cited if rating is not None]
            if not known or fmean(known) >= LEAST_RATING:
                chosen.add(one.persona_id)
    return chosen
