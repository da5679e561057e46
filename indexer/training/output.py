"""Write the files beside a trained adapter: record, model card, loss curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from indexer.artifacts.writing import written_whole
from p4r_qdrant.encoder.adapter import RECORD, AdapterRecord

CARD = "README.md"
CURVES = "loss.png"

_WHAT_FOR = """\
It places a user's history near the persona that explains the next choice (Persona4Rec, Eq. 9).
`p4r publish --adapter` with this folder makes a version of the index for it and switches readers to
both. Vectors of another encoder cannot be compared with those of this one."""

_METRICS = """\
Means over users. `untrained` is the base without the adapter, both with the history settings of
the run; `tuned` is the adapter with the history settings above."""

History = Sequence[Mapping[str, float]]


def write_record(folder: Path, record: AdapterRecord) -> None:
    """Write the record, and a model card with the same content for people."""
    with written_whole(folder / RECORD) as write:
        write(record.model_dump_json(indent=2))
    with written_whole(folder / CARD) as write:
        write(card(record))


def card(record: AdapterRecord) -> str:
    """The model card: Markdown, with the front matter that model hubs read."""
    front = {
        "base_model": record.base,
        "library_name": "peft",
        "tags": ["persona4rec", "sentence-transformers", "lora"],
    }
    rows = {
        "base": f"{record.base}, fingerprint `{record.base_fingerprint}`",
        "data": f"hash `{record.data_hash}`, {record.examples:,} examples",
        "run": f"`{record.run}`",
        "history": f"{record.history.length} interactions, decay {record.history.decay:g}",
        "validated on": record.validation,
    }
    header = ["| | |", "|---|---|"]
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in front.items()),
        "---",
        "",
        f"# A persona encoder: LoRA on {record.base}",
        "",
        _WHAT_FOR,
        "",
        f"Made by `p4r train` on {record.created_at}.",
        "",
        *header,
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        "## Metrics on the validation items",
        "",
        _METRICS,
        "",
        *header,
        *(f"| {name} | {value:.4f} |" for name, value in record.metrics.items()),
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(record.settings, indent=2),
        "```",
    ]
    return "\n".join(lines)


def draw_curves(history: History, untrained: Mapping[str, float], path: Path) -> None:
    """Draw the loss, the learning rate and the validation metrics against epochs (PNG).

    history: the log of Trainer. untrained: `ndcg` and `mrr` of the base, drawn as horizontal lines.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6))
    # Fixed margins: for a layout of its own, matplotlib draws everything twice.
    figure.subplots_adjust(left=0.055, right=0.99, bottom=0.15, top=0.91, wspace=0.2)
    losses, rates, metrics = figure.subplots(1, 3)
    steps = [one for one in history if "loss" in one]
    losses.plot([one["epoch"] for one in steps], [one["loss"] for one in steps])
    losses.set(title="Loss of a batch", xlabel="epoch", ylabel="InfoNCE")
    rates.plot([one["epoch"] for one in steps], [one["learning_rate"] for one in steps])
    rates.set(title="Learning rate", xlabel="epoch")
    epochs = [one for one in history if "eval_ndcg" in one]
    for name, label, colour in (("ndcg", "NDCG@10", "tab:blue"), ("mrr", "MRR", "tab:orange")):
        values = [one[f"eval_{name}"] for one in epochs]
        metrics.plot([one["epoch"] for one in epochs], values, "o-", label=label, color=colour)
        metrics.axhline(untrained[name], ls="--", lw=1, label=f"{label}, untrained", color=colour)
    metrics.set(title="Validation items", xlabel="epoch")
    metrics.legend()
    for axes in (losses, rates, metrics):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, format="png", dpi=120)
