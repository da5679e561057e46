"""Draw what a data set looks like."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.artifacts.writing import written_bytes
from indexer.datasets.stats import MOST_RATINGS, DatasetStats
from p4r_qdrant.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(stats: DatasetStats, path: Path, title: str) -> None:
    """Draw a PNG: the histogram of ratings, and the interactions per user and per item.

    Raises: MissingExtraError without matplotlib, InputError if `path` cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    shown = title.replace("$", r"\$")  # matplotlib reads $ as the start of a formula
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(
        f"{shown}: {stats.interactions:,} interactions, {stats.users:,} users, "
        f"{stats.items:,} items, sparsity {stats.sparsity:.3%}"
    )
    ratings, users, items = figure.subplots(1, 3)
    histogram = stats.histogram()
    bars = ratings.bar(list(histogram), list(histogram.values()), color="tab:blue")
    ratings.bar_label(bars, [f"{n / stats.interactions:.0%}" for n in histogram.values()])
    ratings.margins(y=0.12)
    ratings.set(title="Ratings", xlabel="rating", ylabel="interactions")
    if len(stats.ratings) > MOST_RATINGS:
        ratings.tick_params(axis="x", labelrotation=45)
    _draw_spread(users, stats.per_user, "users")
    _draw_spread(items, stats.per_item, "items")
    with written_bytes(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": "p4r stats"})


def check_plot(path: Path) -> None:
    """Raise what `plot` would raise, before the data set is read."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("a plot needs matplotlib: pip install 'p4r-qdrant[data]'")
    if path.suffix.lower() != ".png":
        raise InputError(f"{path} cannot be drawn: name a .png file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.absolute().parent}")


def _draw_spread(axes: Axes, counts: Mapping[int, int], what: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    values = sorted(counts)
    axes.scatter(values, [counts[value] for value in values], s=10, color="tab:blue")
    axes.set(
        title=f"Interactions of {what}",
        xlabel="interactions",
        ylabel=what,
        xscale="log",
        yscale="log",
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(EngFormatter(sep=""))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="major", alpha=0.3)
