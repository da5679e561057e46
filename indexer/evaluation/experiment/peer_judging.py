"""Explanations and personas of an experiment before an LLM as judge: Figures 5 and 6."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.writing import written_whole
from indexer.evaluation.experiment.config import PeerJudge, PeersConfig
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.encoding import Encoded
from indexer.evaluation.experiment.peer_study import PeerStudy
from indexer.evaluation.experiment.reranked_lines import served
from indexer.evaluation.experiment.selection import Choice
from indexer.judging.comparing import Sampling, Study
from indexer.judging.explanations import ExplanationSampling, ExplanationStudy
from indexer.judging.personas import PersonaStudy
from indexer.judging.run import Run
from indexer.ledger import Ledger
from indexer.llm import LLM
from indexer.peers.leaks import no_answer
from indexer.peers.personas import PersonasPeer
from indexer.peers.protocol import PeerAnswer, PeerQuery
from indexer.peers.results import line
from indexer.peers.running import rank_all
from indexer.progress import Progress
from indexer.prompts import Domain
from indexer.reasoning.run import Estimate
from indexer.reasoning.step import Sources, Step, StepReport
from p4r_qdrant.errors import InputError
from p4r_qdrant.rerank.reranker import PersonaReranker
from p4r_qdrant.settings import HistorySettings, LLMSettings, RerankSettings

EXPLANATIONS = "explanations"
"""The folder of explanations in that of the experiment."""
RIVALS = {
    "rated": "EXP3RT, zero-shot",
    "rated, local": "EXP3RT, zero-shot by the local model",
    "rated, tuned": "EXP3RT, student",
    "rated, student": "EXP3RT, student taught in folds",
    "explained": "XRec, without graph tokens",
}
"""The lines of peers that explain, and the systems that they stand for."""
TOP = 5


@dataclass(frozen=True)
class JudgedStudy:
    """One comparison. result: see `Judged`; None if there is none, and `problem` says why."""

    study: str
    against: str
    result: dict[str, Any] | None
    problem: str = ""


def most_calls(config: PeersConfig) -> int:
    """The most calls that the judge of an experiment makes; retries do not count."""
    if (judge := config.judge) is None:
        return 0
    explaining = 1 + sum("rated" in one for one in (config.names, config.untuned, config.adapters))
    explaining += config.student is not None

    def both_orders(study: type[Study]) -> int:
        return 2 * (judge.sample + judge.controls * len(study.controls))

    written = judge.sample  # single personas
    return explaining * both_orders(ExplanationStudy) + both_orders(PersonaStudy) + written


class PeerJudging:
    """Compares the explanations of personas with those of peers, and personas with a single one.

    The judge is the LLM of the settings. All answers are kept in the ledger of the experiment.
    """

    def __init__(
        self, config: PeerJudge, context: Context, study: PeerStudy, llm: LLMSettings
    ) -> None:
        self._config = config
        self._context = context
        self._study = study
        self._llm = llm
        self._folder = context.output / EXPLANATIONS

    def run(self, encoded: Encoded, choice: Choice) -> list[dict[str, Any]]:
        """All comparisons, as JSON. Raises what stops the LLM; all answers are kept."""
        queries = next(iter(self._study.queries.values()))
        ours = self._by_personas(queries, encoded, choice)
        self._write("personas", queries, ours)
        shown = [_in_order(query, one) for query, one in zip(queries, ours, strict=True)]
        theirs = self._study.explained(shown, list(RIVALS))
        for name, answers in theirs.items():
            self._write(name, queries, answers)
        return [asdict(one) for one in self._judged(theirs)]

    def _judged(self, theirs: Mapping[str, Sequence[PeerAnswer]]) -> Iterator[JudgedStudy]:
        for name, answers in theirs.items():
            if any(one.explanations for one in answers):
                yield self._compared(name, RIVALS[name])
            else:
                why = (
                    "it has written no reasons: its option reasoning is off, or no answer is usable"
                )
                yield JudgedStudy("explanations", RIVALS[name], None, why)
        yield self._compared(None, "a single persona")

    def _compared(self, rival: str | None, system: str) -> JudgedStudy:
        """The judge on one rival's explanations; None: on personas."""
        kind = "personas" if rival is None else "explanations"
        output = self._context.output / f"judged-{_file_name(rival or kind)}"
        output.mkdir(exist_ok=True)
        try:
            with self._of(rival, output) as study:
                found = asyncio.run(self._asked(study, output))
        except InputError as error:  # too few of them to control the judge
            return JudgedStudy(kind, system, None, str(error))
        return JudgedStudy(kind, system, found)

    def _of(self, rival: str | None, output: Path) -> Study:
        folder, config = self._context.data.folder, self._config
        seed = self._context.config.seeds[0]
        if rival is None:
            return PersonaStudy(
                folder, None, output, Refusals(), Sampling(config.sample, config.controls, seed)
            )
        return ExplanationStudy(
            folder,
            self._at("personas"),
            self._at(rival),
            Refusals(),
            ExplanationSampling(config.sample, config.controls, seed, TOP),
        )

    async def _asked(self, study: Study, output: Path) -> dict[str, Any]:
        domain = Domain.load(self._context.config.domain)
        sources = Sources(ArtifactFolder(output, {}), domain, self._llm)
        run = Run(study, sources, Refusals())
        with Ledger(self._study.ledger) as ledger:
            async with LLM(self._llm, ledger, repeat_failed=False) as llm:
                progress = _StepProgress(self._context.progress)
                return asdict(await run.judge(llm, ledger, progress))

    def _by_personas(
        self, queries: Sequence[PeerQuery], encoded: Encoded, choice: Choice
    ) -> list[PeerAnswer]:
        """The order and the explanations of Eq. 10."""
        self._context.progress.start("explaining by personas", len(queries))
        with served(encoded, choice, self._context) as through:
            reranker = PersonaReranker(
                through.index,
                through.encoder,
                history=HistorySettings(length=choice.length, decay=choice.plain.decay),
                rerank=RerankSettings(fusion="none"),
            )
            peer = PersonasPeer(reranker)
            done = self._context.progress.advance
            return asyncio.run(rank_all(peer, queries, no_answer, done))

    def _write(
        self, name: str, queries: Sequence[PeerQuery], answers: Sequence[PeerAnswer]
    ) -> None:
        self._folder.mkdir(exist_ok=True)
        with written_whole(self._at(name), private=True) as write:
            for query, answer in zip(queries, answers, strict=True):
                write(json.dumps(line(query, answer), ensure_ascii=False))

    def _at(self, name: str) -> Path:
        return self._folder / f"{_file_name(name)}.jsonl"


def _file_name(name: str) -> str:
    return name.replace(", ", "-")


class _StepProgress:
    """The progress of the experiment, as steps report it."""

    def __init__(self, progress: Progress) -> None:
        self.start, self.advance = progress.start, progress.advance

    def estimated(self, step: Step, estimate: Estimate) -> None:
        """Show no estimate."""

    def written(self, step: Step, report: StepReport) -> None:
        """Show no report."""


def _in_order(query: PeerQuery, answer: PeerAnswer) -> PeerQuery:
    """The query with its candidates in the order of an answer."""
    known = {one.item_id: one for one in query.candidates}
    return replace(query, candidates=tuple(known[item] for item in answer.order))
