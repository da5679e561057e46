"""What does fitting the collaborative model cost? Time and memory against the number of items.

    python -m benchmarks.collaborative [--items 1000 2000 4000 8000] [--output fit.json]
    python -m benchmarks.collaborative --draw fit.json

--output FILE keeps each figure as soon as it is there and draws FILE.png; a run with the same FILE
measures what is missing. --draw draws it again.

Interactions and persona vectors are random: popularity falls as 1 / rank, five personas an item
lie around one of its genres. Times are those of the processor with one thread, so that a busy
machine changes little; the file has the elapsed ones too. Each fit runs in a process of its own,
which reports its peak memory above that of its inputs. The last two columns compare neighbourhoods
with the exact fit, on some columns of B: of the 50 largest weights, the share that both have, and
the correlation of scores of users. The exponents are slopes of log time and log memory between the
smallest and the largest fit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack
from threadpoolctl import threadpool_limits

from indexer.collaborative.hypothetical import KEEP, PersonaVectors, affinities
from indexer.collaborative.weights import MOST_ITEMS, exact, neighbourhood_columns
from p4r_qdrant.arrays import Floats

DIMENSION = 64
PERSONAS = 5
GENRES = 50
USERS_AN_ITEM = 3
ITEMS_A_USER = 10
LARGEST = 50
L2 = 100.0
COMPARED = 60
"""Columns of B that are compared, and"""

USERS_COMPARED = 500

Row = dict[str, Any]
Fit = Callable[[csr_matrix, list[int]], Floats]
"""Columns of B, (n_items, n_columns), for rows of X and items."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--exact-up-to", type=int, default=MOST_ITEMS)
    parser.add_argument("--output", type=Path, help="JSON of all rows")
    parser.add_argument("--draw", type=Path, help="draw the rows of this file, and measure nothing")
    arguments = parser.parse_args()
    if arguments.draw:
        plot(json.loads(arguments.draw.read_text()), arguments.draw.with_suffix(".png"))
        return
    with threadpool_limits(1):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    kept = arguments.output is not None and arguments.output.exists()
    rows: list[Row] = json.loads(arguments.output.read_text()) if kept else []
    print(f"{'items':>8} {'A s':>8} {'exact s':>8} {'MB':>7} {'near s':>8} {'MB':>7}", end="")
    print(f" {'shared':>7} {'scores':>7}")
    for n_items in arguments.items:
        row = next((one for one in rows if one["items"] == n_items), None)
        if row is None:
            row = {"items": n_items}
            rows.append(row)
        for _ in measure(row, with_exact=n_items <= arguments.exact_up_to):
            if arguments.output:
                arguments.output.write_text(json.dumps(rows, indent=1))
        cells = [row.get(name) for name in ("affinities_s", "exact_s", "exact_mb")]
        cells += [row.get(name) for name in ("near_s", "near_mb")]
        compared = [row.get(name) for name in ("shared", "scores")]
        texts = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        texts += ["-" if cell is None else f"{cell:.3f}" for cell in compared]
        widths = (8, 8, 7, 8, 7, 7, 7)
        line = " ".join(f"{text:>{size}}" for text, size in zip(texts, widths, strict=True))
        print(f"{n_items:>8,} {line}", flush=True)
    rows.sort(key=lambda one: one["items"])
    for name in ("affinities_s", "exact_s", "exact_mb", "near_s", "near_mb"):
        print(f"{name}: n^{exponent(rows, name):.2f}")
    if arguments.output:
        plot(rows, arguments.output.with_suffix(".png"))


def measure(row: Row, *, with_exact: bool) -> Iterator[None]:
    """Add the figures that are missing in a row; yields after each."""
    fits: dict[str, Fit] = {"exact": exactly} if with_exact else {}
    fits["near"] = as_published
    missing = [name for name in fits if f"{name}_s" not in row]
    compare = with_exact and "shared" not in row
    if not missing and not compare:
        return
    n_items = row["items"]
    users, personas = catalogue(n_items)
    row["interactions"] = users.nnz
    before, began = time.process_time(), time.perf_counter()
    hypothetical = affinities(personas, np.arange(n_items), n_items, KEEP)
    row["affinities_s"] = time.process_time() - before
    row["affinities_elapsed_s"] = time.perf_counter() - began
    yield
    weight = np.float32(np.sqrt(users.shape[0] / hypothetical.shape[0]))
    rows = vstack([users, hypothetical * weight], format="csr")
    items = np.random.default_rng(0).choice(n_items, COMPARED, replace=False).tolist()
    columns = {}
    for name in fits if compare else missing:
        columns[name], found = in_a_process(fits[name], rows, items)
        row.update({f"{name}_{key}": value for key, value in found.items()})
        yield
    if compare:
        row["shared"] = shared(columns["exact"], columns["near"])
        first, second = (np.ravel(users[:USERS_COMPARED] @ one) for one in columns.values())
        row["scores"] = float(np.corrcoef(first, second)[0, 1])
        yield


