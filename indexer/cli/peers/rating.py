"""`p4r peers rate`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.option_groups import grouped
from indexer.cli.outputs import RATED, check_output
from indexer.cli.peers.answering import Answering, answering, loaded
from indexer.cli.peers.app import peers
from indexer.cli.peers.options import PeerAsking, Results, Training, peer_options
from indexer.cli.shared import PromptDomain, exit_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer.peers.protocol import Asker
    from indexer.peers.rating_student import Answers, Student
    from indexer.peers.rating_study import RatingRow, RatingStudy
    from indexer.peers.recipes import TuningOptions


@peers.command(
    epilog="Example:  p4r peers rate --ratings ratings.jsonl --interactions interactions.jsonl "
    "--output rated --trivial"
)
@grouped
def rate(
    ratings: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Rated pairs with averages, profiles and descriptions (EXP3RT's student input).",
        ),
    ],
    interactions: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="user_id, item_id and split of all pairs; ratings not needed."
        ),
    ],
    output: Results,
    asking: PeerAsking,
    training: Training,
    domain: PromptDomain = "products",
    profile: Annotated[
        str, typer.Option(help="The item's profile in prompts: helpful or similar.")
    ] = "helpful",
    sample: Annotated[
        int | None, typer.Option(min=10, help="A random sample of pairs; all lines use it.")
    ] = None,
    trivial: Annotated[
        bool, typer.Option("--trivial", help="Only the predictors that need no LLM.")
    ] = False,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Also tune this local model on the pairs, in folds; or `bundled`."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the student.")] = 5,
) -> None:
    """Predict ratings: RMSE and MAE of an LLM, and of trivial predictors.

    The LLM is asked without and with the averages, which include test ratings in EXP3RT's data. Its
    rating is the expected value of the digits' probabilities. The scale is 1 to 10 unless --set
    says otherwise. Killed and run again, it goes on and pays for no answer twice.

    --student tunes a model on this machine to give reasons and a rating as EXP3RT's student does,
    each fold on the pairs of the others. The LLM, its teacher, writes the reasons knowing the
    ratings; with --set reasoning=false the student learns the ratings alone.
    """
    from dataclasses import asdict

    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.writing import written_whole
    from indexer.peers.asking import RequestMaker
    from indexer.peers.rating_records import item_profile, read_ratings, read_trained
    from indexer.peers.rating_study import STEP, TUNED, ZERO_SHOT, RatingStudy, sampled
    from indexer.peers.scale import RatingScale
    from indexer.peers.trivial_ratings import TrivialPredictors
    from indexer.prompts import Domain
    from indexer.terminal.console import out
    from indexer.terminal.peers import print_ratings
    from p4r_qdrant.settings import Settings

    refusals, again = Refusals(), asking.retry_failed
    chosen = peer_options(asking.options, highest=10.0)
    target = output / "ratings.json"
    check_output(target, [ratings, interactions], force=asking.force, ours=RATED)
    pairs = read_ratings(ratings, refusals)
    scale = RatingScale(chosen.lowest, chosen.highest)
    who = answering(asking.local, asking.adapter)
    study = RatingStudy(
        pairs,
        sampled(len(pairs), sample),
        TrivialPredictors(pairs, read_trained(interactions, refusals), scale),
        chosen,
        item_profile(profile),
        RequestMaker(STEP, Domain.load(domain), who.llm),
    )
    teaching = None
    if student is not None and not trivial:
        teacher = Answering(Settings.load().llm)
        how = training.options()
        teaching = _Teaching(study, teacher, output, student, folds, how, again)

    async def asked(ask: Asker, done: Callable[[], None]) -> list[RatingRow]:
        return await study.asked_rows(ask, done, TUNED if asking.adapter else ZERO_SHOT)

    if asking.dry_run:
        who.count(output, asked, retry_failed=again)
        if teaching is not None:
            teaching.count()
        exit_for(refusals)
        return
    rows = study.trivial_rows()
    if not trivial:
        rows += who.run(output, STEP, 2 * len(study.members), asked, retry_failed=again)
    if teaching is not None:
        rows += teaching.rows()
    output.mkdir(parents=True, exist_ok=True)
    found = {"rated_pairs": len(study.members), "rows": [asdict(one) for one in rows]}
    with written_whole(target) as write:
        write(json.dumps(found, ensure_ascii=False, indent=2))
    print_ratings(rows)
    out.say(f"written: {target}")
    exit_for(refusals)


@dataclass(frozen=True)
class _Teaching:
    """A student in folds, and its teacher."""

    study: RatingStudy
    teacher: Answering
    output: Path
    model: str
    folds: int
    how: TuningOptions
    retry_failed: bool

    def count(self) -> None:
        """Print what the teacher would be asked."""
        self.teacher.count(self.output, self._student().lessons, retry_failed=self.retry_failed)

    def rows(self) -> list[RatingRow]:
        """The lines of the student."""
        from indexer.ledger import LEDGER, Ledger
        from indexer.terminal.progress import ProgressBar

        student = self._student()
        answers = self._answers(student)
        with Ledger(self.output / LEDGER) as ledger, ProgressBar() as bar:
            return list(student.rows(answers, ledger, bar))

    def _answers(self, student: Student) -> Answers:
        if not self.study.options.reasoning:
            return student.told()
        return self.teacher.run(
            self.output,
            "reasons of the teacher",
            len(self.study.members),
            student.lessons,
            retry_failed=self.retry_failed,
        )

    def _student(self) -> Student:
        from indexer.peers.rating_student import Student

        study = replace(self.study, make=replace(self.study.make, llm=self.teacher.llm))
        load = partial(loaded, self.model)
        return Student(study, load, self.output / "student", self.folds, self.how)
