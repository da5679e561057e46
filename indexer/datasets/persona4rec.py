"""Convert the files of the paper's public code to our artifacts.

These files are read from one folder; some may be missing: 1_aspects, 2_summary, 2.5_grouped,
3_personas, 3.5_persona_with_summary, 3.5_history, 4_selected_personas, candidate, 3.5_gt and gt
(all .jsonl). 3.5_history_loo is not read: it is 3.5_history without the interactions that gt holds
out. The restaurant files have other slot names, time stamps as text, and lists as values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from indexer.artifacts import names
from indexer.artifacts.lines import Refusals, read_lines
from indexer.artifacts.opening import as_stored
from indexer.artifacts.writing import written_whole
from indexer.datasets.output_folder import move_all, output_folder
from indexer.datasets.persona4rec_files import Importer, ImportReport
from indexer.progress import SILENT, Progress, track
from p4r_qdrant.errors import InputError

_FILES = (
    names.ITEMS,
    names.REVIEWS,
    names.SUMMARIES,
    names.ASPECTS,
    names.PERSONAS,
    names.ALIGNMENTS,
    names.SPLITS,
    names.CANDIDATES,
)
_READERS: dict[str, Callable[[Importer, Mapping[str, Any]], None]] = {
    # The truth comes first: what it holds out must be known when alignments are read.
    "3.5_gt.jsonl": Importer.read_truth,
    "gt.jsonl": Importer.read_truth,
    "1_aspects.jsonl": Importer.read_review,
    "2_summary.jsonl": Importer.read_item,
    "2.5_grouped.jsonl": Importer.read_grouped,
    "3_personas.jsonl": Importer.read_personas,
    "3.5_persona_with_summary.jsonl": Importer.read_personas_again,
    "3.5_history.jsonl": Importer.read_history,
    "4_selected_personas.jsonl": Importer.read_selection,
    "candidate.jsonl": Importer.read_candidates,
}


class _Line(BaseModel):
    """Any JSON object; each file has its own fields."""

    model_config = {"extra": "allow"}

    @property
    def row(self) -> dict[str, Any]:
        return self.model_extra or {}


def convert(
    source: Path,
    output: Path,
    refusals: Refusals,
    progress: Progress = SILENT,
) -> ImportReport:
    """Convert a folder of the paper's files; the artifacts appear in `output` at the end.

    A broken record is refused. Each line read is one step of `progress`.

    Raises: InputError if `source` holds none of the files, or `output` holds artifacts already.
    """
    if not source.is_dir() or not any(as_stored(source / name).is_file() for name in _READERS):
        raise InputError(
            f"{source} holds none of the files of the paper's code ({', '.join(_READERS)})"
        )
    there = next((name for name in _FILES if (output / name).exists()), None)
    if there is not None:
        raise InputError(f"{output} holds {there} already; name a folder without artifacts")
    report = ImportReport()
    with output_folder(output, move_all) as folder, ExitStack() as stack:
        has_personas = as_stored(source / "3_personas.jsonl").is_file()
        importer = Importer(report, refusals, has_personas=has_personas)
        for name in _FILES:
            importer.write[name] = stack.enter_context(written_whole(folder / name))
        _read(source, importer, refusals, progress)
    return report


def _read(source: Path, importer: Importer, refusals: Refusals, progress: Progress) -> None:
    for name, reader in _READERS.items():
        path = as_stored(source / name)
        if not path.is_file():
            continue
        lines = read_lines(path, _Line, refusals)
        for number, _, line in track(progress, lines, f"reading {name}"):
            importer.where = f"{path}:{number}"
            reader(importer, line.row)
