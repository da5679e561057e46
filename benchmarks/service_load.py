"""The service under load: requests by Locust, beside writes, and while Qdrant is killed.

benchmarks.service runs it.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import DIMENSION
from devtools.qdrant_process import PrivateQdrant
from p4r_qdrant import Settings, open_index
from p4r_qdrant.users.qdrant.collections import stamp_of

TURNS = 3
PUT_A_SECOND = 50
PUT_CONNECTIONS = 4
RESTART_AT_S, DOWN_S = 5.0, 3.0
LOCUST = (sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py")))

out = Console(width=120)


class Loads:
    """Requests by Locust, in a process of its own."""

    def __init__(self, folder: Path, candidates: list[list[str]], settings: Settings) -> None:
        self._folder = folder
        with open_index(settings) as index:
            version = index.version
        known = [f"user-{number}" for number in range(len(candidates))]
        self.service = {
            "path": "/v1/rerank",
            "headers": {"Content-Type": "application/json"},
            "bodies": [
                {"users": [{"user_id": user_id, "candidates": own}], "top": 10}
                for user_id, own in zip(known, candidates, strict=True)
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


def put_items(address: str, seconds: float, rate: Any) -> None:
    """PUT items with vectors: `PUT_A_SECOND`, over `PUT_CONNECTIONS` connections.

    rate: a queue, which gets the items a second that were achieved.
    """
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
    rate.put((done - PUT_CONNECTIONS) / (time.perf_counter() - start))


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
        rate = context.Queue()
        # Locust takes some seconds to begin and to end.
        writer = context.Process(target=put_items, args=(address, seconds / TURNS + 5, rate))
        writer.start()
        found["with"] += loads.run(host, loads.service, connections, seconds / TURNS)
        rates.append(rate.get())
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
