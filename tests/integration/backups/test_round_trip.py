"""A server to a folder to an embedded index to a folder to a server: everything is the same."""

from pathlib import Path

import numpy as np
import pytest

from devtools.qdrant_process import QdrantServer
from indexer.backups.backup import backup
from indexer.backups.restore import restore
from p4r_qdrant import PersonaReranker, open_index
from tests.support.backups import assert_same, contents, fill
from tests.support.engines import embedded, on_server
from tests.support.oracle import DIMENSION, assert_congruent


@pytest.mark.parametrize("datatype", ["float32", "float16"])
def test_from_a_server_to_a_folder_to_a_server(
    qdrant_server: QdrantServer, collection_name: str, tmp_path: Path, datatype: str
) -> None:
    first = on_server(qdrant_server, f"{collection_name}-a", datatype=datatype)
    second = embedded(tmp_path / "index")
    third = on_server(qdrant_server, f"{collection_name}-b")
    catalogue = fill(first)
    wanted = contents(first)
    assert wanted["versions"]["test"]["columns"]
    assert wanted["users"]
    users = np.random.default_rng(3).standard_normal((4, DIMENSION))
    for number, (source, target) in enumerate([(first, second), (second, third)]):
        written = backup(source, tmp_path / f"backup-{number}")
        assert not written.left_out
        done = restore(target, tmp_path / f"backup-{number}")
        assert done.before == ""
        # A server normalises what it stores: halves of short vectors may move by one unit.
        assert_same(contents(target), wanted, 0 if datatype == "float32" else 2**-11)
        with open_index(target) as index:
            if datatype == "float32":
                asked = [[*catalogue.vectors, "missing"]] * len(users)
                assert_congruent(index, catalogue, users, asked)
                assert_congruent(index, catalogue, users, asked, {"stock": {"gt": 4}})
            rankings = PersonaReranker(index).recommend(users[0], top=9)
            assert rankings.items
