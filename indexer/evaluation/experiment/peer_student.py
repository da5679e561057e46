"""EXP3RT's student in an experiment: taught in folds of users, so that none ranks its own.

Source: EXP3RT (arXiv 2408.06276). The teacher answers all three steps for the users of the other
folds: preferences of reviews, profiles, and reasons for known ratings. Of the users of its own fold
a student is taught nothing: no rating, no history, and no review in the profile of an item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.artifacts.lines import Refusals
from indexer.evaluation.experiment.config import PeerStudent
from indexer.evaluation.leaks.content import HeldOutRuns
from indexer.evaluation.leaks.report import Check, Findings
from indexer.ledger import Ledger
from indexer.llm import Request
from indexer.peers.asking import PeerSources
from indexer.peers.distilling import check_reasons, distilled, targets
from indexer.peers.leaks import held_out_in
from indexer.peers.material import Material
from indexer.peers.protocol import Asker, PeerAnswer, PeerQuery
from indexer.peers.rated import Rated
from indexer.peers.recipes import TuningOptions
from indexer.peers.running import DryRun, rank_all
from indexer.peers.trivial_ratings import fold_of_each
from indexer.peers.tuning_data import TuningData
from indexer.progress import Progress

if TYPE_CHECKING:
    from indexer.peers.local import LocalModel
    from p4r_qdrant.settings import LLMSettings

NAME = "rated, student"

Load = Callable[[str, Path | None], "tuple[LocalModel, LLMSettings]"]
"""Loads the local model, alone or with an adapter; with the settings of its requests."""


@dataclass(frozen=True)
class FoldedStudents:
    """The students of all folds. sources: the teacher's. folder: gets the layers of each."""

    config: PeerStudent
    sources: PeerSources
    folder: Path
    load: Load
    progress: Progress
    seed: int

    def check(self, runs: HeldOutRuns, dry_run: Callable[..., DryRun]) -> Iterator[Check]:
        """What each fold's teacher and student would read; nothing is asked.

        A text of a held-out review, or anything of a user of the fold, is a leak.
        """
        for fold, users in enumerate(self._folds()):
            found, asked = Findings(), list[Request]()
            data = asyncio.run(self._taught(users, dry_run(asked.append)))
            asked += [one.request for one in (*data.train, *data.dev)]
            for one in asked:
                if fault := _fault(one, runs, users):
                    found.add(f"what the student of fold {fold + 1} is taught {fault}")
            yield found.check(f"training data of {NAME}, fold {fold + 1}", len(asked))

    async def count(self, teacher: Asker) -> None:
        """Ask what the teacher is asked for all folds."""
        for users in self._folds():
            await self._taught(users, teacher)

    async def rank(
        self, orders: Sequence[Sequence[PeerQuery]], teacher: Asker, ledger: Ledger
    ) -> list[list[PeerAnswer]]:
        """The answers to the queries of each order, each by the student of the user's fold.

        Students that are taught already are not taught again. Raises InputError if the teacher has
        given too little to learn from.
        """
        found: list[dict[str, PeerAnswer]] = [{} for _ in orders]
        folds = self._folds()
        fold_of = {user: fold for fold, users in enumerate(folds) for user in users}
        for fold, users in enumerate(folds):
            # A user without training interactions was taught to no student: each of them will do.
            mine = [
                [one for one in order if fold_of.get(one.user_id, 0) == fold] for order in orders
            ]
            if not any(mine):
                continue
            ask, student = await self._student(fold, users, teacher, ledger)
            self.progress.start(f"asking {NAME}, fold {fold + 1}", sum(map(len, mine)))
            for own, answers in zip(mine, found, strict=True):
                ranked = await rank_all(student, own, ask, self.progress.advance)
                answers.update(zip((one.user_id for one in own), ranked, strict=True))
        return [
            [answers[one.user_id] for one in order]
            for order, answers in zip(orders, found, strict=True)
        ]

    async def _student(
        self, fold: int, users: frozenset[str], teacher: Asker, ledger: Ledger
    ) -> tuple[Asker, Rated]:
        """Teach the student of one fold, or find it taught."""
        from indexer.peers.local_asker import LocalAsker
        from indexer.peers.tuning import tune_peer

        self.progress.start(f"asking the teacher of {NAME}, fold {fold + 1}")
        data = await self._taught(users, teacher)
        check_reasons(data)
        options = TuningOptions(rank=self.config.rank, epochs=self.config.epochs, seed=self.seed)
        adapter = self.folder / f"fold-{fold + 1}-of-{self.config.folds}"
        model, _ = self.load(f"the model of {NAME}, fold {fold + 1}", None)
        self.progress.start(f"tuning {NAME}, fold {fold + 1}")
        await asyncio.to_thread(tune_peer, model, "rated", data, adapter, options)
        model, llm = self.load(f"{NAME}, fold {fold + 1}", adapter)
        return LocalAsker(model, ledger), Rated(replace(self.sources, llm=llm))

    async def _taught(self, users: frozenset[str], teacher: Asker) -> TuningData:
        """The examples for the student of a fold with these users."""
        folder = self.sources.material.folder
        with Material(folder, Refusals(), users) as material:
            peer = Rated(replace(self.sources, material=material))
            chosen = targets(peer, self.config.samples, self.seed)
            return await distilled(peer, chosen, teacher)

    def _folds(self) -> list[frozenset[str]]:
        """The users of each fold: random, and of equal numbers."""
        users = sorted(self.sources.material.users())
        fold = fold_of_each(len(users), self.config.folds)
        return [
            frozenset(user for user, own in zip(users, fold, strict=True) if own == number)
            for number in range(self.config.folds)
        ]


def _fault(request: Request, runs: HeldOutRuns, users: frozenset[str]) -> str | None:
    """What a question holds that its student must not learn from, as the end of a sentence."""
    if (user := request.about.get("user_id")) in users:
        return f"is of user {user!r}, who is of that fold"
    return held_out_in(request, runs)
