"""Latency and memory of the peers and of personas in an experiment: Table 7, Figure 4."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from indexer.evaluation.candidates import lists_hash
from indexer.evaluation.experiment.config import PeersConfig
from indexer.evaluation.experiment.context import Context
from indexer.evaluation.experiment.encoding import Encoded
from indexer.evaluation.experiment.selection import Choice
from indexer.evaluation.experiment.stages import Stages
from indexer.peers.bench import BenchPlan
from indexer.peers.bench_run import BenchRequest, measured
from p4r_qdrant.settings import HistorySettings, LLMSettings, Settings


def peer_bench(
    context: Context,
    stages: Stages,
    lists: Path,
    encoded: Encoded,
    choice: Choice,
    llm: LLMSettings | None,
) -> dict[str, Any] | None:
    """The cells of `p4r peers bench` on the lists of a file, as JSON; None if none is wanted.

    Measured once: the calls are paid for. Raises what stops the LLM.
    """
    config = context.config.peers
    if config is None or config.bench is None:
        return None
    plan = BenchPlan(
        sorted(config.bench.users), sorted(config.bench.candidates), 60 * config.bench.minutes
    )
    wanted = BenchRequest(
        context.data.folder.path, lists, context.config.domain, list(config.names), config, plan
    )
    asked = llm or LLMSettings()
    settings = Settings.model_construct(
        llm=asked,
        encoder=context.config.encoder,
        history=HistorySettings(length=choice.length, decay=choice.plain.decay),
    )
    context.progress.start("measuring latency and memory")
    found: dict[str, Any] = stages.result(
        "bench",
        [],
        [_inputs(config), lists_hash(lists), encoded.encoder.fingerprint, asked.base_url],
        lambda: asdict(measured(wanted, settings, context.progress, encoder=encoded.encoder)),
    )
    return found


def _inputs(config: PeersConfig) -> dict[str, Any]:
    """What the measured calls depend on; anything else must not make them be paid for again."""
    others = {"judge", "users", "generators", "adapters", "untuned", "precision", "student"}
    return config.model_dump(mode="json", exclude=others)
