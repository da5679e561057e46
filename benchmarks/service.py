"""The service: what HTTP adds to a rerank, what it does under load, and when Qdrant is killed.

    .venv/bin/python benchmarks/service.py                 # all of it, three minutes
    .venv/bin/python benchmarks/service.py --only overhead
    .venv/bin/python benchmarks/service.py --only load writes restart --connections 1 8 --seconds 5

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
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.online import DIMENSION, Catalogue, Floats
from devtools.qdrant_process import PrivateQdrant, binary
from p4r_qdrant import PersonaReranker, Settings, open_index
from p4r_qdrant.encoder.loading import load_encoder
from p4r_qdrant.encoder.local import BUNDLED_MODEL
from p4r_qdrant.users.opening import open_store
from p4r_qdrant.users.qdrant.collections import stamp_of
from p4r_qdrant.users.records import StoredInteraction
from p4r_qdrant.users.sqlite import file_of
from p4r_qdrant.users.store import UserStore

USERS = 50
HISTORY = 10
BLOCKS = 10
TURNS = 3
PUT_A_SECOND = 50
PUT_CONNECTIONS = 4
WRITES_AT = (1, 8)
RESTART_AT_S, DOWN_S = 5.0, 3.0
LOCUST = (sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("load.py")))

Call = Callable[[int], Any]
err = Console(stderr=True)
out = Console(width=120)


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


# --- under load --------------------------------------------------------------------------------


class Loads:
    """Requests by Locust, in a process of its own."""

    def __init__(self, folder: Path, candidates: list[list[str]], settings: Settings) -> None:
        self._folder = folder
        with open_index(settings) as index:
            version = index.version
        known = [f"user-{number}" for number in range(USERS)]
        self.service = {
            "path": "/v1/rerank",
            "headers": {"Content-Type": "application/json"},
            "bodies": [
                json.loads(one) for one in bodies([{"user_id": u} for u in known], candidates)
            ],
        }
        key = settings.qdrant.api_key
        self.qdrant = {
            "path": f"/collections/{settings.qdrant.collection}/points/query",
            "headers": {
                "Content-Type": "application/json",
                "api-key": key.get_secret_value() if key else "",
            },
            "bodies": [
                {
                    "query": user_point_id(user_id),
                    "lookup_from": {
                        "collection": f"{version}-users",
                        "vector": "text",
                    },
                    "filter": {"must": [{"key": "item_id", "match": {"any": own}}]},
                    "limit": 8 * len(own),
                    "params": {"exact": True},
                    "with_payload": False,
                }
                for user_id, own in zip(known, candidates, strict=True)
            ],
        }

    def run(
        self, host: str, asked: dict[str, Any], connections: int, seconds: float
    ) -> list[tuple[float, float, str]]:
        """(when, milliseconds, what) of each answer, without those of the first second."""
        given, results = self._folder / "bodies.json", self._folder / "results.jsonl"
        given.write_text(json.dumps(asked))
        options = ["--headless", "--host", host, "--users", str(connections)]
        options += [
            "--spawn-rate",
            "1000",
            "--run-time",
            f"{seconds + 1:g}s",
            "--loglevel",
            "ERROR",
        ]
        subprocess.run(
            [*LOCUST, *options],
            env=os.environ | {"BODIES": str(given), "RESULTS": str(results)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        answers = [tuple(json.loads(line)) for line in results.read_text().splitlines()]
        first = min(answer[0] for answer in answers)
        return [answer for answer in answers if answer[0] > first + 1]


def user_point_id(user_id: str) -> str:
    """The point of a user's vector, in an index without tenants."""
    return stamp_of(f"user {user_id}")


