"""A node of three that hangs, or loses its disk: no acknowledged write is lost."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devtools.qdrant_process import PrivateQdrant
from p4r_qdrant import PersonaIndex
from p4r_qdrant.errors import IndexUnavailableError, P4RError
from tests.support.campaign import LONG, Attempt, Campaign
from tests.support.engines import on_server, opened
from tests.support.index_data import personas, rows
from tests.support.messages import check_sentence
from tests.support.polling import retry, wait_until
from tests.support.private_qdrant import private_cluster, replicas
from tests.support.server_writes import Progress, check_progress

pytestmark = pytest.mark.skipif(not LONG, reason="make chaos ROUNDS=2 or more: it takes minutes")

MOST = 4
"""Attempts of each scenario: a cluster takes its time to notice."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[PrivateQdrant]]:
    with private_cluster(tmp_path, 3) as nodes:
        yield nodes


def write(index: PersonaIndex, first: int, progress: Progress, over: threading.Event) -> None:
    """Replace items all the while; an error must be one sentence."""
    number = first
    while not over.is_set():
        number += 1
        item_id, count = f"item-{number % 13}", 1 + number % 7
        progress.begun[item_id] = number
        try:
            index.replace_item(item_id, personas(f"v{number}", count), rows(number, count))
        except P4RError as error:
            check_sentence(error)
        else:
            progress.done[item_id] = number


def settled(index: PersonaIndex, number: int) -> Progress:
    """All items, in a version that no earlier attempt has written."""
    progress = Progress()
    for one in range(number, number + 13):
        item_id, count = f"item-{one % 13}", 1 + one % 7
        retry(
            lambda: index.replace_item(item_id, personas(f"v{one}", count), rows(one, count)),  # noqa: B023
            IndexUnavailableError,
        )
        progress.begun[item_id] = progress.done[item_id] = one
    return progress


def check_everywhere(nodes: list[PrivateQdrant], progress: Progress) -> None:
    """Every node has each item in the version that was acknowledged, or was being written."""
    for node in nodes:
        with opened(on_server(node.server, "personas")) as index:
            retry(index.repair, IndexUnavailableError)
            retry(lambda: check_progress(index, progress), IndexUnavailableError)


def test_a_node_that_hangs(campaign: Campaign, cluster: list[PrivateQdrant]) -> None:
    scenario = campaign("cluster: a node hangs under writes", "checking it on every node")
    with opened(on_server(cluster[0].server, "personas", shards=3, replication=2)) as index:
        for attempt in scenario.attempts(1, MOST):
            with attempt:
                progress = settled(index, attempt.number * 1_000_000)
                hang(attempt, index, cluster, progress)
                with attempt.timed():
                    check_everywhere(cluster, progress)


def hang(
    attempt: Attempt, index: PersonaIndex, cluster: list[PrivateQdrant], progress: Progress
) -> None:
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write, index, attempt.number * 1_000_000 + 500, progress, over)
        other = attempt.random.choice(cluster[1:])
        try:
            threading.Event().wait(attempt.random.random())
            other.suspend()
            threading.Event().wait(1 + 10 * attempt.random.random())
        finally:
            other.resume()
            over.set()
        writer.result()
        wait_until(lambda: set(replicas(cluster[0], "personas")) == {"Active"}, 120)


def test_a_node_that_loses_its_disk(campaign: Campaign, cluster: list[PrivateQdrant]) -> None:
    """The other two have all that was acknowledged, and go on; so does the empty node."""
    scenario = campaign("cluster: a node loses its disk under writes", "until writes go on")
    over, node = threading.Event(), cluster[2]
    with opened(on_server(cluster[0].server, "personas", shards=3, replication=2)) as index:
        for attempt in scenario.attempts(1, 1):
            with attempt, ThreadPoolExecutor(1) as pool:
                progress = settled(index, 0)
                peer = node.server.request("GET", "/cluster")["result"]["peer_id"]
                writer = pool.submit(write, index, 500, progress, over)
                try:
                    threading.Event().wait(attempt.random.random())
                    node.kill()
                    attempt.killed()
                    shutil.rmtree(node.storage)
                    done = dict(progress.done)
                    with attempt.timed():
                        wait_until(lambda: progress.done != done, 120)  # noqa: B023
                    # What an operator does: the empty node may not come back under its old id.
                    path = f"/cluster/peer/{peer}?force=true"
                    cluster[0].server.request("DELETE", path, timeout=60)
                    node.start()
                finally:
                    over.set()
                writer.result()
                check_everywhere(cluster, progress)