def catalogue(n_items: int) -> tuple[csr_matrix, PersonaVectors]:
    """Users who choose among items of two genres each, and personas around the genres."""
    rng = np.random.default_rng(n_items)
    genre = rng.permutation(n_items) % GENRES
    popularity = 1 / np.arange(1, n_items + 1)
    of_genre = [np.flatnonzero(genre == one) for one in range(GENRES)]
    reached = [np.cumsum(popularity[own]) for own in of_genre]
    n_users = USERS_AN_ITEM * n_items
    liked = rng.integers(0, GENRES, (2, n_users))
    mass = np.array([own[-1] for own in reached])[liked]
    drawn = np.empty(
        (n_users, 2 * ITEMS_A_USER), dtype=np.int64
    )  # twice as many: some are the same
    second = rng.random(drawn.shape) * mass.sum(axis=0)[:, None] > mass[0][:, None]
    genres = np.where(second, liked[1][:, None], liked[0][:, None])
    for one, (own, ends) in enumerate(zip(of_genre, reached, strict=True)):
        here = genres == one
        drawn[here] = own[np.searchsorted(ends, rng.random(int(here.sum())) * ends[-1])]
    _, first = np.unique(drawn + n_items * np.arange(n_users)[:, None], return_index=True)
    places = np.zeros(drawn.size, bool)
    places[first] = True
    chosen = places.reshape(drawn.shape)
    chosen &= np.cumsum(chosen, axis=1) <= ITEMS_A_USER
    ends = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    ones = np.ones(ends[-1], np.float32)
    users = csr_matrix((ones, drawn[chosen], ends), (n_users, n_items))
    users.sort_indices()
    centres = rng.standard_normal((GENRES, DIMENSION))
    vectors = np.repeat(centres[genre], PERSONAS, axis=0)
    vectors += 2 * rng.standard_normal(vectors.shape)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"{item:09}" for item in range(n_items)]
    return users, PersonaVectors(names, unit, np.arange(0, len(unit) + 1, PERSONAS))


def exactly(rows: csr_matrix, items: list[int]) -> Floats:
    """Some columns of the exact B."""
    return exact(rows, L2)[:, items]


def as_published(rows: csr_matrix, items: list[int]) -> Floats:
    """Some columns of B by neighbourhood; as in `p4r publish`, each is used and forgotten."""
    kept = np.zeros((rows.shape[1], len(items)), np.float32)
    place = {item: column for column, item in enumerate(items)}
    for item, (near, values) in enumerate(neighbourhood_columns(rows, L2)):
        if item in place:
            kept[near, place[item]] = values
    return kept


def in_a_process(fit: Fit, rows: csr_matrix, items: list[int]) -> tuple[Floats, dict[str, float]]:
    """Columns of a fit, its seconds, and its peak memory in MB above that of its inputs."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        result: tuple[Floats, dict[str, float]] = pool.apply(_fit, (fit, rows, items))
    return result


def _fit(fit: Fit, rows: csr_matrix, items: list[int]) -> tuple[Floats, dict[str, float]]:
    before, began, elapsed = _now_mb(), time.process_time(), time.perf_counter()
    columns = fit(rows, items)
    found = {"s": time.process_time() - began, "elapsed_s": time.perf_counter() - elapsed}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return columns, found | {"mb": peak - before}


def _now_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def shared(best: Floats, near: Floats) -> float:
    """Of the largest weights in each column, the share that both have."""
    tops = [np.argpartition(-one, LARGEST, axis=0)[:LARGEST] for one in (best, near)]
    counts = [len(np.intersect1d(*columns)) for columns in zip(*(t.T for t in tops), strict=True)]
    return float(np.mean(counts)) / LARGEST


def exponent(rows: list[dict[str, Any]], name: str) -> float:
    """The slope of log value against log items, between the ends of a column."""
    known = [(row["items"], row[name]) for row in rows if row.get(name)]
    if len(known) < 2:
        return float("nan")
    (fewest, low), (most, high) = known[0], known[-1]
    return float(np.log(high / low) / np.log(most / fewest))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against items, on logarithmic axes, with the exponents."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (times, memory) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    lines = [
        (times, "affinities_s", "A"),
        (times, "exact_s", "B, exact"),
        (times, "near_s", "B, by neighbourhood"),
        (memory, "exact_mb", "B, exact"),
        (memory, "near_mb", "B, by neighbourhood"),
    ]
    for axes, name, title in lines:
        known = [(row["items"], row[name]) for row in rows if row.get(name)]
        label = f"{title}: n^{exponent(rows, name):.2f}"
        axes.loglog(*zip(*known, strict=True), marker="o", label=label)
    times.set_ylabel("seconds of one core")
    memory.set_ylabel("MB above the inputs")
    for axes in (times, memory):
        axes.set_xlabel("items (about 30 interactions and 5 personas each)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
