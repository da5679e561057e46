"""Choose the history length and decay of an encoder on the validation items (Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.training.output import write_record
from indexer.training.validation import Encoded, Metrics, Validation
from p4r_qdrant.encoder.adapter import AdapterRecord
from p4r_qdrant.settings import HistorySettings

LENGTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
DECAYS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Tried:
    """One point of the grid and its metrics."""

    history: HistorySettings
    metrics: Metrics


def tune(
    encoded: Encoded,
    lengths: Sequence[int] = LENGTHS,
    decays: Sequence[float] = DECAYS,
) -> list[Tried]:
    """Metrics of every length with every decay, sorted by NDCG@10, then by MRR, best first.

    Ties are sorted by the shorter history, then by the smaller decay. Lengths beyond the longest
    history of a user change nothing and are skipped.
    """
    longest = max(len(history) for history in encoded.users.histories)
    distinct = [one for one in lengths if one <= longest] or [min(lengths)]
    if max(distinct) < longest and max(distinct) < max(lengths):
        distinct.append(min(one for one in lengths if one > longest))
    tried = [
        Tried(HistorySettings(length=length, decay=decay), encoded.measure(length, decay))
        for length in distinct
        for decay in decays
    ]
    return sorted(
        tried,
        key=lambda one: (
            -one.metrics.ndcg,
            -one.metrics.mrr,
            one.history.length,
            one.history.decay,
        ),
    )


def record_history(adapter: Path, validation: Validation, best: Tried) -> Path | None:
    """Write the best settings to the record of an adapter; None if it has no record."""
    record = AdapterRecord.read(adapter)
    if record is None:
        return None
    write_record(adapter, tuned(record, validation, best))
    return adapter


def tuned(record: AdapterRecord, validation: Validation, best: Tried) -> AdapterRecord:
    """The record with the best history settings on validation items, and their metrics."""
    metrics = {"tuned_ndcg": best.metrics.ndcg, "tuned_mrr": best.metrics.mrr}
    return record.model_copy(
        update={
            "history": best.history,
            "validation": validation.what,
            "metrics": record.metrics | metrics,
        }
    )
