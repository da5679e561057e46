"""One experiment in a process of its own, which may kill itself:

    python -m tests.support.experiment_process CONFIG OUTPUT [STAGE STEPS]

With a stage it dies by SIGKILL when so many steps of it are done (0: when it begins).
"""

import os
import signal
import sys
from pathlib import Path

from indexer.artifacts.lines import Refusals
from indexer.evaluation.experiment import run
from indexer.evaluation.experiment.config import load_config
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.settings import EncoderSettings
from tests.support.hash_encoder import HashEncoder


class Killer:
    """Progress that ends the process, whatever is under way."""

    def __init__(self, stage: str = "", steps: int = 0) -> None:
        self._stage = stage
        self._left = steps
        self._now = ""

    def start(self, task: str, total: int | None = None) -> None:
        self._now = task
        self._die_at(0)

    def advance(self, count: int = 1) -> None:
        self._die_at(count)

    def _die_at(self, steps: int) -> None:
        if self._stage and self._now.startswith(self._stage):
            self._left -= steps
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def load_encoder(settings: EncoderSettings) -> Encoder:
    """Without a model."""
    return HashEncoder(64)


if __name__ == "__main__":
    config, output, *death = sys.argv[1:]
    run.load_encoder = load_encoder
    progress = Killer(death[0], int(death[1])) if death else Killer()
    run.run_experiment(load_config(Path(config)), Path(output), Refusals(), progress)
