"""What personas cost offline, and after how many requests that is earned back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from indexer.artifacts.lines import Refusals
from indexer.ledger import LEDGER, Ledger
from indexer.llm import Usage
from indexer.llm.request import usage_of
from indexer.peers.cells import Cell
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.run import estimate, steps
from indexer.reasoning.step import Sources

STEPS = ("summaries", "aspects", "personas")
"""What a reranker needs; alignments are for training."""


@dataclass(frozen=True, slots=True)
class OfflineCost:
    """The LLM usage of all personas of a catalogue; `paid`: by its ledger, else estimated."""

    usage: Usage
    paid: bool


def offline_cost(sources: Sources) -> OfflineCost:
    """From the ledger of the artifact folder, else from the requests that `p4r reason` would ask.

    Prices are those of now.
    """
    spent = _spent(sources.folder.path / LEDGER)
    if spent.calls:
        prices = sources.llm.of("personas").cost(spent.prompt_tokens, spent.completion_tokens)
        cost = spent.cost_usd if spent.cost_usd else prices
        return OfflineCost(
            Usage(spent.calls, spent.prompt_tokens, spent.completion_tokens, cost), paid=True
        )
    wanted = steps(STEPS, sources, Refusals(), AlignmentOptions())
    with TemporaryDirectory() as empty, Ledger(Path(empty), read_only=True) as ledger:
        found = estimate(wanted, ledger).values()
    costs = [one.cost_usd for one in found]
    cost = None if None in costs else sum(one for one in costs if one is not None)
    return OfflineCost(
        Usage(
            sum(one.requests for one in found),
            sum(one.prompt_tokens for one in found),
            sum(one.completion_tokens for one in found),
            cost,
        ),
        paid=False,
    )


def _spent(folder: Path) -> Usage:
    """What the ledger has recorded for the steps."""
    if not folder.is_dir():
        return Usage()
    with Ledger(folder, read_only=True) as ledger:
        return sum(
            (
                usage_of(record)
                for step in STEPS
                for record in ledger.entries(step, superseded=True)
                if "calls" in record
            ),
            Usage(),
        )


def earned_back(offline: OfflineCost, cell: Cell) -> float | None:
    """The requests after which a peer has cost as much as all personas; None for a free one.

    By cost if both are known and not 0, else by tokens.
    """
    if offline.usage.cost_usd and cell.cost_usd:
        return offline.usage.cost_usd / cell.cost_usd
    return offline.usage.tokens / cell.tokens if cell.tokens else None
