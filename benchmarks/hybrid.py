"""What the collaborative part costs in a rerank and in a recommendation of the whole catalogue.

    make bench                                            # after benchmarks.online
    python -m benchmarks.hybrid                           # 10,000 personas, two minutes
    python -m benchmarks.hybrid --personas 10000 500000   # much longer: a server links 500,000
    python -m benchmarks.hybrid --personas 500000 --no-embedded

Personas alone (Eq. 10) and the one score of all three parts answer the same questions in turn, with
the texts of the first ten; ratios are of medians in one run. Columns of B hold 200 entries, and
histories 20 items, drawn so that popular items are in most of them. As many columns are in memory
as a reader of a server keeps. On a busy machine --processor-time measures the embedded engine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.engines import built, err, found_server, linked, wait_for_links
from benchmarks.online import CANDIDATES, RESULTS
from benchmarks.synthetic import Catalogue
from benchmarks.timing import ROUNDS, Contender, Timing, measure
from p4r_qdrant import PersonaIndex, PersonaReranker, Settings
from p4r_qdrant.arrays import Floats
from p4r_qdrant.index.columns import CollaborativePart, Column
from p4r_qdrant.index.server.columns import MOST_COLUMNS
from p4r_qdrant.rerank.users import KnownUser
from p4r_qdrant.settings import RerankSettings

ENTRIES = 200
HISTORY = 20
ALONE, HYBRID = RerankSettings(fusion="none"), RerankSettings(fusion="standard")


def popular(random: np.random.Generator, items: int, count: int) -> Any:
    """Distinct items of which the first are drawn most often, ascending."""
    return np.unique((items * random.random(count) ** 2).astype(np.uint32))


def columns(items: int) -> Iterator[Column]:
    random = np.random.default_rng(1)
    for number in range(items):
        places = popular(random, items, ENTRIES)
        values = random.standard_normal(len(places), dtype=np.float32)
        yield Column(f"item-{number}", number, places, values)


def histories(items: int) -> Iterator[dict[str, str]]:
    random = np.random.default_rng(2)
    return cycle(
        [{f"item-{one}": "A title" for one in popular(random, items, HISTORY)} for _ in range(100)]
    )


def contenders(index: PersonaIndex, items: int, name: str) -> dict[str, Contender]:
    """Both ways to rerank on one index."""
    reranker, told = PersonaReranker(index), histories(items)

    def rerank(options: RerankSettings, users: Floats, candidates: list[list[str]]) -> Any:
        scored = [[(one, -float(at)) for at, one in enumerate(own)] for own in candidates]
        known = [KnownUser(user, next(told)) for user in users]
        return reranker.rerank_many(known, scored, explain=10, rerank=options)

    return {
        f"{name}: personas": partial(rerank, ALONE),
        f"{name}: hybrid": partial(rerank, HYBRID),
    }


def recommending(index: PersonaIndex, items: int, name: str) -> dict[str, Contender]:
    """Both ways to recommend the ten best items of the whole catalogue."""
    reranker, told = PersonaReranker(index), histories(items)

    def recommend(options: RerankSettings, users: Floats, _: list[list[str]]) -> Any:
        return [
            reranker.recommend(KnownUser(user, next(told)), 10, rerank=options) for user in users
        ]

    return {
        f"{name}: personas": partial(recommend, ALONE),
        f"{name}: hybrid": partial(recommend, HYBRID),
    }


def run(
    personas: int, engines: dict[str, Settings], repeats: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """Build the indexes of one size and ask them everything."""
    catalogue = Catalogue.of(personas)
    rows = []
    with ExitStack() as stack:
        indexes = {name: built(settings, catalogue, stack) for name, settings in engines.items()}
        part = CollaborativePart(
            1, "", ENTRIES, catalogue.items, catalogue.items, settings={"decay": 0.95}
        )
        ways: dict[str, Contender] = {}
        for name, index in indexes.items():
            err.print(f"writing {catalogue.items:,} columns, {name}")
            index.write_collaborative(part, columns(catalogue.items))
            if engines[name].qdrant.url is not None:
                wait_for_links(index)
            known = min(MOST_COLUMNS, catalogue.items)
            index.collaborative_shares({"item-0": 1.0}, [f"item-{one}" for one in range(known)])
            ways |= contenders(index, catalogue.items, name)
        for candidates in CANDIDATES:
            err.print(f"{personas:,} personas, {candidates} candidates")
            times = max(2 * ROUNDS, repeats * 100 // max(100, candidates))
            timings = measure(ways, catalogue.items, candidates, 1, times, clock)
            rows += rows_of(personas, str(candidates), timings, indexes)
        whole: dict[str, Contender] = {}
        for name, index in indexes.items():
            whole |= recommending(index, catalogue.items, name)
        err.print(f"{personas:,} personas, whole catalogue")
        timings = measure(whole, catalogue.items, 1, 1, repeats, clock)
        rows += rows_of(personas, f"all {catalogue.items:,} items", timings, indexes)
    return rows


def rows_of(
    personas: int, what: str, timings: dict[str, Timing], engines: Any
) -> list[dict[str, Any]]:
    rows = []
    for engine in engines:
        alone, hybrid = timings[f"{engine}: personas"], timings[f"{engine}: hybrid"]
        rows.append(
            {
                "personas": personas,
                "candidates": what,
                "engine": engine,
                "alone": vars(alone),
                "hybrid": vars(hybrid),
                "ratio": hybrid.median / alone.median,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(title="Milliseconds a call, median / p99; ratio of medians")
    for name in ("personas", "candidates", "engine", "personas alone", "hybrid", "ratio"):
        shown.add_column(name, justify="left" if name == "engine" else "right", no_wrap=True)
    for row in rows:
        both = (row["alone"], row["hybrid"])
        cells = [f"{one['median']:.2f} / {one['p99']:.2f}" for one in both]
        size, ratio = f"{row['personas']:,}", f"{row['ratio']:.2f}"
        shown.add_row(size, row["candidates"], row["engine"], *cells, ratio)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--personas", type=int, nargs="+", default=[10_000])
    parser.add_argument("--repeats", type=int, default=200, help="calls timed at 20 candidates")
    parser.add_argument("--no-server", action="store_true", help="only the embedded engine")
    parser.add_argument("--no-embedded", action="store_true", help="only the server")
    parser.add_argument("--processor-time", action="store_true", help="of one thread; no server")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    no_server = arguments.no_server or arguments.processor_time
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p4r-bench-")))
        server = None if no_server else found_server(folder, stack)
        if server is None and arguments.no_embedded:
            parser.error("no engine is left: leave out --no-embedded, or give it a server")
        clock = time.thread_time if arguments.processor_time else time.perf_counter
        for personas in arguments.personas:
            engines = {}
            if not arguments.no_embedded:
                path = folder / f"edge-{personas}"
                engines["embedded"] = Settings(qdrant={"url": None, "path": path})
            if server is not None:
                engines["server"] = linked(server, f"hybrid-{personas}")
            rows += run(personas, engines, arguments.repeats, clock)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "hybrid.json").write_text(json.dumps(rows, indent=1))
    Console(width=120).print(table(rows))


if __name__ == "__main__":
    main()
