"""An index several times larger than the memory it may use: which settings serve it best?

    python -m benchmarks.past_memory
    python -m benchmarks.past_memory --personas 640000 --memory-limit 400 --output past-memory.json

A Qdrant server runs in a container with a memory limit. For each variant of the P4R_INDEX__
settings the project's code makes the collection, synthetic personas fill it (over gRPC, with the
points that `load` would write), and `best_personas` is timed for 20, 100 and 1000 candidates,
drawn evenly or by popularity (Zipf). Quantized variants are also asked for the ten best items by a
query that scores the quantized vectors and rescores from the stored ones. Every round starts the
server with none of its files in the page cache; other queries warm it up. Where the limit is too
small to build the index in, it is built in four times of it and served in the limit.

Needs Linux, Docker that can limit memory, and the image of docker/compose.yaml (where it cannot
be pulled, docker/import-image.sh makes it). The data lie in a folder of this machine: so their size
can be measured, and their pages dropped, without being root. Results: docs/how-to/past-memory.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.engines import wait_until_optimized
from benchmarks.limited_server import LimitedServer, LimitError, check_docker, index_bytes
from p4r_qdrant.arrays import Floats, normalised
from p4r_qdrant.index import PersonaIndex, open_index
from p4r_qdrant.index.payload import ITEM_ID, ItemVectors, Point, make_points, point_prefix
from p4r_qdrant.index.replacing import now
from p4r_qdrant.records import Persona, PersonaMatch
from p4r_qdrant.settings import Settings

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"datatype": "float32", "on_disk_vectors": True},
    "float16": {"datatype": "float16", "on_disk_vectors": True},
    "binary": {"datatype": "float16", "on_disk_vectors": True, "quantization": "binary"},
    "scalar": {"datatype": "float16", "on_disk_vectors": True, "quantization": "scalar"},
    "in-memory": {"datatype": "float16", "on_disk_vectors": False},
}
COMMON = {"on_disk_payload": True, "hnsw": False, "quantization": "none", "max_personas": 7}
DRAWS = ("even", "zipf")
CANDIDATES = (20, 100, 1000)
SHOWN = 10
"""Candidates that get their texts, and the place up to which rescored answers are checked."""
MOST = 7
"""Personas an item has at most: the best 7 * 9 + 1 points always hold the ten best items."""
OVERSAMPLING = 3.0
MIB = 2**20

Query = tuple[Floats, list[str]]
"""A user, (dim,), and the candidates."""


class Catalogue:
    """Synthetic items with 2-7 personas: unit vectors around an item's, items around a genre's."""

    def __init__(self, personas: int, dimension: int) -> None:
        rng = np.random.default_rng(7)
        sizes = rng.integers(2, MOST + 1, personas // 2)
        self.sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), personas)) + 1]
        self.personas, self.dimension = int(self.sizes.sum()), dimension
        self.genres = normalised(rng.standard_normal((64, dimension), np.float32))
        # Most popular first; the order in which items are stored has nothing to do with it.
        self.by_popularity = rng.permutation(len(self.sizes))
        self.popularity = np.cumsum(1 / np.arange(1, len(self.sizes) + 1))

    def points(self) -> Iterator[list[Point]]:
        """All points in batches, the same for every variant; payloads of some 600 bytes."""
        words = ["quiet", "bold", "early", "harbour", "paper", "river", "method", "winter"]
        for start in range(0, len(self.sizes), 128):
            rng = np.random.default_rng((11, start))
            sizes = self.sizes[start : start + 128]
            genres = rng.integers(len(self.genres), size=len(sizes))
            noise = normalised(rng.standard_normal((len(sizes), self.dimension), np.float32))
            items = np.repeat(normalised(self.genres[genres] + 0.8 * noise), sizes, axis=0)
            noise = normalised(rng.standard_normal(items.shape, np.float32))
            vectors = normalised(items + 0.8 * noise)
            batch: list[Point] = []
            for place, size in enumerate(sizes):
                item_id, text = f"item-{start + place}", " ".join(rng.choice(words, 80))
                texts = {"name": text[:30], "description": text[40:200]}
                texts["preference_rationale"] = text[200:400]
                personas = [Persona(persona_id=f"{item_id}-{one}", **texts) for one in range(size)]
                fields = {"item_title": text[:25], "category": f"genre-{genres[place]}"}
                own = vectors[len(batch) : len(batch) + size]
                made: Any = {"dimension": self.dimension, "max_personas": MOST}
                item = ItemVectors(item_id, personas, own, fields)
                batch += make_points(item, generation=now(), **made)
            yield batch

    def queries(self, draw: str, candidates: int, count: int, seed: int) -> list[Query]:
        """`count` users, each near a genre, with distinct candidates drawn evenly or by Zipf."""
        rng = np.random.default_rng((13, seed, candidates, DRAWS.index(draw)))
        genres = self.genres[rng.integers(len(self.genres), size=count)]
        users = normalised(genres + normalised(rng.standard_normal(genres.shape, np.float32)))
        return [(user, self._items(draw, candidates, rng)) for user in users]

    def _items(self, draw: str, candidates: int, rng: np.random.Generator) -> list[str]:
        ranks: dict[int, None] = {}
        while len(ranks) < candidates:
            if draw == "even":
                drawn = rng.integers(len(self.sizes), size=candidates)
            else:
                where = rng.random(candidates) * self.popularity[-1]
                drawn = np.searchsorted(self.popularity, where)
            ranks |= dict.fromkeys(drawn.tolist())
        return [f"item-{self.by_popularity[rank]}" for rank in list(ranks)[:candidates]]


def settings_of(server: LimitedServer, variant: str) -> Settings:
    index = {**COMMON, **VARIANTS[variant]}
    return Settings.load(qdrant={**server.at, "timeout_s": 600.0}, index=index)


def build(
    folder: Path, limit: int, variant: str, catalogue: Catalogue, progress: Progress
) -> dict[str, float]:
    """Build in the limit or, where that kills the server, in four times of it."""
    done = folder / "build.json"
    for memory in (limit, 4 * limit):
        if done.exists():  # by now, or left by --keep
            break
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        try:
            with LimitedServer(folder, memory) as server:
                fill(server, variant, catalogue, progress)
        except LimitError:
            if memory > limit:
                raise
        else:
            took = round(time.perf_counter() - started, 1)
            done.write_text(json.dumps({"build_s": took, "build_mib": memory}))
    known: dict[str, float] = json.loads(done.read_text())
    return known


def fill(server: LimitedServer, variant: str, catalogue: Catalogue, progress: Progress) -> None:
    """Make the collection, write all points, wait until they are optimized."""
    settings = settings_of(server, variant)
    open_index(settings, dimension=catalogue.dimension, fingerprint="past", create=True).close()
    collection = settings.qdrant.collection
    task = progress.add_task(f"{variant}: building", total=catalogue.personas)
    try:
        with ThreadPoolExecutor(1) as sender:  # the next batch is made while one is written
            sent = None
            for points in catalogue.points():
                if sent is not None:
                    sent.result()
                batch = models.Batch(
                    ids=[point.id for point in points],
                    vectors=[point.vector.tolist() for point in points],
                    payloads=[point.payload for point in points],
                )
                # Over gRPC, faster than REST: here no one reads the order of the payload's keys.
                sent = sender.submit(server.client.upsert, collection, batch, wait=True)
                progress.advance(task, len(points))
        wait_until_optimized(lambda: server.client.get_collection(collection))
    finally:
        progress.remove_task(task)
    count = server.client.count(collection, exact=True).count
    if count != catalogue.personas:
        raise LimitError(f"{catalogue.personas} personas were written, {count} are there")


def exact(index: PersonaIndex, query: Query) -> list[PersonaMatch]:
    """The project's query: all candidates scored from the stored vectors, ten with texts."""
    return index.best_personas([query[0]], [query[1]], explain=SHOWN)[0][:SHOWN]


