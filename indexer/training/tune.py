"""Choose the history length and decay of an encoder on the validation items (Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.training.output import write_record
from indexer.training.pairs import training_data
from indexer.training.validation import Encoded, Metrics, Validation
from p4r_qdrant.encoder.adapter import AdapterRecord
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.settings import HistorySettings, Settings

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


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result of `tune_history`, best first. recorded: the adapter whose record was updated."""

    tried: list[Tried]
    validation: str
    recorded: Path | None


def tune_history(folder: ArtifactFolder, settings: Settings, refusals: Refusals) -> Tuning:
    """Try history lengths and decays with the encoder of the settings.

    If the encoder has an adapter with a record, the best settings are written to that record.
    """
    encoder = PersonaEncoder.from_settings(settings.encoder)
    with training_data(folder, refusals) as data:
        validation = Validation.read(data, refusals, settings.training.seed)
    tried = tune(validation.encoded(encoder))
    adapter = Path(settings.encoder.adapter) if settings.encoder.adapter else None
    record = AdapterRecord.read(adapter) if adapter else None
    if adapter is None or record is None:
        return Tuning(tried, validation.what, None)
    write_record(adapter, tuned(record, validation, tried[0]))
    return Tuning(tried, validation.what, adapter)


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
