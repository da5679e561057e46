"""A benchmark of peers and of personas, on the lists of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from indexer.artifacts.candidate_lists import read_candidates
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.demo.local_llm import LocalLLM
from indexer.evaluation.experiment.online import indexed
from indexer.llm import check_key
from indexer.peers import registry
from indexer.peers.asking import PeerSources
from indexer.peers.bench import Bench, BenchPlan
from indexer.peers.cells import Cell
from indexer.peers.lists import queries
from indexer.peers.material import Material
from indexer.peers.memory import device_bytes, resident_bytes
from indexer.peers.offline import OfflineCost, earned_back, offline_cost
from indexer.peers.options import PeerOptions
from indexer.peers.personas import PersonasPeer, stored_users
from indexer.peers.protocol import PeerQuery
from indexer.progress import Progress
from indexer.prompts import Domain
from indexer.reasoning.step import Sources
from p4r_qdrant.encoder import loading as encoders
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.errors import InputError
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.settings import Settings

PERSONAS, STORED = "personas", "personas, stored user vectors"
FREE_S = 30.0
"""Seconds for each form of personas."""


@dataclass(frozen=True)
class BenchRequest:
    """What is measured, on which lists."""

    artifacts: Path
    candidates: Path
    domain: str
    names: list[str]
    options: PeerOptions
    plan: BenchPlan


@dataclass(frozen=True)
class BenchResult:
    """All cells, memory in bytes, and what personas cost offline.

    process_bytes, llm_bytes: resident memory of this process, and of the LLM if it was started
    here; nothing is known of another endpoint's memory. device_bytes: the most that this process
    has had on a GPU; None without one. earned_back: requests by peer, for the first number of
    candidates.
    """

    model: str
    cells: list[Cell]
    process_bytes: int | None
    llm_bytes: int | None
    device_bytes: int | None
    offline: OfflineCost
    earned_back: dict[str, float | None]


def measured(
    wanted: BenchRequest,
    settings: Settings,
    progress: Progress,
    *,
    local: bool = False,
    encoder: Encoder | None = None,
) -> BenchResult:
    """Measure every peer, then personas. Raises what stops the LLM.

    local: start the small LLM here, and ask it. encoder: of personas; None: that of the settings.
    """
    with ExitStack() as stack:
        server = stack.enter_context(LocalLLM()) if local else None
        llm = server.settings() if server else settings.llm
        if wanted.names:
            check_key(llm)
        folder = ArtifactFolder(wanted.artifacts)
        material = stack.enter_context(Material(folder, Refusals()))
        lists = read_candidates(wanted.candidates, Refusals())
        found = list(queries(material, lists))
        longest = max((len(one.candidates) for one in found), default=0)
        if longest < min(wanted.plan.candidates):
            raise InputError(
                f"{wanted.candidates} has lists of {longest} candidates at most: name smaller "
                "--depths, or candidates in [peers.bench]"
            )
        domain = Domain.load(wanted.domain)
        sources = PeerSources(domain, llm, wanted.options, material)
        cells: list[Cell] = []
        bench = Bench(wanted.plan, found, progress)
        share = wanted.plan.seconds / max(1, len(wanted.names))
        for name in wanted.names:
            cells += bench.cells(registry.made(name, sources), name, llm, share)
        llm_bytes = resident_bytes(server.pid) if server else None
        if encoder is None:
            progress.start("loading the encoder")
            encoder = encoders.load_encoder(settings.encoder)
        cells += _personas(wanted, settings, folder, found, progress, encoder)
        offline = offline_cost(Sources(folder, domain, llm))
        first = min(wanted.plan.candidates)
        singles = [one for one in cells if (one.users, one.candidates) == (1, first)]
        return BenchResult(
            llm.model,
            cells,
            resident_bytes(),
            llm_bytes,
            device_bytes(),
            offline,
            {one.peer: earned_back(offline, one) for one in singles},
        )


def _personas(
    wanted: BenchRequest,
    settings: Settings,
    folder: ArtifactFolder,
    found: list[PeerQuery],
    progress: Progress,
    encoder: Encoder,
) -> Iterator[Cell]:
    """Personas in a temporary index: histories encoded with each request, or stored vectors."""
    with (
        TemporaryDirectory() as place,
        indexed(folder, Path(place) / "index", encoder, wanted.domain, Refusals()) as index,
    ):
        reranker = PersonaReranker(index, encoder, history=settings.history, rerank=settings.rerank)
        asking = found[: max(wanted.plan.users)]
        stored = stored_users(asking, encoder, settings.history)
        bench = Bench(wanted.plan, found, progress)
        for name, vectors in ((PERSONAS, None), (STORED, stored)):
            yield from bench.cells(PersonasPeer(reranker, vectors), name, None, FREE_S)