def rescored(
    index: PersonaIndex, client: QdrantClient, collection: str, query: Query
) -> list[PersonaMatch]:
    """Only the ten best: quantized scores pick three times the points, stored vectors decide."""
    user, items = query
    ours = models.FieldCondition(key=ITEM_ID, match=models.MatchAny(any=items))
    how = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
    found = client.query_points(
        collection,
        query=user.tolist(),
        query_filter=models.Filter(must=[ours]),
        limit=MOST * (SHOWN - 1) + 1,
        search_params=models.SearchParams(quantization=how),
        with_payload=False,
    )
    owner = {point_prefix(item_id): item_id for item_id in items}
    best: dict[str, PersonaMatch] = {}
    for point in found.points:
        item_id = owner[str(point.id)[:-2]]
        best.setdefault(item_id, PersonaMatch(item_id, point.score, str(point.id)))
    return index.explain(list(best.values())[:SHOWN])


Cells = dict[tuple[str, str, str, int], dict[str, list[Any]]]
"""By variant, query, draw and number of candidates: one entry a round."""


def measure(
    server: LimitedServer, variant: str, seed: int, catalogue: Catalogue, count: int, cells: Cells
) -> dict[str, Any]:
    """One round on a server that has just started: adds to `cells`, returns memory and cold start.

    `count` queries a cell, a fifth of it for 1000 candidates.
    """
    settings = settings_of(server, variant)
    kinds = ["exact"] if settings.index.quantization == "none" else ["exact", "rescored"]
    with open_index(settings) as index:

        def ask(kind: str, query: Query) -> list[PersonaMatch]:
            if kind == "exact":
                return exact(index, query)
            return rescored(index, server.client, settings.qdrant.collection, query)

        def timed(kind: str, queries: list[Query]) -> list[float]:
            took = []
            for query in queries:
                started = time.perf_counter()
                ask(kind, query)
                took.append((time.perf_counter() - started) * 1000)
            return took

        cold = timed("exact", catalogue.queries("even", 100, 20, 1000 + seed))
        for draw in DRAWS:
            for candidates in CANDIDATES:
                asked = count if candidates < 1000 else max(count // 5, 10)
                for number, kind in enumerate(kinds):
                    queries = catalogue.queries(draw, candidates, 2 * asked, 10 * seed + number)
                    timed(kind, queries[asked:])  # warm up
                    before = server.usage()
                    cell = cells[variant, kind, draw, candidates]
                    cell["ms"].append(timed(kind, queries[:asked]))
                    after = server.usage()
                    cell["pages"].append((after["read"] - before["read"]) / 4096 / asked)
                    cell["faults"].append((after["faults"] - before["faults"]) / asked)
                    if kind == "exact":
                        continue
                    for query in queries[: min(asked, 50)]:
                        right = {match.item_id for match in exact(index, query)}
                        found = {match.item_id for match in ask(kind, query)}
                        cell["recall"].append(len(right & found) / len(right))
        return {"cold_ms": cold, **server.usage()}


def run(options: argparse.Namespace, folder: Path, log: Console) -> dict[str, Any]:
    """Build all variants, then measure them in turn, so that other load meets all of them."""
    catalogue = Catalogue(options.personas, options.dimension)
    cells: Cells = defaultdict(lambda: defaultdict(list))
    variants: dict[str, dict[str, Any]] = {name: {"rounds": []} for name in options.variants}
    with Progress(console=log, transient=True) as progress:
        task = progress.add_task("", total=(options.rounds + 1) * len(variants))
        for number in range(options.rounds + 1):
            for variant, one in variants.items():
                progress.update(task, description=f"{variant}: {number or 'build'}", advance=1)
                if "failed" in one:
                    continue
                own, limit = folder / variant, options.memory_limit
                try:
                    if number == 0:
                        one |= build(own, limit, variant, catalogue, progress)
                        one["disk_mib"] = index_bytes(own) / MIB
                        one["settings"] = {**COMMON, **VARIANTS[variant]}
                        continue
                    with LimitedServer(own, limit) as server:
                        taken = server, variant, number, catalogue
                        one["rounds"].append(measure(*taken, options.queries, cells))
                except LimitError as error:
                    one["failed"] = str(error)
    keys = ("variant", "query", "draw", "candidates")
    asked = {name: getattr(options, name) for name in ("memory_limit", "dimension", "queries")}
    measured = [dict(zip(keys, key, strict=True)) | cell for key, cell in cells.items()]
    counts = {"personas": catalogue.personas, "items": len(catalogue.sizes)}
    return {**asked, **counts, "variants": variants, "cells": measured}


def tables(result: dict[str, Any], out: Console) -> None:
    """Print what was measured: medians over all rounds, memory at the end of the last one."""
    limit = result["memory_limit"]
    title = f"{result['personas']:,} personas, {result['dimension']}-d, {limit} MiB of memory"
    names = [
        "on disk",
        "x limit",
        "build s",
        "built in",
        "cold ms",
        "anon MiB",
        "page cache MiB",
        "RSS MiB",
    ]
    table = Table("variant", *names, title=title)
    for name, one in result["variants"].items():
        row = ["-"] * 4
        if "build_s" in one:
            row = [f"{one['disk_mib']:,.0f} MiB", f"{one['disk_mib'] / limit:.1f}"]
            row += [f"{one['build_s']:.0f}", f"{one['build_mib']} MiB"]
        if one["rounds"]:
            last = one["rounds"][-1]
            row.append(f"{np.median([each['cold_ms'] for each in one['rounds']]):.0f}")
            row += [f"{last[what] / MIB:.0f}" for what in ("anon", "file", "rss")]
        table.add_row(name, *row, *([one["failed"]] if "failed" in one else []))
    out.print(table)
    names = ["ms: median", "p99", "of rounds", "pages read", "major faults", "recall@10"]
    table = Table("variant", "query", "draw", "candidates", *names, title="one query at a time")
    for cell in result["cells"]:
        table.add_row(
            *(str(cell[name]) for name in ("variant", "query", "draw", "candidates")),
            *(f"{np.percentile(np.concatenate(cell['ms']), share):.1f}" for share in (50, 99)),
            "{:.1f}-{:.1f}".format(*np.percentile(np.median(cell["ms"], axis=1), (0, 100))),
            *(f"{np.mean(cell[name]):.0f}" for name in ("pages", "faults")),
            f"{np.mean(cell['recall']):.3f}" if "recall" in cell else "",
        )
    out.print(table)


def plot(result: dict[str, Any], path: Path) -> None:
    """A bar to the median and a line up to p99, for even and Zipf draws."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    places: dict[str, int] = {}
    for cell in result["cells"]:
        name = f"{cell['variant']}, {cell['query']}"
        place = places.setdefault(name, len(places))
        median, p99 = np.percentile(np.concatenate(cell["ms"]), (50, 99))
        at = CANDIDATES.index(cell["candidates"]) + place / 8
        first = cell["draw"] == DRAWS[0] and cell["candidates"] == CANDIDATES[0]
        axis = axes[DRAWS.index(cell["draw"])]
        axis.bar(
            at,
            median,
            1 / 8,
            yerr=[[0], [p99 - median]],
            color=f"C{place}",
            label=name if first else None,
        )
    for draw, axis in zip(DRAWS, axes, strict=True):
        axis.set_xticks([place + (len(places) - 1) / 16 for place in range(3)], CANDIDATES)
        axis.set(title=f"{draw} draws", xlabel="candidates", ylabel="ms", yscale="log")
    figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Parse the arguments, run, clean up, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--personas", type=int, default=200_000)
    add("--dimension", type=int, default=1024)
    add("--memory-limit", type=int, default=128, help="of the container, in MiB")
    add("--queries", type=int, default=200, help="a cell and round; a fifth for 1000 candidates")
    add("--rounds", type=int, default=2)
    add("--variants", nargs="+", choices=VARIANTS, default=["float32", "float16", "binary"])
    add("--output", type=Path, default=Path("past-memory.json"), help="a plot goes beside it")
    add("--folder", type=Path, default=Path("/var/tmp"), help="where the servers' data go")
    add("--keep", action="store_true", help="leave the data, for another run of the same size")
    options = parser.parse_args()
    check_docker()
    warnings.filterwarnings("ignore", "Api key is used with an insecure connection")  # loopback
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda number, _: sys.exit(128 + number))
    folder = options.folder / f"p4r-past-memory-{options.personas}-{options.dimension}"
    log = Console(stderr=True)
    try:
        result = run(options, folder.absolute(), log)
    finally:
        if options.keep:
            log.print(f"the data stay in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    tables(result, Console(width=120))
    plot(result, options.output.with_suffix(".png"))
    for variant, known in result["variants"].items():
        if known.get("disk_mib", float("inf")) < 4 * options.memory_limit:
            log.print(f"{variant} is less than four times the limit; raise --personas")


if __name__ == "__main__":
    main()
