"""Write the report of an experiment: report.html, its figures as PNG and its tables as CSV."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from indexer.artifacts.writing import written_bytes, written_whole
from indexer.evaluation.experiment.conclusions import Results
from indexer.evaluation.experiment.csv_tables import csv_tables
from indexer.evaluation.experiment.figures import figures
from indexer.evaluation.experiment.page import page
from indexer.evaluation.experiment.stages import REPORT
from p4r_qdrant.errors import MissingExtraError


def check_drawing() -> None:
    """Raise MissingExtraError if matplotlib is missing, before hours of work."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "an experiment needs matplotlib: pip install 'p4r-qdrant[experiment]'"
        )


def write_report(results: Results, folder: Path) -> Path:
    """Write the report into `folder`; return the path of the page, which needs no other file."""
    for name, figure in figures(results):
        with written_bytes(folder / name) as file:
            figure.savefig(file, format="png", dpi=130)
    for name, table in csv_tables(results):
        with written_whole(folder / name) as write:
            write(table)
    with written_whole(folder / REPORT) as write:
        write(page(results))
    return folder / REPORT
