"""What `p4r train` and `p4r tune` print at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexer.terminal.console import err, out
from indexer.terminal.tables import Table, number

if TYPE_CHECKING:
    from indexer.training.run import Trained
    from indexer.training.tune import Tuning


def print_training(trained: Trained) -> None:
    """Print how the adapter reranks the validation items, beside the untrained encoder."""
    record = trained.record
    metrics = record.metrics
    table = Table("validation items", number("NDCG@10"), number("MRR"))
    history = f"{record.history.length} interactions, decay {record.history.decay:g}"
    for name, prefix in (("untrained", "untrained_"), ("trained", ""), (history, "tuned_")):
        table.add(name, *(f"{metrics[prefix + one]:.4f}" for one in ("ndcg", "mrr")))
    table.print()
    for what, count in trained.left_out.items():
        out.say(f"left out: {count:,} {what}")
    for sentence in trained.too_long:
        err.say(sentence, style="yellow")
    if not trained.is_better:
        err.say(
            "This adapter reranks the validation items no better than the untrained encoder.",
            style="yellow",
        )
    done = "trained on" if trained.fresh else "was trained before on"
    out.say(
        f"{trained.adapter} {done} {record.examples:,} examples ({record.validation}); readers get "
        f"it by p4r publish --adapter {trained.adapter}"
    )


def print_tuning(tuning: Tuning, shown: int = 10) -> None:
    """Print the best settings of the history that `p4r tune` found."""
    table = Table(number("length"), number("decay"), number("NDCG@10"), number("MRR"))
    for one in tuning.tried[:shown]:
        table.add(
            str(one.history.length),
            f"{one.history.decay:g}",
            f"{one.metrics.ndcg:.4f}",
            f"{one.metrics.mrr:.4f}",
        )
    table.print()
    best = tuning.tried[0].history
    out.say(
        f"best of {len(tuning.tried)} on {tuning.validation}; "
        + (
            f"recorded in {tuning.recorded}"
            if tuning.recorded
            else f"set P4R_HISTORY__LENGTH={best.length} P4R_HISTORY__DECAY={best.decay:g}"
        )
    )
