"""A server to a folder to an embedded index to a folder to a server: everything is the same."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from devtools.qdrant_process import QdrantServer
from indexer.backups.backup import backup
from indexer.backups.restore import restore
from p4r_qdrant import PersonaReranker, Ranking, Settings, open_index
from tests.support.backups import assert_same, contents, fill
from tests.support.congruence import SUITE, check
from tests.support.engines import embedded, on_server
from tests.support.oracle import DIMENSION, assert_congruent

USERS = np.random.default_rng(3).standard_normal((4, DIMENSION))


def rankings(place: Settings) -> list[Ranking]:
    with open_index(place) as index:
        return [PersonaReranker(index).recommend(user, top=9) for user in USERS]


def test_from_a_server_to_a_folder_to_a_server(
    qdrant_server: QdrantServer, collection_name: str, tmp_path: Path
) -> None:
    first = on_server(qdrant_server, f"{collection_name}-a")
    second = embedded(tmp_path / "index")
    third = on_server(qdrant_server, f"{collection_name}-b")
    catalogue = fill(first)
    wanted = contents(first)
    assert wanted["versions"]["test"]["columns"]
    assert wanted["users"]
    ranked = rankings(first)
    for number, (source, target) in enumerate([(first, second), (second, third)]):
        assert not backup(source, tmp_path / f"backup-{number}").left_out
        assert restore(target, tmp_path / f"backup-{number}").before == ""
        assert_same(contents(target), wanted)
        for one, before in zip(rankings(target), ranked, strict=True):
            assert [each.item_id for each in one.items] == [each.item_id for each in before.items]
    with open_index(third) as index:
        asked = [[*catalogue.vectors, "missing"]] * len(USERS)
        assert_congruent(index, catalogue, USERS, asked)
        assert_congruent(index, catalogue, USERS, asked, {"stock": {"gt": 4}})

        @settings(SUITE, max_examples=10)
        @given(data=st.data())
        def suite(data: st.DataObject) -> None:
            check(index, data)

        suite()
