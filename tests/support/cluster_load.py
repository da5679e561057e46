"""Requests to a service on a cluster while the cluster has a fault, and what became of them."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from devtools.qdrant_process import PrivateQdrant
from p4r_qdrant import PersonaIndex, Settings
from tests.support.polling import wait_until
from tests.support.server_writes import whole
from tests.support.serving import AS_ADMIN, CATALOGUE, DIMENSION, persona

RERANKING = {"users": [{"vector": [1.0] * DIMENSION, "candidates": list(CATALOGUE)}]}


def at_all(nodes: list[PrivateQdrant], **index: Any) -> Settings:
    """Settings with the addresses of all nodes."""
    return Settings.load(
        qdrant={
            "url": ",".join(one.url for one in nodes),
            "grpc_ports": ",".join(str(one.grpc_port) for one in nodes),
            "api_key": nodes[0].api_key,
            "collection": "personas",
            "timeout_s": 6,
        },
        index=index,
    )


@dataclass
class Load:
    """What became of the requests.

    reranks: "ok", "degraded" or an error -> how many.
    interactions: user -> timestamps that were acknowledged.
    items: item -> versions it may be in: the last that was acknowledged, and those begun since.
    refused: status of an item or interaction that was not acknowledged -> how many.
    """

    reranks: Counter[str] = field(default_factory=Counter)
    interactions: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    items: dict[str, list[int]] = field(default_factory=dict)
    acknowledged: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        writes, refused = self.acknowledged.total(), self.refused.total()
        ok, degraded = self.reranks["ok"], self.reranks["degraded"]
        failed = self.reranks.total() - ok - degraded
        return (
            f"{ok} reranks ok, {degraded} degraded, {failed} failed; "
            f"{writes} writes acknowledged, {refused} refused"
        )

    def wait_for_reranks(self, count: int) -> None:
        """Return after so many further reranks that were ok."""
        enough = self.reranks["ok"] + count
        wait_until(lambda: self.reranks["ok"] >= enough, 120, "reranks do not go on")

    def wait_for_writes(self, count: int) -> None:
        """Return after so many further acknowledged writes of each kind."""
        enough = {kind: self.acknowledged[kind] + count for kind in ("interactions", "items")}
        wait_until(
            lambda: all(self.acknowledged[kind] >= number for kind, number in enough.items()),
            180,
            "writes do not go on",
        )


@contextmanager
def load(address: str) -> Iterator[Load]:
    """Reranks by two clients, interactions by one and item writes by one."""
    found, over = Load(), threading.Event()

    def rerank(client: httpx2.Client, _: int) -> None:
        answer = client.post("/v1/rerank", json=RERANKING)
        said = answer.json()
        if answer.status_code == 200:
            found.reranks["degraded" if said["degraded"] else "ok"] += 1
        else:
            found.reranks[f"{answer.status_code} {said}"] += 1
        time.sleep(0.005)

    def interact(client: httpx2.Client, number: int) -> None:
        user = f"user-{number % 5}"
        one = {"item_id": "ships", "timestamp": number}
        answer = client.post(f"/v1/users/{user}/interactions", json=one)
        if answer.status_code == 202:
            found.interactions[user].append(number)
            found.acknowledged["interactions"] += 1
        else:
            found.refused[answer.status_code] += 1
        time.sleep(0.02)

    def write(client: httpx2.Client, number: int) -> None:
        item_id = f"item-{number % 13}"
        own = [persona(f"v{number}", slot, f"{item_id} {slot}") for slot in range(_size(number))]
        body = {"personas": [one.model_dump() for one in own]}
        found.items.setdefault(item_id, []).append(number)
        answer = client.put(f"/v1/items/{item_id}", json=body)
        if answer.status_code == 200:
            found.items[item_id] = [number]
            found.acknowledged["items"] += 1
        else:
            found.refused[answer.status_code] += 1
        time.sleep(0.02)

    def repeat(work: Any) -> None:
        with httpx2.Client(base_url=address, headers=AS_ADMIN, timeout=60) as client:
            number = 0
            while not over.is_set():
                number += 1
                work(client, number)

    works = (rerank, rerank, interact, write)
    threads = [threading.Thread(target=repeat, args=(one,)) for one in works]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _size(version: int) -> int:
    return 1 + version % 7


def check_items(index: PersonaIndex, found: Load) -> None:
    """Each item is whole, in a version that it may be in."""
    for item_id, versions in found.items.items():
        version = int(whole(index, item_id)[1:])
        assert version in versions, f"{item_id} is in {version}, not in {versions}: a lost write"
        assert len(index.get(item_id)) == _size(version)


def check_interactions(address: str, found: Load) -> None:
    """No acknowledged interaction is lost."""
    for user, timestamps in found.interactions.items():
        answer = httpx2.get(f"{address}/v1/users/{user}/export", headers=AS_ADMIN, timeout=60)
        there = {one["timestamp"] for one in map(json.loads, answer.text.splitlines())}
        lost = set(timestamps) - there
        assert not lost, f"{len(lost)} acknowledged interactions of {user} are lost"
