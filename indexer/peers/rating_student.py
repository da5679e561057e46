"""EXP3RT's student on rated pairs, in folds: each fold is predicted by one tuned on the others.

Source: EXP3RT (arXiv 2408.06276). Profiles are given with the pairs, so that only the third step is
distilled: reasons by a teacher who knows the rating, then the rating.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from indexer.ledger import Ledger
from indexer.llm import Usage
from indexer.peers.distilling import Reasons
from indexer.peers.local import LocalModel
from indexer.peers.local_asker import LocalAsker, local_settings
from indexer.peers.protocol import Asker, Exchange
from indexer.peers.rating_study import RatingRow, RatingStudy, name_of
from indexer.peers.recipes import TuningOptions
from indexer.peers.running import each, nothing
from indexer.peers.trivial_ratings import fold_of_each
from indexer.peers.tuning import tune_peer
from indexer.peers.tuning_data import Example, tuning_data
from indexer.progress import Progress

Answers = Sequence[str | None]


@dataclass(frozen=True)
class Student:
    """A student of the pairs of a study.

    load: the local model, alone or with LoRA layers from a folder. folder: gets one folder of
    LoRA layers for each fold.
    """

    study: RatingStudy
    load: Callable[[Path | None], LocalModel]
    folder: Path
    folds: int
    options: TuningOptions

    async def lessons(self, ask: Asker, done: Callable[[], None] = nothing) -> Answers:
        """The right answer for each member, None where the teacher has no reasons.

        The teacher reads no averages.
        """
        study, exchange = self.study, Exchange(ask)
        reasons = Reasons(study.make, study.form)

        async def one(place: int) -> str | None:
            pair = study.pairs[place]
            material = study.material(pair, averages=False)
            about = {"user_id": pair.user_id, "item_id": pair.item_id}
            return await reasons.answer(material, pair.rating, about, exchange)

        return await each(study.members.tolist(), one, done)

    def told(self) -> Answers:
        """The right answers where no reasons are wanted: the digits alone."""
        pairs = (self.study.pairs[place] for place in self.study.members.tolist())
        return [self.study.form.scale.digit(one.rating) for one in pairs]

    def rows(self, answers: Answers, ledger: Ledger, progress: Progress) -> Iterator[RatingRow]:
        """The lines of students without averages in their prompts and with them.

        answers: of all members, see `lessons`. Raises InputError if there are too few.
        """
        for averages in (False, True):
            values, usage = self._predicted(answers, ledger, progress, averages=averages)
            name = f"{name_of('student', averages=averages)}, {self.folds} folds"
            yield from self.study.rows(name, values, usage, leaks=averages)

    def _predicted(
        self, answers: Answers, ledger: Ledger, progress: Progress, *, averages: bool
    ) -> tuple[list[float | None], Usage]:
        study, members = self.study, self.study.members
        fold = fold_of_each(len(members), self.folds)
        values: list[float | None] = [None] * len(members)
        usage = Usage()
        for number in range(self.folds):
            label = (
                f"{'with' if averages else 'without'} averages, fold {number + 1} of {self.folds}"
            )
            progress.start(f"tuning a student {label}")
            taught = [
                self._example(place, answer, averages=averages)
                for place, answer, own in zip(members.tolist(), answers, fold, strict=True)
                if own != number and answer is not None
            ]
            adapter = self.folder / label.replace(", ", "-").replace(" ", "-")
            data = tuning_data(taught, None, self.options.seed)
            tune_peer(self.load(None), "rated", data, adapter, self.options)
            places = np.flatnonzero(fold == number)
            progress.start(f"predicting {label}", len(places))
            model = self.load(adapter)
            make = replace(study.make, llm=local_settings(model, study.make.llm.language))
            found, spent = asyncio.run(
                study.predicted(
                    members[places],
                    make,
                    LocalAsker(model, ledger),
                    progress.advance,
                    averages=averages,
                )
            )
            usage += spent
            for place, value in zip(places.tolist(), found, strict=True):
                values[place] = value
        return values, usage

    def _example(self, place: int, answer: str, *, averages: bool) -> Example:
        pair = self.study.pairs[place]
        return Example(
            pair.user_id,
            self.study.question(pair, self.study.make, averages=averages),
            answer,
        )
