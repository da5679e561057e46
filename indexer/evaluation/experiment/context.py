"""The context that all steps of an experiment share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.artifacts.histories import Histories
from indexer.evaluation.experiment.data import Data
from indexer.progress import Progress

if TYPE_CHECKING:
    from indexer.evaluation.experiment.config import ExperimentConfig


@dataclass(frozen=True)
class Context:
    """The configuration, the data, and the folder that results go to."""

    config: ExperimentConfig
    output: Path
    data: Data
    histories: Histories
    progress: Progress
