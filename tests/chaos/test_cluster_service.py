"""Faults of a node while a service reranks, takes interactions and writes items.

No rerank fails, one in a hundred is degraded at most, no acknowledged write is lost, and no item is
half-replaced after settling.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from devtools.qdrant_process import PrivateQdrant
from p4r_qdrant import open_index
from p4r_qdrant.errors import IndexUnavailableError
from p4r_qdrant.index.server import nodes as health
from p4r_qdrant.index.server.cluster import node_states
from tests.support.campaign import LONG, Attempt, Campaign, Scenario
from tests.support.cluster_load import Load, at_all, check_interactions, check_items, load
from tests.support.cluster_operations import all_active, fill, move_shards, peer_id
from tests.support.network import Link
from tests.support.polling import retry, wait_until
from tests.support.private_qdrant import linked_cluster, private_cluster
from tests.support.serving import make_app, make_index, running, with_service

pytestmark = pytest.mark.skipif(not LONG, reason="make chaos ROUNDS=2 or more: it takes minutes")

Nodes = list[PrivateQdrant]
Fault = Callable[[Load], object]


def under_load(
    scenario: Scenario, attempt: Attempt, nodes: Nodes, replication: int, fault: Fault
) -> None:
    """Bring about a fault under load, then check what each node has."""
    settings = at_all(nodes, shards=3, replication=replication, read_fan_out=1)
    make_index(settings)
    with running(make_app(with_service(settings, deadline_ms=2000))) as address:
        with load(address) as found:
            found.wait_for_writes(30)
            fault(found)
            found.wait_for_reranks(50)
            found.wait_for_writes(30)
        scenario.measured = f"settling and checking; {found}"
        with attempt.timed():
            wait_until(lambda: all(all_active(one, replication) for one in nodes), 120)
            for node in nodes:
                check_node(node, found)
    assert set(found.reranks) <= {"ok", "degraded"}
    assert found.reranks["degraded"] <= found.reranks["ok"] / 100
    assert set(found.refused) <= {503}


def check_node(node: PrivateQdrant, found: Load) -> None:
    """Check what one node answers alone."""
    settings = at_all([node])
    with open_index(settings) as index:
        retry(index.repair, IndexUnavailableError)
        check_items(index, found)
    with running(make_app(with_service(settings))) as address:
        check_interactions(address, found)


def first_and_another(nodes: Nodes) -> tuple[int, int]:
    """The node that this process writes to, and another one."""
    first = health._FIRST % len(nodes)
    return first, (first + 1) % len(nodes)


def test_shards_are_moved(campaign: Campaign, tmp_path: Path) -> None:
    scenario = campaign("cluster: shards move under load", "settling and checking")
    for attempt in scenario.attempts(1, 1):
        with attempt, private_cluster(tmp_path, 3) as nodes:
            under_load(scenario, attempt, nodes, 2, partial(move, nodes))


def move(nodes: Nodes, _: Load) -> None:
    assert move_shards(nodes[0]) >= 3


def test_a_node_is_replaced_by_an_empty_one(campaign: Campaign, tmp_path: Path) -> None:
    scenario = campaign("cluster: a node is replaced under load", "settling and checking")
    for attempt in scenario.attempts(1, 1):
        with attempt, private_cluster(tmp_path, 3) as nodes:
            under_load(scenario, attempt, nodes, 3, partial(replace, attempt, nodes))


def replace(attempt: Attempt, nodes: Nodes, found: Load) -> None:
    gone, other = (nodes[number] for number in first_and_another(nodes))
    peer = peer_id(gone)
    gone.kill()
    attempt.killed()
    found.wait_for_reranks(50)
    found.wait_for_writes(10)
    shutil.rmtree(gone.storage)
    other.server.request("DELETE", f"/cluster/peer/{peer}?force=true", timeout=60)
    gone.environment["QDRANT_BOOTSTRAP"] = other.environment["QDRANT_URI"]
    gone.start()
    fill(other, peer_id(gone))


def test_a_node_is_cut_off_from_the_others(campaign: Campaign, tmp_path: Path) -> None:
    """The service still reaches it, and writes to it first."""
    scenario = campaign("cluster: a node is cut off under load", "settling and checking")
    for attempt in scenario.attempts(1, 1):
        with attempt, linked_cluster(tmp_path, 3) as (nodes, links):
            under_load(scenario, attempt, nodes, 3, partial(cut_off, nodes, links))


def cut_off(nodes: Nodes, links: list[Link], found: Load) -> None:
    lonely, _ = first_and_another(nodes)
    for number, link in enumerate(links):
        link.cut(None if number == lonely else nodes[lonely].pid)
    found.wait_for_reranks(300)
    found.wait_for_writes(10)
    settings = at_all(nodes).qdrant
    others = {one.url: "ok" for one in nodes if one is not nodes[lonely]}
    wait_until(lambda: node_states(settings) == others | {nodes[lonely].url: "cut_off"})
    for link in links:
        link.mend(reset=True)
