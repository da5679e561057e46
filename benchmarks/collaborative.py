"""What does fitting the collaborative model cost? Time and memory against the number of items.

    python -m benchmarks.collaborative [--items 1000 2000 4000 8000] [--output fit.json]
    python -m benchmarks.collaborative --draw fit.json

--output FILE writes the rows as JSON after each of them and draws FILE.png; --draw draws it again.

Interactions and persona vectors are random: popularity falls as 1 / rank, five personas an item
lie around one of its genres. Times are those of the processor with one thread, so that a busy
machine changes little. Each fit runs in a process of its own, which reports its peak memory above
that of its inputs. The last two columns compare `by_neighbourhood` with `exact`: of the 50
largest weights of an item, the share that both have, and the correlation of all their scores of
users. The exponents are slopes of log time and log memory between the smallest and the largest fit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack
from threadpoolctl import threadpool_limits

from indexer.collaborative.hypothetical import KEEP, PersonaVectors, affinities
from indexer.collaborative.weights import by_neighbourhood, exact, neighbourhood_columns
from p4r_qdrant.arrays import Floats

DIMENSION = 64
PERSONAS = 5
GENRES = 50
USERS_AN_ITEM = 3
ITEMS_A_USER = 10
LARGEST = 50
L2 = 100.0
MOST_COMPARED = 2000
"""Items up to which both are fitted. The approximation is made for many more."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--exact-up-to", type=int, default=16_000, help="then neighbourhoods alone")
    parser.add_argument("--output", type=Path, help="JSON of all rows")
    parser.add_argument("--draw", type=Path, help="draw the rows of this file, and measure nothing")
    arguments = parser.parse_args()
    if arguments.draw:
        plot(json.loads(arguments.draw.read_text()), arguments.draw.with_suffix(".png"))
        return
    with threadpool_limits(1):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    rows = []
    print(f"{'items':>8} {'A s':>8} {'exact s':>8} {'MB':>7} {'near s':>8} {'MB':>7}", end="")
    print(f" {'shared':>7} {'scores':>7}")
    for n_items in arguments.items:
        row = measured(n_items, with_exact=n_items <= arguments.exact_up_to)
        rows.append(row)
        cells = [row.get(name) for name in ("exact_s", "exact_mb", "near_s", "near_mb")]
        texts = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
        if arguments.output:
            arguments.output.write_text(json.dumps(rows, indent=1))
        compared = [row.get(name) for name in ("shared", "scores")]
        print(
            f"{n_items:>8,} {row['affinities_s']:>8.1f} {texts[0]:>8} {texts[1]:>7} "
            f"{texts[2]:>8} {texts[3]:>7} "
            + " ".join(f"{'-' if one is None else format(one, '.3f'):>7}" for one in compared),
            flush=True,
        )
    for name in ("affinities_s", "exact_s", "exact_mb", "near_s", "near_mb"):
        print(f"{name}: n^{exponent(rows, name):.2f}")
    if arguments.output:
        plot(rows, arguments.output.with_suffix(".png"))


def measured(n_items: int, *, with_exact: bool) -> dict[str, Any]:
    """One row of the table."""
    users, personas = catalogue(n_items)
    began = time.process_time()
    hypothetical = affinities(personas, np.arange(n_items), n_items, KEEP)
    row: dict[str, Any] = {"items": n_items, "interactions": users.nnz}
    row["affinities_s"] = time.process_time() - began
    weight = np.float32(np.sqrt(users.shape[0] / hypothetical.shape[0]))
    rows = vstack([users, hypothetical * weight], format="csr")
    if with_exact:
        best, row["exact_s"], row["exact_mb"] = in_a_process(exact, rows)
    if n_items <= MOST_COMPARED or not with_exact:
        fit = by_neighbourhood if with_exact else as_published
        near, row["near_s"], row["near_mb"] = in_a_process(fit, rows)
        if with_exact:
            row["shared"] = shared(best, near.toarray())
            first, second = (np.ravel(users[:500] @ one) for one in (best, near.toarray()))
            row["scores"] = float(np.corrcoef(first, second)[0, 1])
    return row


def catalogue(n_items: int) -> tuple[csr_matrix, PersonaVectors]:
    """Users who choose among items of two genres each, and personas around the genres."""
    rng = np.random.default_rng(n_items)
    genre = rng.integers(0, GENRES, n_items)
    popularity = 1 / np.arange(1, n_items + 1)
    of_genre = [np.flatnonzero(genre == one) for one in range(GENRES)]
    choices = []
    for _ in range(USERS_AN_ITEM * n_items):
        liked = np.concatenate([of_genre[one] for one in rng.integers(0, GENRES, 2)])
        weights = popularity[liked] / popularity[liked].sum()
        choices.append(rng.choice(liked, min(ITEMS_A_USER, len(liked) // 2), p=weights))
    places = np.concatenate(choices)
    ends = np.cumsum([0, *(len(one) for one in choices)])
    users = csr_matrix((np.ones(len(places), np.float32), places, ends), (len(choices), n_items))
    users.sum_duplicates()
    users.data[:] = 1
    centres = rng.standard_normal((GENRES, DIMENSION))
    vectors = np.repeat(centres[genre], PERSONAS, axis=0)
    vectors += 2 * rng.standard_normal(vectors.shape)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"{item:09}" for item in range(n_items)]
    return users, PersonaVectors(names, unit, np.arange(0, len(unit) + 1, PERSONAS))


def as_published(rows: csr_matrix, l2: float) -> None:
    """`by_neighbourhood` as `p4r publish` has it: each column is written and forgotten."""
    deque(neighbourhood_columns(rows, l2), maxlen=0)


def in_a_process(fit: Callable[[csr_matrix, float], Any], rows: csr_matrix) -> tuple[Any, ...]:
    """The result of a fit, its seconds, and its peak memory in MB above that of its inputs."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        result: tuple[Any, ...] = pool.apply(_fit, (fit, rows))
    return result


def _fit(fit: Callable[[csr_matrix, float], Any], rows: csr_matrix) -> tuple[Any, ...]:
    before, began = _now_mb(), time.process_time()
    weights = fit(rows, L2)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return weights, seconds, peak - before


def _now_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def shared(best: Floats, near: Floats) -> float:
    """Of the largest weights in each column of B, the share that both have."""
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
