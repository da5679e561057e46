"""What HTTP adds to a rerank, and what it takes to know a user.

    .venv/bin/python benchmarks/service.py            # both engines, a minute or two
    .venv/bin/python benchmarks/service.py --candidates 20 100 1000

The library's call and the service's answer take turns in one run, in blocks, on the same users and
candidates; the service is a process of its own, asked over one connection that is kept. On a
server also: a known user's vector read first and then queried with, beside one query that names
the user's point in the other collection (`lookup_from`).
"""

from __future__ import annotations

import argparse
import http.client
import json
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
from rich.console import Console
from rich.table import Table

from benchmarks.online import DIMENSION, Catalogue, Floats, _server
from p4r_qdrant import PersonaReranker, Settings, open_index
from p4r_qdrant.service.users.store import StoredInteraction, UserStore, open_store

USERS = 50
HISTORY = 10
BLOCKS = 10
FINGERPRINT = "benchmark"

Call = Callable[[int], Any]
err = Console(stderr=True)


def prepared(settings: Settings, catalogue: Catalogue) -> None:
    """The catalogue indexed, and users who have done something."""
    with open_index(settings, dimension=DIMENSION, fingerprint=FINGERPRINT, create=True) as index:
        if index.stats().items < catalogue.items:
            index.load(catalogue.rows())
    store = open_store(settings, DIMENSION)
    for user in range(USERS):
        for number in range(HISTORY):
            text = f"An item of the past, number {number}."
            one = StoredInteraction(f"user-{user}", f"item-{number}", number, summary=text)
            store.add(one.encoded(catalogue.matrix[HISTORY * user + number], FINGERPRINT))
    store.close()


@contextmanager
def served(settings: Settings, folder: Path) -> Iterator[http.client.HTTPConnection]:
    """A service in a process of its own, and a connection to it."""
    own = settings.qdrant
    key = own.api_key.get_secret_value() if own.api_key else ""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("P4R_")},
        "P4R_QDRANT__URL": own.url or "",
        "P4R_QDRANT__GRPC_PORT": str(own.grpc_port),
        "P4R_QDRANT__API_KEY": key,
        "P4R_QDRANT__PATH": str(own.path),
        "P4R_ENCODER__MODEL": "/nowhere",
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
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
            yield connection
        finally:
            process.terminate()
            process.wait()


def asked(connection: http.client.HTTPConnection, bodies: list[bytes]) -> Call:
    def call(number: int) -> Any:
        body = bodies[number % len(bodies)]
        connection.request("POST", "/v1/rerank", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        assert not answer["degraded"], answer
        assert answer["rankings"][0]["personalized"], answer
        return answer

    return call


def bodies(users: list[dict[str, Any]], candidates: list[list[str]]) -> list[bytes]:
    return [
        json.dumps({"users": [{**user, "candidates": own}], "top": 10}).encode()
        for user, own in zip(users, candidates, strict=True)
    ]


def lookups(settings: Settings, store: UserStore, candidates: list[list[str]]) -> dict[str, Call]:
    """A known user's candidates scored: vector read first, or named in the query."""
    from qdrant_client import grpc

    from p4r_qdrant.index.connection import channel
    from p4r_qdrant.service.users.server import user_point_id

    stub: Any = grpc.PointsStub(channel(settings.qdrant))  # type: ignore[no-untyped-call]
    key = settings.qdrant.api_key
    metadata = (("api-key", key.get_secret_value()),) if key else ()

    def query(number: int, wanted: Any, **more: Any) -> Any:
        own = candidates[number % USERS]
        match = grpc.Match(keywords=grpc.RepeatedStrings(strings=own))
        field = grpc.FieldCondition(key="item_id", match=match)
        message = grpc.QueryPoints(
            collection_name=settings.qdrant.collection,
            query=grpc.Query(nearest=wanted),
            filter=grpc.Filter(must=[grpc.Condition(field=field)]),
            limit=8 * len(own),
            params=grpc.SearchParams(exact=True),
            with_payload=grpc.WithPayloadSelector(enable=False),
            **more,
        )
        return stub.Query(message, metadata=metadata, timeout=60).result

    def read_first(number: int) -> Any:
        user_id = f"user-{number % USERS}"
        known = store.known([user_id], FINGERPRINT)[user_id].vector
        assert known is not None
        return query(number, grpc.VectorInput(dense=grpc.DenseVector(data=known.vector.tolist())))

    def named(number: int) -> Any:
        point = grpc.PointId(uuid=user_point_id(f"user-{number % USERS}"))
        place = grpc.LookupLocation(
            collection_name=f"{settings.qdrant.collection}-interactions", vector_name="text"
        )
        return query(number, grpc.VectorInput(id=point), lookup_from=place)

    return {"user read, then query": read_first, "query with lookup_from": named}


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


def run(
    engine: str, settings: Settings, folder: Path, catalogue: Catalogue, count: int, times: int
) -> dict[str, Floats]:
    random = np.random.default_rng(3)
    candidates = [
        [f"item-{one}" for one in random.choice(catalogue.items, count, replace=False)]
        for _ in range(USERS)
    ]
    vectors = catalogue.matrix[:USERS]
    # The embedded index is open in one process alone: the library works on a copy.
    own = settings if engine == "server" else _copied(settings, folder)
    with ExitStack() as stack:
        reranker = stack.enter_context(PersonaReranker(open_index(own)))
        connection = stack.enter_context(served(settings, folder))
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
        }
        if engine == "server":
            store = open_store(settings, DIMENSION)
            stack.callback(store.close)
            contenders |= lookups(settings, store, candidates)
        return measured(contenders, times)


def _copied(settings: Settings, folder: Path) -> Settings:
    path = folder / "copy"
    if not path.exists():
        shutil.copytree(settings.qdrant.path, path)
    return Settings.load(qdrant={"path": path})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--personas", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100])
    parser.add_argument("--times", type=int, default=500, help="calls of each contender")
    arguments = parser.parse_args()
    catalogue = Catalogue.of(arguments.personas)
    table = Table(title="Milliseconds a call")
    for name in ("engine", "candidates", "what", "p10", "p50", "p99", "p50 over the library's"):
        table.add_column(name, justify="left" if name in ("engine", "what") else "right")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p4r-bench-")))
        engines = {"embedded": Settings.load(qdrant={"url": None, "path": folder / "index"})}
        server = _server(folder, stack)
        if server is not None:
            engines["server"] = server
        for engine, settings in engines.items():
            err.print(f"{engine}: filling")
            prepared(settings, catalogue)
            for count in arguments.candidates:
                found = run(engine, settings, folder, catalogue, count, arguments.times)
                base = float(np.median(found["library, vector"]))
                for name, ms in found.items():
                    low, middle, high = np.percentile(ms, [10, 50, 99])
                    over = f"{middle - base:+.2f}" if name.startswith("HTTP") else ""
                    figures = [f"{one:.2f}" for one in (low, middle, high)]
                    table.add_row(engine, str(count), name, *figures, over)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
