"""The leak checks on the files of an experiment, before anything is scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from indexer.artifacts.names import REVIEWS, SPLITS
from indexer.evaluation.candidates import provenance_path
from indexer.evaluation.experiment.config import EXTRACTIVE
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.encoding import Encoded
from indexer.evaluation.leaks.check import LeakFiles, check_leaks
from indexer.evaluation.leaks.identity import check_adapter
from indexer.evaluation.leaks.report import LeakReport
from p4r_qdrant.encoder.base import Encoder


def check_made(context: Context, lists: Sequence[Path], made: Sequence[Encoded]) -> LeakReport:
    """The leak checks on the inputs of the lines: lists, and texts that were encoded."""
    with_provenance = [path for path in lists if provenance_path(path).is_file()]
    elsewhere = [path for path in lists if path not in with_provenance]
    files = [one.encoder.texts_path for one in made]
    if context.config.encoder.adapter:
        files.append(Path(context.config.encoder.adapter))
    return check_files(context, with_provenance, files, elsewhere)


def check_trained(context: Context, base: Encoder) -> LeakReport:
    """The leak check on what the adapter of the configuration, if any, was trained on."""
    adapter = context.config.encoder.adapter
    if not adapter:
        return LeakReport()
    return LeakReport([check_adapter(context.data.folder, Path(adapter), base)])


def check_files(
    context: Context,
    lists: Sequence[Path] = (),
    made: Sequence[Path] = (),
    elsewhere: Sequence[Path] = (),
) -> LeakReport:
    """The leak checks on the files of the catalogue and on these."""
    folder = context.data.folder
    report = check_leaks(
        LeakFiles(folder.path, candidates=lists, elsewhere=elsewhere, made=made), context.progress
    )
    quoted = context.output / EXTRACTIVE
    for other in (context.config.aggregated, quoted if quoted.is_dir() else None):
        if other is not None and other != folder.path:
            files = LeakFiles(other, folder.file(REVIEWS), folder.file(SPLITS))
            report = report + check_leaks(files, context.progress)
    return report
