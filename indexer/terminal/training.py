"""What `p4r train` and `p4r tune` print at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexer.terminal.console import err, out
from indexer.terminal.tables import Table, number

if TYPE_CHECKING:
    from pathlib import Path

    from indexer.training.run import Trained
    from indexer.tuning.run import Tuning


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


def print_tuning(tuning: Tuning, written: Path, shown: int = 5) -> None:
    """Print the best settings that `p4r tune` found, and how they compare."""
    table = Table("history", number("NDCG@10"), number("MRR"))
    for tried in tuning.histories[:shown]:
        history, metrics = tried.history, tried.metrics
        name = f"{history.length} interactions, decay {history.decay:g}"
        table.add(name, f"{metrics.ndcg:.4f}", f"{metrics.mrr:.4f}")
    table.print()
    if tuning.fit is not None:
        table = Table("collaborative part, whole catalogue", number("NDCG@10"))
        for fit in tuning.fit.tried[:shown]:
            name = f"share {fit['share']:g}, l2 {fit['l2']:g}, decay {fit['decay']:g}"
            table.add(name, f"{fit['valid']:.4f}")
        table.print()
    table = Table("weights on validation items", number("NDCG@10"))
    for name, value in tuning.tuned.valid.items():
        table.add(name, f"{value:.4f}")
    table.print()
    table = Table("forms of the persona score, with their best weights", number("NDCG@10"))
    for what, weighed in tuning.weighed.items():
        best = {(one.weights.interests, one.weights.prior): one for one in reversed(weighed)}
        for (interests, prior), one in sorted(best.items()):
            name = f"{what}: interests {interests:g}, prior {prior:g}"
            table.add(name, f"{one.valid:.4f}")
    table.print()
    for what, weighed in tuning.weighed.items():
        out.say(f"weights for the {what}: {weighed[0].weights.described()}")
    history = tuning.tuned.history
    out.say(
        f"best of {len(tuning.histories)} histories on {tuning.tuned.validation}; "
        + (
            f"recorded in {tuning.recorded}"
            if tuning.recorded
            else f"set P4R_HISTORY__LENGTH={history.length} P4R_HISTORY__DECAY={history.decay:g}"
        )
    )
    out.say(f"written: {written}; readers get it by p4r publish --artifacts {written.parent}")
