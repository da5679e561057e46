"""One, two and three Qdrant nodes on this machine: latency, throughput, memory, and a lost node.

    .venv/bin/python -m benchmarks.cluster                       # two minutes
    .venv/bin/python -m benchmarks.cluster --personas 100000

The clusters take turns, in one run. Every shard has a replica on each node. 100 candidates, users
as vectors, the first ten explained, asked by threads of one process. All nodes share the cores of
one machine, so more nodes make nothing faster here: the table says what they cost. Memory and disk
are of the single node, without its start.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import DIMENSION, Catalogue
from devtools.qdrant_process import PrivateQdrant, binary, start_cluster
from p4r_qdrant import PersonaReranker, Settings, open_index

SIZES = (1, 2, 3)
TURNS = 3
USERS = 50
err = Console(stderr=True)
out = Console(width=120)


def started(folder: Path, count: int) -> list[PrivateQdrant]:
    path = binary()
    assert path is not None, "docker/fetch-qdrant.sh gets a server"
    nodes = []
    for number in range(count):
        own = folder / f"{count}-{number}"
        own.mkdir()
        nodes.append(PrivateQdrant(path, own))
    if count == 1:
        nodes[0].start()
    else:
        start_cluster(nodes)
    return nodes


def settings_of(nodes: Sequence[PrivateQdrant]) -> Settings:
    return Settings.load(
        qdrant={
            "url": ",".join(one.url for one in nodes),
            "grpc_ports": ",".join(str(one.grpc_port) for one in nodes),
            "api_key": nodes[0].api_key,
            "timeout_s": 60,
        },
        index={"shards": len(nodes), "replication": len(nodes)},
    )


def memory(node: PrivateQdrant) -> int:
    """Bytes of memory that belong to the process alone."""
    process = node._process
    assert process is not None
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    fields = {line.split()[0]: line.split()[1] for line in rollup[1:]}
    return 1024 * (int(fields["Private_Dirty:"]) + int(fields["Private_Clean:"]))


def disk(node: PrivateQdrant) -> int:
    files = (one for one in node.storage.rglob("*") if one.is_file())
    return sum(512 * one.stat().st_blocks for one in files if "wal" not in one.parts)


def asked(
    reranker: PersonaReranker, catalogue: Catalogue, candidates: list[list[str]], given: Any
) -> tuple[list[float], float]:
    """Milliseconds of each rerank, and seconds of all."""
    took: list[float] = []

    def ask(first: int) -> None:
        for number in range(given.times // given.threads):
            user = (first + number) % USERS
            start = time.perf_counter()
            reranker.rerank(catalogue.matrix[user], candidates[user], 10)
            took.append(1000 * (time.perf_counter() - start))

    threads = [threading.Thread(target=ask, args=(one,)) for one in range(given.threads)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--personas", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=400, help="reranks of each turn")
    parser.add_argument("--threads", type=int, default=4)
    given = parser.parse_args()
    catalogue = Catalogue.of(given.personas)
    random = np.random.default_rng(3)
    candidates = [
        [f"item-{one}" for one in random.choice(catalogue.items, 100, replace=False)]
        for _ in range(USERS)
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p4r-bench-")))
        clusters = {}
        for count in SIZES:
            err.print(f"{count} nodes: filling")
            nodes = started(folder, count)
            for node in nodes:
                stack.callback(node.kill)
            empty = memory(nodes[0])
            settings = settings_of(nodes)
            with open_index(
                settings, dimension=DIMENSION, fingerprint="benchmark", create=True
            ) as index:
                start = time.perf_counter()
                index.load(catalogue.rows())
                seconds = time.perf_counter() - start
                points = index.stats().personas
            reranker = stack.enter_context(PersonaReranker(open_index(settings)))
            clusters[count] = (nodes, reranker, points / seconds)
            if count == 1:
                per_point = (memory(nodes[0]) - empty) / points
                on_disk = disk(nodes[0]) / points
        took: dict[str, tuple[list[float], float]] = {}
        for turn in range(TURNS + 1):
            for count, (_, reranker, _) in clusters.items():
                more, seconds = asked(reranker, catalogue, candidates, given)
                before = took.get(str(count), ([], 0.0))
                if turn:  # the first one warms up
                    took[str(count)] = (before[0] + more, before[1] + seconds)
        clusters[3][0][2].kill()
        took["3, one killed"] = asked(clusters[3][1], catalogue, candidates, given)
    table = Table(title=f"{points:,} personas of {DIMENSION} dimensions, {given.threads} threads")
    for name in ("nodes", "personas/s written", "reranks/s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    for name, (ms, seconds) in took.items():
        rate = f"{clusters[int(name)][2]:,.0f}" if name.isdecimal() else ""
        low, high = np.percentile(ms, [50, 99])
        table.add_row(name, rate, f"{len(ms) / seconds:.0f}", f"{low:.1f}", f"{high:.1f}")
    out.print(table)
    out.print(
        f"memory: {per_point:,.0f} bytes a persona ({1e9 / per_point:,.0f} personas a GB); "
        f"disk: {on_disk:,.0f} bytes a persona"
    )


if __name__ == "__main__":
    main()
