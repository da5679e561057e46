"""A training run that may kill its own process:

   python -m tests.support.train_process ARTIFACTS OUTPUT [STEP]

Settings come from the environment, as for `p4r train`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.training import run
from p4r_qdrant import Settings


class KillAfter(TrainerCallback):
    """kill -9 after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    artifacts, output, *steps = sys.argv[1:]
    callbacks = [KillAfter(int(step)) for step in steps]
    folder = ArtifactFolder(Path(artifacts))
    run.train(folder, Path(output), Settings.load(), Refusals(), callbacks=callbacks)
