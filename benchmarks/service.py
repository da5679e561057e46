"""The service: what HTTP adds to a rerank, what it does under load, and when Qdrant is killed.

    .venv/bin/python -m benchmarks.service                 # all of it, three minutes
    .venv/bin/python -m benchmarks.service --only overhead
    .venv/bin/python -m benchmarks.service --only load writes restart --connections 1 8 --seconds 5

The encoder is the bundled one (the extra `demo`).

overhead    the library's call and the service's answer take turns in one run, on the same users and
            candidates, over one connection that is kept
load        known users, asked by Locust in a process of its own over 1 to 64 connections; the same
            query straight to Qdrant (REST) in turn with it
writes      the same with and without `PUT` of 50 items a second by another process, in turn
restart     Qdrant is killed (kill -9) and started again while requests flow
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rich.table import Table

from benchmarks.engines import err, own_server, place_of
from benchmarks.service_load import TURNS, Loads, load, out, restart, writes
from benchmarks.synthetic import Catalogue
from p4r_qdrant import PersonaReranker, Settings, open_index
from p4r_qdrant.arrays import Floats
from p4r_qdrant.encoder.loading import load_encoder
from p4r_qdrant.encoder.local import BUNDLED_MODEL
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.records import StoredInteraction
from p4r_qdrant.users.sqlite import file_of
from p4r_qdrant.users.store import UserStore

USERS = 50
HISTORY = 10
BLOCKS = 10
WRITES_AT = (1, 8)

Call = Callable[[int], Any]


def stored_users(settings: Settings) -> UserStore:
    with open_index(settings) as index:
        return open_store(settings, index.version, index.metadata, settings.history)


def prepared(settings: Settings, catalogue: Catalogue) -> None:
    """The catalogue indexed, and users who have done something."""
    with open_index(settings, encoder=load_encoder(settings.encoder), create=True) as index:
        if index.stats().items < catalogue.items:
            index.load(catalogue.rows())
    store = stored_users(settings)
    for user in range(USERS):
        for number in range(HISTORY):
            text = f"An item of the past, number {number}."
            one = StoredInteraction(f"user-{user}", f"item-{number}", number, summary=text)
            store.add(one.encoded(catalogue.matrix[HISTORY * user + number]))
    store.close()


@contextmanager
def served(settings: Settings, folder: Path) -> Iterator[str]:
    """A service in a process of its own; yields host and port."""
    own = settings.qdrant
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("P4R_")},
        "P4R_QDRANT__URL": own.url or "",
        "P4R_QDRANT__GRPC_PORT": str(own.grpc_port),
        "P4R_QDRANT__API_KEY": own.api_key.get_secret_value() if own.api_key else "",
        "P4R_QDRANT__PATH": str(own.path),
        "P4R_ENCODER__MODEL": settings.encoder.model,
    }
    program = "from indexer.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "--anonymous", "--port", "0"]
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            address = next(
                told["address"] for told in map(json.loads, process.stderr) if "address" in told
            )
            # What it says from now on must go somewhere, or it would wait.
            subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)
            _settled(urlsplit(address).netloc)
            yield urlsplit(address).netloc
        finally:
            process.terminate()
            process.wait()


def _settled(host: str) -> None:
    """Wait until the service has looked for its encoder: to import torch takes it seconds."""
    while True:
        connection = http.client.HTTPConnection(host)
        connection.request("GET", "/readyz")
        if json.loads(connection.getresponse().read())["encoder"] != "loading":
            return
        time.sleep(0.2)


def asked(connection: http.client.HTTPConnection, bodies: list[bytes]) -> Call:
    def call(number: int) -> Any:
        body = bodies[number % len(bodies)]
        connection.request("POST", "/v1/rerank", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        assert b'"personalized":true,"degraded":false' in answer, answer
        return answer

    return call


def bodies(users: list[dict[str, Any]], candidates: list[list[str]]) -> list[bytes]:
    return [
        json.dumps({"users": [{**user, "candidates": own}], "top": 10}).encode()
        for user, own in zip(users, candidates, strict=True)
    ]


def histories() -> list[list[dict[str, Any]]]:
    """The inline history of each user, of texts that no other user has."""
    return [
        [
            {
                "item_id": f"item-{number}",
                "timestamp": number,
                "summary": f"An item of the past, number {number} of {user}, about tides. " * 4,
            }
            for number in range(HISTORY)
        ]
        for user in range(USERS)
    ]


def measured(contenders: dict[str, Call], times: int) -> dict[str, Floats]:
    """Milliseconds of each call, the contenders in turn."""
    for call in contenders.values():
        for number in range(times // 4):
            call(number)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(BLOCKS):
        for name, call in contenders.items():
            for number in range(times // BLOCKS):
                start = time.perf_counter()
                call(number)
                found[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(one, dtype=np.float32) for name, one in found.items()}


def drawn(catalogue: Catalogue, count: int) -> list[list[str]]:
    random = np.random.default_rng(3)
    return [
        [f"item-{one}" for one in random.choice(catalogue.items, count, replace=False)]
        for _ in range(USERS)
    ]


def overhead(
    engine: str, settings: Settings, folder: Path, catalogue: Catalogue, count: int, times: int
) -> dict[str, Floats]:
    candidates = drawn(catalogue, count)
    vectors = catalogue.matrix[:USERS]
    # The embedded index is open in one process alone: the library works on a copy.
    own = settings if engine == "server" else _copied(settings, folder)
    with ExitStack() as stack:
        reranker = stack.enter_context(PersonaReranker(open_index(own)))
        connection = http.client.HTTPConnection(stack.enter_context(served(settings, folder)))
        rounded = [[round(float(one), 6) for one in row] for row in vectors]
        contenders: dict[str, Call] = {
            "library, vector": lambda number: reranker.rerank(
                vectors[number % USERS], candidates[number % USERS], 10
            ),
            "HTTP, vector": asked(
                connection, bodies([{"vector": one} for one in rounded], candidates)
            ),
            "HTTP, known user": asked(
                connection, bodies([{"user_id": f"user-{one}"} for one in range(USERS)], candidates)
            ),
            "HTTP, history encoded before": asked(
                connection, bodies([{"history": one} for one in histories()], candidates)
            ),
        }
        index = reranker.index
        store = open_store(own, index.version, index.metadata, own.history)
        stack.callback(store.close)
        known = PersonaReranker(open_index(own)) if engine == "server" else reranker
        stack.callback(known.close)

        def library(number: int) -> Any:
            user_id, given = f"user-{number % USERS}", candidates[number % USERS]
            return known.rerank(store.user_vectors([user_id])[user_id], given, 10)

        return measured({"library, known user": library} | contenders, times)


def _copied(settings: Settings, folder: Path) -> Settings:
    path = folder / "copy"
    if not path.exists():
        shutil.copytree(settings.qdrant.path, path)
        shutil.copy(file_of(settings), folder / "copy-users.sqlite")
    return Settings.load(qdrant={"path": path}, encoder=settings.encoder.model_dump())


PARTS = ("overhead", "load", "writes", "restart")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--personas", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100])
    parser.add_argument("--times", type=int, default=500, help="calls of each contender")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 16, 64])
    help_line = f"of load for each figure, in {TURNS} turns of whole seconds"
    parser.add_argument("--seconds", type=_in_whole_turns, default=9, help=help_line)
    arguments = parser.parse_args()
    catalogue = Catalogue.of(arguments.personas)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p4r-bench-")))
        encoder = {"model": BUNDLED_MODEL}
        embedded = {"url": None, "path": folder / "index"}
        engines = {"embedded": Settings.load(qdrant=embedded, encoder=encoder)}
        process = own_server(folder, stack)
        if process is not None:
            engines["server"] = Settings.load(qdrant=place_of(process), encoder=encoder)
        for engine, settings in engines.items():
            err.print(f"{engine}: filling")
            prepared(settings, catalogue)
        if "overhead" in arguments.only:
            _show_overhead(engines, folder, catalogue, arguments)
        if process is None or not {"load", "writes", "restart"} & set(arguments.only):
            return
        loads = Loads(folder, drawn(catalogue, 100), engines["server"])
        host = stack.enter_context(served(engines["server"], folder))
        if "load" in arguments.only:
            load(loads, host, process.url, arguments.connections, arguments.seconds)
        if "writes" in arguments.only:
            for count in WRITES_AT:
                writes(loads, host, arguments.seconds, count)
        if "restart" in arguments.only:
            restart(loads, host, process, 8)


def _in_whole_turns(text: str) -> int:
    """Seconds, rounded up to whole seconds for each turn, which is what Locust takes."""
    return TURNS * math.ceil(float(text) / TURNS)


def _show_overhead(
    engines: dict[str, Settings], folder: Path, catalogue: Catalogue, arguments: argparse.Namespace
) -> None:
    table = Table(title="Milliseconds a call, one at a time")
    for name in ("engine", "candidates", "what", "p10", "p50", "p99", "p10 over", "p50 over"):
        table.add_column(name, justify="left" if name in ("engine", "what") else "right")
    ratios = []
    for engine, settings in engines.items():
        for count in arguments.candidates:
            found = overhead(engine, settings, folder, catalogue, count, arguments.times)
            for name, ms in found.items():
                low, middle, high = np.percentile(ms, [10, 50, 99])
                over = ["", ""]
                base = found.get(name.replace("HTTP", "library"), found["library, vector"])
                if name.startswith("HTTP"):
                    over = [
                        f"{here - there:+.2f}"
                        for here, there in zip(
                            (low, middle), np.percentile(base, [10, 50]), strict=True
                        )
                    ]
                figures = [f"{one:.2f}" for one in (low, middle, high)]
                table.add_row(engine, str(count), name, *figures, *over)
            before, vector = found["HTTP, history encoded before"], found["HTTP, vector"]
            ratios.append(
                f"{engine}, {count} candidates: a history encoded before takes "
                f"{np.median(before) / np.median(vector):.2f} times as long as a vector"
            )
    out.print(table)
    out.print(*ratios, sep="\n")


if __name__ == "__main__":
    main()
