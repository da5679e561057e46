"""`p4r train`, killed at random moments: the same adapter as undisturbed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.campaign import Campaign
from tests.support.killing import Command
from tests.support.paths import BOOKSHOP

pytest.importorskip("sentence_transformers")
pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")

from safetensors.numpy import load_file

from tests.support.tiny_model import save_tiny_model

KILLS = 2


def weights(folder: Path) -> Any:
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def command(model: Path) -> Command:
    own = {
        "P4R_ENCODER__MODEL": str(model),
        "P4R_ENCODER__DEVICE": "cpu",
        "P4R_HISTORY__LENGTH": "3",
        "P4R_TRAINING__EPOCHS": "2",
        "P4R_TRAINING__BATCH_SIZE": "16",
        "P4R_TRAINING__LEARNING_RATE": "5e-3",
        "P4R_TRAINING__CHECKPOINT_STEPS": "3",
        "OMP_NUM_THREADS": "1",
    }
    options = ("--artifacts", str(BOOKSHOP), "--output", "adapter")
    return Command(("train", *options), own, longest_wait_s=1.0)


def test_killed_and_run_again(campaign: Campaign, tmp_path: Path) -> None:
    names = ("summaries.jsonl", "aspects.jsonl", "personas.jsonl")
    words = " ".join((BOOKSHOP / name).read_text() for name in names)
    train = command(save_tiny_model(tmp_path / "tiny", words))
    whole = tmp_path / "whole"
    whole.mkdir()
    done = train.succeed(whole)
    scenario = campaign("p4r train: kill -9", "the run after the last kill")
    for attempt in scenario.attempts(1, most=10):
        folder = tmp_path / str(attempt.number)
        folder.mkdir()
        with attempt:
            for _ in range(KILLS):
                train.killed(folder, attempt, done.steps)
            with attempt.timed():
                train.succeed(folder)
            # Another process may share a sum out among its threads in another way.
            np.testing.assert_allclose(weights(folder), weights(whole), rtol=0, atol=1e-6)
            assert [one.name for one in folder.iterdir()] == ["adapter"]
