"""Does a held-out interaction reach anything that is made before scoring?

Checked by identity: lists record what their generator was fitted to and tuned on; aspects,
alignments and training pairs name user and item; personas name their evidence. Checked by
content: no file that was made may hold a run of words that only held-out reviews hold, or a
marker that `poison` wrote.

The checks only read files. `p4r experiment` stops if they find something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ALIGNMENTS, ASPECTS, ITEMS, PERSONAS, REVIEWS, SPLITS, SUMMARIES
from indexer.evaluation.candidates import provenance_path
from indexer.evaluation.leaks.content import HeldOutRuns, text_checks, text_files
from indexer.evaluation.leaks.identity import (
    candidate_checks,
    evidence_check,
    pairs_check,
    vouched_check,
)
from indexer.evaluation.leaks.report import LeakReport
from indexer.evaluation.truth import read_truth
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import InputError


@dataclass(frozen=True)
class LeakFiles:
    """The files that leak checks read.

    artifacts: an artifact folder. reviews, splits: those of the folder unless given. candidates:
    lists made by `p4r candidates`. elsewhere: lists made by something else; nothing records what
    they were fitted to, so that only their texts are searched. pairs: training pairs, JSON Lines
    with `user_id` and `item_id`. made: more files and folders to search for held-out texts (an
    adapter, a cache).
    """

    artifacts: Path
    reviews: Path | None = None
    splits: Path | None = None
    candidates: Sequence[Path] = ()
    elsewhere: Sequence[Path] = ()
    pairs: Sequence[Path] = ()
    made: Sequence[Path] = ()


def check_leaks(files: LeakFiles, progress: Progress = SILENT) -> LeakReport:
    """Search files for held-out interactions. Each line read is one step of `progress`.

    Raises InputError if a file is missing or a split overlaps itself.
    """
    given = (*files.pairs, *files.elsewhere, *files.made)
    missing = next((path for path in given if not path.exists()), None)
    if missing is not None:
        raise InputError(f"{missing} does not exist, so that it cannot be searched for leaks")
    folder = ArtifactFolder(files.artifacts)
    reviews = files.reviews or folder.file(REVIEWS)
    splits = files.splits or folder.file(SPLITS)
    broken = Refusals(keep=1)
    truth = read_truth(splits, broken)
    if broken.total:
        raise InputError(
            f"{broken.sentences[0]}; correct it: the leak checks need to know what is held out"
        )
    held_out = truth.held_out
    progress.start("looking for leaks")
    checks = [
        *candidate_checks(files.candidates, reviews, splits, truth),
        *(vouched_check(path) for path in files.elsewhere),
        pairs_check("aspects", [folder.at(ASPECTS)], held_out, progress),
        evidence_check(folder.at(PERSONAS), held_out, progress),
        pairs_check("alignments", [folder.at(ALIGNMENTS)], held_out, progress),
    ]
    if files.pairs:
        checks.append(pairs_check("training pairs", files.pairs, held_out, progress))
    searched = [
        *(folder.at(name) for name in (SUMMARIES, ASPECTS, PERSONAS, ALIGNMENTS)),
        folder.path / "ledger",
        *files.candidates,
        *files.elsewhere,
        *(provenance_path(path) for path in files.candidates),
        *files.pairs,
        *files.made,
    ]
    runs = HeldOutRuns.read(reviews, folder.at(ITEMS), held_out, progress)
    checks += text_checks(list(text_files(searched)), runs, progress)
    return LeakReport(checks)
