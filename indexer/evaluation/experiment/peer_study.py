"""The LLM rerankers of an experiment: checked for leaks, estimated, and run on its lists."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS
from indexer.evaluation.experiment.config import PeersConfig
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.peer_student import NAME as STUDENT
from indexer.evaluation.experiment.peer_student import FoldedStudents
from indexer.evaluation.experiment.pool import Indexes
from indexer.evaluation.experiment.selection import Judged
from indexer.evaluation.leaks.content import HeldOutRuns
from indexer.evaluation.leaks.report import LeakReport
from indexer.ledger import LEDGER, Ledger
from indexer.llm import LLM, Request
from indexer.metrics import Floats, Ranks
from indexer.peers import registry
from indexer.peers.asking import PeerSources
from indexer.peers.leaks import Named, peer_checks
from indexer.peers.material import Material
from indexer.peers.options import Precision
from indexer.peers.protocol import Asker, PeerAnswer, PeerQuery
from indexer.peers.results import Totals
from indexer.peers.running import DryRun, asker, rank_all
from indexer.peers.tuned import TunedRecord, tuned_check
from indexer.prompts import Domain
from indexer.reasoning.run import Estimate
from p4r_qdrant.records import Candidate, CandidateList
from p4r_qdrant.settings import LLMSettings

if TYPE_CHECKING:
    from indexer.peers.local import LocalModel

WITH_AVERAGES = "rated, with averages"
EXPLAINED = "explained"


@dataclass(frozen=True)
class PeerRun:
    """One peer on the lists of one generator.

    ranks: of the test items of the study's users. shuffled: the same for candidates given in a
    random order; taus: Kendall's tau of both orders of each user who has a list.
    """

    name: str
    generator: str
    candidates: int
    ranks: Ranks
    totals: Totals
    shuffled: Ranks | None = None
    taus: Floats | None = None


class PeerStudy(ExitStack):
    """All peers on the lists of all generators that are compared; a context manager.

    members: (n,) positions of the study's users in those of the experiment.
    """

    def __init__(
        self,
        config: PeersConfig,
        context: Context,
        judged: Mapping[str, Judged],
        strongest: Mapping[str, str],
        llm: LLMSettings | None,
    ) -> None:
        """`llm`: None only if no peer asks an endpoint."""
        super().__init__()
        self._config = config
        self._context = context
        self._llm = llm or LLMSettings()
        self.count = config.candidates or context.config.candidates[0]
        generators = config.generators or [strongest[str(self.count)]]
        self._judged = {name: judged[name].first(self.count) for name in generators}
        self.members = _sample(len(context.data.users), config.users, context.config.seeds[0])
        models = {self._llm.of(f"peer-{name}").model for name in config.names}
        self.model = ", ".join(sorted(models))
        self._material = Material(context.data.folder, Refusals())
        self.ledger = context.output / LEDGER

    def __enter__(self) -> Self:
        self.enter_context(self._material)
        sources = PeerSources(
            Domain.load(self._context.config.domain), self._llm, self._config, self._material
        )
        self.peers = list(_variants(self._config.names, sources))
        self._explainers = [(EXPLAINED, registry.made(EXPLAINED, sources))]
        if self._config.judge is None:
            self._explainers = []
        self._models: dict[str, LocalModel] = {}
        if self._config.untuned:
            self._add_untuned(sources)
        for name, adapter in self._config.adapters.items():
            self._add_tuned(name, adapter, sources)
        self._students = self._folded(sources)
        self.queries = {name: list(self._queries(one)) for name, one in self._judged.items()}
        return self

    def _add_untuned(self, sources: PeerSources) -> None:
        """Load the local model alone, and add the peers that ask it."""
        model, llm = self._loaded("the local model", precision=self._config.precision)
        self.model = ", ".join(one for one in (self.model, model.name) if one)
        for name, peer in _variants(self._config.untuned, replace(sources, llm=llm)):
            self._models[f"{name}, local"] = model
            self.peers.append((f"{name}, local", peer))

    def _add_tuned(self, name: str, adapter: Path, sources: PeerSources) -> None:
        """Load a tuned model, whose prompts are those that it was tuned with."""
        label = f"{name}, tuned"
        self._models[label], llm = self._loaded(label, adapter)
        options = TunedRecord.read(adapter).peer_options
        mine = replace(sources, llm=llm, options=options)
        self.peers.append((label, registry.made(name, mine)))

    def _folded(self, sources: PeerSources) -> FoldedStudents | None:
        """The students that are taught here, if any."""
        if self._config.student is None:
            return None
        seed, progress = self._context.config.seeds[0], self._context.progress
        folder = self._context.output / "student"
        return FoldedStudents(self._config.student, sources, folder, self._loaded, progress, seed)

    def _loaded(
        self, label: str, adapter: Path | None = None, precision: Precision = "float32"
    ) -> tuple[LocalModel, LLMSettings]:
        """The local model, and the settings of its requests."""
        from indexer.peers.local import LocalModel
        from indexer.peers.local_asker import local_settings

        self._context.progress.start(f"loading {label}")
        local = None if self._config.local == "bundled" else self._config.local
        model = LocalModel.load(local, adapter, precision=precision)
        return model, local_settings(model, self._llm.language)

    def check(self) -> LeakReport:
        """The leak checks of all peers and lists; nothing is asked."""
        folder, truth = self._context.data.folder, self._context.data.test
        self._context.progress.start("looking for leaks of peers")
        runs = HeldOutRuns.read(
            folder.file(REVIEWS), folder.at(ITEMS), truth.held_out, self._context.progress
        )
        every = [query for own in self.queries.values() for query in own]
        with self._reading() as ledger:

            def dry_run(watch: Callable[[Request], None]) -> DryRun:
                return DryRun(self._llm, ledger, assume_all=True, watch=watch)

            checks = list(peer_checks(self._asking, every, runs, dry_run))
            if self._students is not None:
                checks += self._students.check(runs, dry_run)
        checks += [
            tuned_check(name, adapter, self._material)
            for name, adapter in self._config.adapters.items()
        ]
        return LeakReport(checks)

    def estimates(self) -> dict[str, Estimate]:
        """What the peers would ask; nothing is asked."""
        with self._reading() as ledger:
            counting = DryRun(self._llm, ledger, repeat_failed=False)
            for name, peer in self._asking:
                if name in self._models:
                    continue
                for own in self.queries.values():
                    orders = [own] if name == EXPLAINED else self._orders(own)
                    for order in orders:
                        asyncio.run(rank_all(peer, order, counting))
            if self._students is not None:
                asyncio.run(self._students.count(counting))
        return counting.estimates

    @property
    def _asking(self) -> list[Named]:
        """The peers that put candidates in order, and those that explain alone."""
        return [*self.peers, *self._explainers]

    def run(self) -> list[PeerRun]:
        """Ask what is not answered yet. Raises what stops the LLM; all answers are kept."""
        with Ledger(self.ledger) as ledger:
            return asyncio.run(self._run(ledger))

    async def _run(self, ledger: Ledger) -> list[PeerRun]:
        progress, runs = self._context.progress, []
        async with self._askers(ledger) as asker_of:
            for generator, own in self.queries.items():
                for name, peer in self.peers:
                    orders = self._orders(own)
                    progress.start(f"asking {name}, {generator}", sum(map(len, orders)))
                    answers = [
                        await rank_all(peer, order, asker_of(name), progress.advance)
                        for order in orders
                    ]
                    runs.append(self._result(name, generator, own, answers))
                if self._students is not None:
                    ranked = await self._students.rank(self._orders(own), asker_of(STUDENT), ledger)
                    runs.append(self._result(STUDENT, generator, own, ranked))
        return runs

    def explained(
        self, queries: Sequence[PeerQuery], names: Sequence[str]
    ) -> dict[str, list[PeerAnswer]]:
        """The answers, with explanations, of those of the named peers that the study has."""

        async def go(ledger: Ledger) -> dict[str, list[PeerAnswer]]:
            progress, found = self._context.progress, {}
            async with self._askers(ledger) as asker_of:
                for name, peer in self._asking:
                    if name in names:
                        progress.start(f"explaining by {name}", len(queries))
                        ask = asker_of(name)
                        found[name] = await rank_all(peer, queries, ask, progress.advance)
                if self._students is not None and STUDENT in names:
                    [found[STUDENT]] = await self._students.rank(
                        [queries], asker_of(STUDENT), ledger
                    )
            return found

        with Ledger(self.ledger) as ledger:
            return asyncio.run(go(ledger))

    @asynccontextmanager
    async def _askers(self, ledger: Ledger) -> AsyncIterator[Callable[[str], Asker]]:
        """What a peer asks, by its name: its own model, or the endpoint."""
        async with (
            LLM(self._llm, ledger, repeat_failed=False) if self._asks else nullcontext() as llm
        ):
            endpoint = None if llm is None else asker(llm)

            def asker_of(name: str) -> Asker:
                ask = self._local(name, ledger) or endpoint
                assert ask is not None  # noqa: S101 - a peer has a local model or asks the endpoint
                return ask

            yield asker_of

    @property
    def _asks(self) -> bool:
        """Whether any peer asks the endpoint."""
        return bool(self._students) or any(name not in self._models for name, _ in self._asking)

    def _local(self, name: str, ledger: Ledger) -> Asker | None:
        """What a peer with a local model asks; None for the others."""
        if name not in self._models:
            return None
        from indexer.peers.local_asker import LocalAsker

        return LocalAsker(self._models[name], ledger)

    def _result(
        self,
        name: str,
        generator: str,
        own: Sequence[PeerQuery],
        answers: Sequence[Sequence[PeerAnswer]],
    ) -> PeerRun:
        found = PeerRun(
            name, generator, self.count, self._ranks(own, answers[0]), Totals.of(name, answers[0])
        )
        if len(answers) < 2:
            return found
        pairs = zip(answers[0], answers[1], strict=True)
        taus = np.array([_tau(one.order, other.order) for one, other in pairs])
        return replace(found, shuffled=self._ranks(own, answers[1]), taus=taus)

    def _orders(self, own: Sequence[PeerQuery]) -> list[Sequence[PeerQuery]]:
        """The generator's order, and a random one if it is wanted."""
        return [own, [_shuffled(one) for one in own]] if self._config.shuffled else [own]

    def _ranks(self, own: Sequence[PeerQuery], answers: Sequence[PeerAnswer]) -> Ranks:
        """The rank of each member's test item; 0 for a miss."""
        orders = {one.user_id: a.order for one, a in zip(own, answers, strict=True)}
        users, wanted = self._context.data.users, self._context.data.wanted("test")
        found = [
            orders[user].index(item) + 1 if item in orders.get(user, ()) else 0
            for user, item in ((users[at], wanted[at]) for at in self.members.tolist())
        ]
        return np.array(found, dtype=np.int64)

    def _queries(self, judged: Judged) -> Iterator[PeerQuery]:
        members = {self._context.data.users[at] for at in self.members.tolist()}
        for user, own in judged.pool.lists():
            if user in members:
                results = [Candidate(item_id=item, score=score) for item, score in own]
                yield self._material.query(CandidateList(user_id=user, results=results))

    def _reading(self) -> Ledger:
        return Ledger(self.ledger, read_only=True)


def _variants(names: Iterable[str], sources: PeerSources) -> Iterator[Named]:
    """Every peer; the rated one without averages in the prompts and with them."""
    for name in names:
        if name != "rated":
            yield name, registry.made(name, sources)
            continue
        for averages in (False, True):
            options = sources.options.model_copy(update={"averages": averages})
            peer = registry.made(name, replace(sources, options=options))
            yield (WITH_AVERAGES if averages else name), peer


def _sample(count: int, wanted: int | None, seed: int) -> Indexes:
    order = np.random.default_rng(seed).permutation(count)
    chosen: Indexes = np.sort(order if wanted is None else order[:wanted])
    return chosen


def _shuffled(query: PeerQuery) -> PeerQuery:
    candidates = list(query.candidates)
    random.Random(query.user_id).shuffle(candidates)  # noqa: S311 - an order, no secret
    return replace(query, candidates=tuple(candidates))


def _tau(order: Sequence[str], other: Sequence[str]) -> float:
    """Kendall's tau of two orders of the same items; 1 for a single item."""
    from scipy.stats import kendalltau

    if len(order) < 2:
        return 1.0
    places = {item: place for place, item in enumerate(other)}
    return float(kendalltau(range(len(order)), [places[item] for item in order]).statistic)
