"""Progress of training: epochs and steps, loss, learning rate, validation, time left."""

from __future__ import annotations

from statistics import fmean
from typing import Any, Self

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
    """A bar over the steps on standard error, and a line for each epoch; a context manager."""

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
        self._task = self._bar.add_task("loading the encoder", total=None)
        self._logged: dict[str, float] = {}
        self._losses: list[float] = []

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Show the steps, from where training goes on."""
        if state.is_world_process_zero:
            self._bar.reset(self._task, total=state.max_steps, completed=state.global_step)
            self._bar.update(self._task, description="")

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the last figures; print them at the end of an epoch."""
        self._logged |= logs or {}
        if logs and "loss" in logs:
            self._losses.append(logs["loss"])
        ends_epoch = bool(logs and "eval_ndcg" in logs)
        if ends_epoch and self._losses:
            self._logged["loss"] = fmean(self._losses)
            self._losses.clear()
        names = {
            "loss": "loss {:.3f}",
            "learning_rate": "rate {:.1e}",
            "eval_ndcg": "NDCG@10 {:.4f}",
            "eval_mrr": "MRR {:.4f}",
        }
        shown = [
            form.format(self._logged[name]) for name, form in names.items() if name in self._logged
        ]
        self._bar.update(self._task, description=", ".join(shown))
        if state.is_world_process_zero and ends_epoch:
            err.print(f"epoch {state.epoch or 0:g}: {', '.join(shown)}", highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
