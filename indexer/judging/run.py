"""Run a study: the controls first, and the comparisons only if the judge passes them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path

from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.writing import written_whole
from indexer.judging.comparing import Comparison, Judging, Judgment, Study
from indexer.judging.figures import (
    LEAST,
    Judged,
    consistent,
    control_figures,
    prefer_first,
    preferences,
)
from indexer.ledger import Ledger
from indexer.llm import LLM
from indexer.reasoning.run import Estimate, StepProgress, estimate_step, reason
from indexer.reasoning.step import Sources, Step
from p4r_qdrant.errors import InputError, P4RError

CONTROLS = "controls.jsonl"
JUDGMENTS = "judgments.jsonl"
RESULTS = "results.json"
RATES = "rates.csv"


class JudgeUnfitError(P4RError):
    """The judge has failed a control, so its preferences are not reliable."""


class Run:
    """One study with one judge; `sources.folder` is the folder of results.

    Raises InputError if the artifacts hold too few comparisons for a control, or if the folder
    holds the results of another study.
    """

    def __init__(self, study: Study, sources: Sources, refusals: Refusals) -> None:
        self.study = study
        self._sources = sources
        self._folder = sources.folder.path
        self._check_folder()
        asked = Counter(one.control for one in study.control_comparisons(Counter()))
        for control in study.controls:
            if asked[control.name] < LEAST and not control.optional:
                raise InputError(
                    f"the control {control.name!r} needs {LEAST} comparisons and finds "
                    f"{asked[control.name]}: there are too few {study.name} to control the judge"
                )
        self._asked = {name: count for name, count in asked.items() if count >= LEAST}
        self._controls = Judging(sources, refusals, study, self._comparisons, CONTROLS)
        self._rest: list[Step] = [
            *study.preparation(sources, refusals),
            Judging(sources, refusals, study, study.comparisons, JUDGMENTS, study.reads),
        ]

    @property
    def writes(self) -> list[str]:
        """The names of the files that it writes into the folder of results."""
        return [RESULTS, RATES, CONTROLS, *(one.artifact for one in self._rest)]

    def _comparisons(self, left_out: Counter[str]) -> Iterator[Comparison]:
        """The comparisons of all controls with enough of them."""
        for one in self.study.control_comparisons(left_out):
            if one.control in self._asked:
                yield one

    def _check_folder(self) -> None:
        try:
            before = json.loads((self._folder / RESULTS).read_text(encoding="utf-8"))["study"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            before = "something else"
        if before != self.study.name:
            raise InputError(
                f"{self._folder / RESULTS} is of {before}, not of {self.study.name}: name another "
                "folder"
            )

    def estimate(
        self,
        ledger: Ledger,
        price_factor: float,
        under_way: Collection[str],
        *,
        repeat_failed: bool = True,
    ) -> dict[str, Estimate]:
        """What controls and comparisons would cost; nothing is asked."""
        names = ["controls", *(f"{one.artifact.partition('.')[0]}" for one in self._rest)]
        return {
            name: estimate_step(step, ledger, price_factor, under_way, repeat_failed=repeat_failed)
            for name, step in zip(names, [self._controls, *self._rest], strict=True)
        }

    async def judge(
        self,
        llm: LLM,
        ledger: Ledger,
        progress: StepProgress,
    ) -> Judged:
        """Ask, count, and write `results.json`; where the controls are failed, they alone.

        Killed at any moment and run again, it asks only what was not answered. Raises what
        `reason` does, before anything is counted.
        """
        for name in (
            RESULTS,
            RATES,
            CONTROLS,
            JUDGMENTS,
        ):  # what an earlier judge, or study, came to
            (self._folder / name).unlink(missing_ok=True)
        reports = await reason([self._controls], llm, ledger, progress)
        judgments = self._read(CONTROLS)
        controls = control_figures(self.study.controls, judgments, self._asked)
        passed = all(one.passed for one in controls)
        compared: list[Judgment] = []
        if passed:
            reports += await reason(self._rest, llm, ledger, progress)
            compared = self._read(JUDGMENTS)
            judgments += compared
        judged = Judged(
            study=self.study.name,
            model=self._sources.llm.of(Judging.name).model,
            passed=passed,
            controls=controls,
            not_possible=[one.name for one in self.study.controls if one.name not in self._asked],
            consistent=consistent(judgments),
            first=prefer_first(judgments),
            preferences=preferences(self.study.criteria, compared),
            unanswered=reports[-1].unanswered if passed else 0,
            left_out=dict(sum((+one.left_out for one in reports), Counter())),
            about={**self.study.about, "template": self._controls.versions[self.study.template]},
        )
        self._write(judged)
        return judged

    def _read(self, name: str) -> list[Judgment]:
        path = self._folder / name
        if not path.exists():  # there is no usable answer
            return []
        return [one for _, _, one in read_lines(path, Judgment, Refusals())]

    def _write(self, judged: Judged) -> None:
        """Write results.json, and rates.csv if there are preferences."""
        if judged.preferences:
            with written_whole(self._folder / RATES) as write:
                write(_table(judged))
        with written_whole(self._folder / RESULTS) as write:
            write(json.dumps(asdict(judged), ensure_ascii=False, indent=2))


def unfit(judged: Judged, folder: Path) -> JudgeUnfitError:
    """The error that names the failed controls."""
    failed = ", ".join(
        f"{one.name}: {one.right} of {one.of} right" for one in judged.controls if not one.passed
    )
    return JudgeUnfitError(
        f"{judged.model} fails its controls ({failed}), so no win rate is given; {folder} holds "
        "what it said: ask another model with P4R_LLM__JUDGMENTS__MODEL"
    )


def _table(judged: Judged) -> str:
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    shares = ("won", "won_low", "won_high", "lost", "lost_low", "lost_high")
    rows.writerow(
        ["criterion", "of", "won_count", "tied_count", "lost_count", *shares, "p", "p_holm"]
    )
    for one in judged.preferences:
        counts = one.won.of, one.won.count, one.tied, one.lost.count
        shares_won_lost = (
            value
            for share in (one.won, one.lost)
            for value in (share.count / share.of, share.low, share.high)
        )
        rows.writerow([one.criterion, *counts, *shares_won_lost, one.p, one.p_holm])
    return file.getvalue().rstrip("\n")
