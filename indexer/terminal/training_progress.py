"""What people see of training: epochs and steps, loss, learning rate, validation, time left."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from indexer.terminal.console import err


class TrainingProgress(TrainerCallback):
    """A bar over the steps on standard error; a line an epoch where that is no terminal."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task("")
        self._told: dict[str, float] = {}
        self._losses: list[float] = []

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Show the bar, from where training goes on."""
        if state.is_world_process_zero:
            self._bar.update(self._task, total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """One more step."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show what was logged."""
        self._told |= logs or {}
        if logs and "loss" in logs:
            self._losses.append(logs["loss"])
        ends_epoch = bool(logs and "eval_ndcg" in logs)
        if ends_epoch and self._losses:
            self._told["loss"] = fmean(self._losses)
            self._losses.clear()
        names = {
            "loss": "loss {:.3f}",
            "learning_rate": "rate {:.1e}",
            "eval_ndcg": "NDCG@10 {:.4f}",
            "eval_mrr": "MRR {:.4f}",
        }
        told = [form.format(self._told[name]) for name, form in names.items() if name in self._told]
        self._bar.update(self._task, description=", ".join(told))
        if state.is_world_process_zero and ends_epoch:
            err.print(f"epoch {state.epoch or 0:g}: {', '.join(told)}", highlight=False)

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Take the bar away."""
        self._bar.stop()
