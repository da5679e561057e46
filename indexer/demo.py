"""`p4r demo`: the example catalogue, indexed and reranked, with nothing but this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from indexer.artifacts import CANDIDATES, ArtifactFolder, Refusals
from indexer.publish import index_artifacts
from indexer.reranking import Reranked, rerank_file
from p4r_qdrant.encoder import BUNDLED_MODEL, Encoder, PersonaEncoder
from p4r_qdrant.index.base import open_index
from p4r_qdrant.reranker import PersonaReranker
from p4r_qdrant.settings import Settings

READERS = ("maren-o", "norm-t", "jude-v")
"""Three readers of the bookshop whose tastes have little in common."""


def run(
    artifacts: Path,
    index_folder: Path,
    readers: Sequence[str],
    *,
    encoder: Encoder | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Reranked]:
    """Index a catalogue in `index_folder` on the embedded engine and rerank for `readers`.

    Everything is computed from the files of `artifacts`; nothing is prepared. The encoder is the
    bundled all-MiniLM-L6-v2 unless another is given.
    """
    folder = ArtifactFolder(artifacts)
    encoder = encoder or PersonaEncoder(BUNDLED_MODEL)
    settings = Settings(qdrant={"path": index_folder})
    refusals = Refusals()
    with open_index(
        settings,
        dimension=encoder.dimension,
        fingerprint=encoder.fingerprint,
        encoder=encoder.name,
        create=True,
    ) as index:
        index_artifacts(folder, encoder, index, domain="books", refusals=refusals, advance=advance)
        reranker = PersonaReranker(index, encoder)
        candidates = folder.file(CANDIDATES)
        for reader in readers:
            yield from rerank_file(folder, candidates, reranker, refusals, user=reader)
