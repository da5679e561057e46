"""`p4r demo`: the example catalogue, indexed and reranked, with nothing but this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import CANDIDATES, PERSONAS
from indexer.indexing.items import index_artifacts
from indexer.progress import SILENT, Progress
from indexer.reranking import Reranked, rerank_file
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.encoder.local import BUNDLED_MODEL, PersonaEncoder
from p4r_qdrant.index.opening import open_index
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.settings import QdrantSettings, Settings

READERS = ("maren-o", "norm-t", "jude-v")
"""Three readers of the bookshop whose tastes have little in common."""


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

    Everything is computed from the files of `artifacts`; nothing is prepared. The encoder is the
    bundled all-MiniLM-L6-v2 unless another is given. P4R_* and p4r.toml are left aside: they may
    name an index that somebody works with.
    """
    folder = ArtifactFolder(artifacts)
    encoder = encoder or PersonaEncoder(BUNDLED_MODEL)
    settings = Settings.model_construct(qdrant=QdrantSettings(path=index_folder))
    refusals = refusals if refusals is not None else Refusals()
    with open_index(settings, encoder=encoder, create=True) as index:
        progress.start("indexing items", folder.estimated_lines(PERSONAS))
        index_artifacts(
            folder, encoder, index, domain="books", refusals=refusals, progress=progress
        )
        reranker = PersonaReranker(index, encoder)
        candidates = folder.file(CANDIDATES)
        for number, reader in enumerate(readers):
            # The files are read again for each reader; what is wrong in them is told once.
            told = Refusals() if number else refusals
            yield from rerank_file(folder, candidates, reranker, told, user=reader)
