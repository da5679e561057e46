"""Three real Qdrant nodes on this machine: shards, replicas, and a node that dies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.qdrant_process import PrivateQdrant
from p4r_qdrant.errors import IndexUnavailableError
from tests.support.engines import on_server, opened
from tests.support.index_data import personas, rows
from tests.support.oracle import Catalogue, assert_congruent
from tests.support.polling import retry, wait_until
from tests.support.private_qdrant import private_cluster, replicas


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[PrivateQdrant]]:
    with private_cluster(tmp_path, 3) as nodes:
        yield nodes


def test_a_cluster_gives_the_brute_force_answers_with_a_node_less_too(
    cluster: list[PrivateQdrant],
) -> None:
    catalogue = Catalogue({f"i{n}": rows(n, 1 + n % 7) for n in range(400)})
    users, asked = rows(77, 3), [[*catalogue.vectors, "missing"]] * 3
    settings = on_server(cluster[0].server, "personas", shards=3, replication=2)
    with opened(settings) as index:
        assert index.stats().details["shards"] == "3"
        assert index.stats().details["replication"] == "2"
        wait_until(lambda: replicas(cluster[0], "personas") == ["Active"] * 6)
        index.load(catalogue.rows())
        assert_congruent(index, catalogue, users, asked)
        for number in range(20):  # replaced, with its points on several shards
            item_id, count = f"i{number}", 1 + number * 3 % 7
            catalogue.vectors[item_id] = rows(1000 + number, count)
            (row,) = Catalogue({item_id: catalogue.vectors[item_id]}).rows()
            assert index.replace_item(item_id, row.personas, row.vectors)
            assert len(index.get(item_id)) == count
        assert_congruent(index, catalogue, users, asked)
        for node in cluster[1:]:  # every node gives the same answers
            with opened(on_server(node.server, "personas")) as elsewhere:
                assert_congruent(elsewhere, catalogue, users, asked)

        cluster[2].kill()
        for _ in range(5):
            assert_congruent(index, catalogue, users, asked)
            assert len(list(index.items())) == 400
        # The first write may be refused, until the dead node's replicas are given up.
        retry(
            lambda: index.replace_item("i0", personas("i0", 2), rows(5, 2)), IndexUnavailableError
        )
        catalogue.vectors["i0"] = rows(5, 2)
        assert_congruent(index, catalogue, users, asked)

        cluster[2].start()
        wait_until(lambda: set(replicas(cluster[0], "personas")) == {"Active"}, 60)
        cluster[1].kill()  # what the one that was away has missed it has been told
        assert_congruent(index, catalogue, users, asked)