def load(loads: Loads, address: str, url: str, connections: list[int], seconds: float) -> None:
    table = Table(title="Known users, 100 candidates, Locust in a process of its own")
    for name in ("connections", "what", "answers/s", "p10", "p50", "p95", "p99", "but ok"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for count in connections:
        asked: dict[str, tuple[str, dict[str, Any]]] = {
            "service": (f"http://{address}", loads.service),
            "Qdrant alone, REST": (url, loads.qdrant),
        }
        answers: dict[str, list[Any]] = {name: [] for name in asked}
        for _ in range(TURNS):
            for name, (host, body) in asked.items():
                answers[name] += loads.run(host, body, count, seconds / TURNS)
        for name, own in answers.items():
            table.add_row(str(count), name, *_figures(own, seconds))
    out.print(table)


def _figures(answers: list[Any], seconds: float) -> list[str]:
    ms = [one[1] for one in answers]
    bad = Counter(one[2] for one in answers if one[2] != "ok")
    figures = [f"{one:.1f}" for one in np.percentile(ms, [10, 50, 95, 99])]
    return [f"{len(ms) / seconds:.0f}", *figures, str(dict(bad) or "none")]


def put_items(address: str, seconds: float, told: Any) -> None:
    """PUT items with vectors, so many a second over a few connections; tells how many were."""
    random = np.random.default_rng(5)
    start, turn, done = time.perf_counter(), threading.Lock(), 0

    def put() -> None:
        nonlocal done
        connection = http.client.HTTPConnection(address, timeout=60)
        while True:
            with turn:
                number, done = done, done + 1
                item = f"item-{random.integers(1000)}"
                vector = random.standard_normal(DIMENSION).round(4).tolist()
            time.sleep(max(0.0, start + number / PUT_A_SECOND - time.perf_counter()))
            if time.perf_counter() - start > seconds:
                return
            persona = {"persona_id": f"{item}_P0", "name": "Somebody", "description": "new " * 20}
            body = {"personas": [persona | {"preference_rationale": "new"}], "vectors": [vector]}
            headers = {"Content-Type": "application/json"}
            connection.request("PUT", f"/v1/items/{item}", json.dumps(body), headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status

    threads = [threading.Thread(target=put) for _ in range(PUT_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.put((done - PUT_CONNECTIONS) / (time.perf_counter() - start))


def writes(loads: Loads, address: str, seconds: float, connections: int) -> None:
    table = Table(title=f"With and without PUT of {PUT_A_SECOND} items/s, in turn")
    for name in ("connections", "PUT/s", "answers/s", "p10", "p50", "p95", "p99", "but ok"):
        table.add_column(name, justify="right")
    found: dict[str, list[Any]] = {"without": [], "with": []}
    rates = []
    context = multiprocessing.get_context("spawn")
    for _ in range(TURNS):
        host = f"http://{address}"
        found["without"] += loads.run(host, loads.service, connections, seconds / TURNS)
        told = context.Queue()
        # Locust takes some seconds to begin and to end.
        writer = context.Process(target=put_items, args=(address, seconds / TURNS + 5, told))
        writer.start()
        found["with"] += loads.run(host, loads.service, connections, seconds / TURNS)
        rates.append(told.get())
        writer.join()
    table.add_row(str(connections), "0", *_figures(found["without"], seconds))
    table.add_row(str(connections), f"{np.mean(rates):.0f}", *_figures(found["with"], seconds))
    out.print(table)
    p99 = {name: np.percentile([one[1] for one in own], 99) for name, own in found.items()}
    out.print(f"p99 with over without: {p99['with'] / p99['without']:.2f}")


def restart(loads: Loads, address: str, process: PrivateQdrant, connections: int) -> None:
    at: dict[str, float] = {}

    def kill() -> None:
        time.sleep(RESTART_AT_S)
        at["killed"] = time.time()
        process.kill()
        time.sleep(DOWN_S)
        process.start()
        at["ready"] = time.time()

    killer = threading.Thread(target=kill)
    killer.start()
    seconds = RESTART_AT_S + DOWN_S + 12
    answers = loads.run(f"http://{address}", loads.service, connections, seconds)
    killer.join()
    phases = {
        "before": [one for one in answers if one[0] < at["killed"]],
        "down": [one for one in answers if at["killed"] <= one[0] < at["ready"]],
        "afterwards": [one for one in answers if one[0] >= at["ready"]],
    }
    table = Table(title=f"Qdrant killed and started again, {connections} connections")
    for name in ("", "answers", "longest ms", "what"):
        table.add_column(name, justify="left" if name in ("", "what") else "right")
    for name, own in phases.items():
        longest = f"{max(one[1] for one in own):.0f}" if own else "-"
        table.add_row(name, str(len(own)), longest, str(dict(Counter(one[2] for one in own))))
    out.print(table)
    last = max((one[0] for one in answers if one[2] != "ok"), default=at["ready"])
    out.print(f"back to normal {last - at['ready']:.1f} s after Qdrant was ready")


# -----------------------------------------------------------------------------------------------

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
        path = binary()
        if path is None:
            err.print("No server: docker/fetch-qdrant.sh gets one. The embedded engine alone then.")
        else:
            process = PrivateQdrant(path, folder)
            process.start()
            stack.callback(process.kill)
            own = {"url": process.url, "grpc_port": process.grpc_port, "timeout_s": 60}
            own |= {"api_key": process.api_key}
            engines["server"] = Settings.load(qdrant=own, encoder=encoder)
        for engine, settings in engines.items():
            err.print(f"{engine}: filling")
            prepared(settings, catalogue)
        if "overhead" in arguments.only:
            _show_overhead(engines, folder, catalogue, arguments)
        if path is None or not {"load", "writes", "restart"} & set(arguments.only):
            return
        loads = Loads(folder, drawn(catalogue, 100), engines["server"])
        address = stack.enter_context(served(engines["server"], folder))
        if "load" in arguments.only:
            load(loads, address, process.url, arguments.connections, arguments.seconds)
        if "writes" in arguments.only:
            for count in WRITES_AT:
                writes(loads, address, arguments.seconds, count)
        if "restart" in arguments.only:
            restart(loads, address, process, 8)


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
