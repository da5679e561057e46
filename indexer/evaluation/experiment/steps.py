"""The long steps of an experiment, whose results are stored as stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from indexer.artifacts.names import PERSONAS, SUMMARIES
from indexer.artifacts.opening import as_stored
from indexer.evaluation.experiment import ablations, cold, reranked_lines, selection
from indexer.evaluation.experiment.config import EXTRACTIVE
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.data import files_hash
from indexer.evaluation.experiment.encoding import Encoded, EncoderName
from indexer.evaluation.experiment.main_table import Line
from indexer.evaluation.experiment.selection import Choice, Judged
from indexer.evaluation.experiment.stages import Stages


class Steps:
    """The long steps, for each encoder: each is a stage with a stored result."""

    def __init__(
        self, context: Context, judged: Mapping[str, Judged], lists_hashes: Sequence[str]
    ) -> None:
        self.context = context
        self.judged = judged
        self.stages = Stages(context.output / "stages")
        self.histories: dict[EncoderName, list[dict[str, Any]]] = {}
        self.options: dict[EncoderName, list[dict[str, Any]]] = {}
        config = context.config
        extras = [
            files_hash(as_stored(extra / name) for name in (PERSONAS, SUMMARIES)) if extra else None
            for extra in (config.aggregated, config.leaking, context.output / EXTRACTIVE)
        ]
        settings = config.model_dump(mode="json", exclude={"name", "peers"})
        self._inputs = [context.data.hash(), settings, *extras, list(lists_hashes)]

    def choice(self, one: Encoded) -> Choice:
        """History, options and fusion weights, chosen on validation items."""
        self.context.progress.start(f"choosing on validation items, {one.name}")
        inputs = [*self._inputs, one.encoder.fingerprint]
        narrow = [every.first(self.context.config.candidates[0]) for every in self.judged.values()]
        self.histories[one.name] = self.stages.result(
            f"history-{one.name}",
            [selection],
            inputs,
            partial(selection.history, one, narrow, self.context),
        )
        history = selection.best(self.histories[one.name])
        length, decay = history["length"], history["decay"]
        self.options[one.name] = self.stages.result(
            f"options-{one.name}",
            [selection],
            [*inputs, length, decay],
            partial(selection.options, one, narrow, self.context, length, decay),
        )
        options = selection.best(self.options[one.name])
        return selection.choice(one, self.judged, self.context, history, options)

    def reranked_lines(self, one: Encoded, choice: Choice) -> list[Line]:
        """The lines of the main table that the index and the reranker make."""
        passes = reranked_lines.passes(choice, self.judged, self.context)
        self.context.progress.start(f"reranking, {one.name}", passes * len(self.context.data.users))
        rows = self.stages.result(
            f"main-{one.name}",
            [reranked_lines],
            [*self._inputs, one.encoder.fingerprint, choice.record()],
            partial(reranked_lines.reranked_lines, one, choice, self.judged, self.context),
        )
        return [Line(**(row | {"ranks": np.array(row["ranks"], dtype=np.int64)})) for row in rows]

    def cold(self, one: Encoded, choice: Choice) -> list[dict[str, Any]]:
        """What is found of items whose interactions are hidden."""
        self.context.progress.start("hiding the interactions of some items")
        rows: list[dict[str, Any]] = self.stages.result(
            f"cold-{one.name}",
            [cold],
            [*self._inputs, one.encoder.fingerprint, choice.record()],
            partial(cold.cold_table, one, choice, self.context),
        )
        return rows

    def ablations(self, one: Encoded, choice: Choice) -> list[dict[str, Any]]:
        """Every variant of persona reranking."""
        self.context.progress.start("ablations")
        length, decay = choice.length, choice.plain.decay
        config, judged = self.context.config, self.judged
        rows: list[dict[str, Any]] = self.stages.result(
            "ablations",
            [ablations],
            [*self._inputs, one.encoder.fingerprint, length, decay],
            lambda: list(ablations.ablations(config, judged, one.material, length, decay)),
        )
        return rows
