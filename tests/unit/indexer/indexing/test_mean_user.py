"""The typical user: what `p4r index` and `p4r publish` note for the persona prior."""

from pathlib import Path

import numpy as np
import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.histories import Histories
from indexer.artifacts.lines import Refusals
from indexer.indexing import mean_user as typical
from indexer.indexing.mean_user import note_typical_user, typical_user
from indexer.indexing.vector_files import VectorFile
from p4r_qdrant.errors import InputError
from p4r_qdrant.settings import HistorySettings, Settings
from tests.support import paths
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import write
from tests.support.memory_index import MemoryIndex

BOOKSHOP = ArtifactFolder(paths.BOOKSHOP)
HISTORY = HistorySettings(length=5, decay=0.8)


def expected(encoder: HashEncoder) -> np.ndarray:
    with Histories(BOOKSHOP, Refusals()) as histories:
        told = [histories.get(user) for user in histories.users()]
    found = encoder.user_vectors(told, length=HISTORY.length, decay=HISTORY.decay)
    mean: np.ndarray = np.array([one.vector for one in found if one is not None]).mean(axis=0)
    return mean


def test_it_is_the_mean_of_all_users() -> None:
    encoder = HashEncoder()
    assert typical_user(BOOKSHOP, encoder, HISTORY) == pytest.approx(expected(encoder), abs=1e-6)


def test_of_many_users_a_sample_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typical, "MOST_USERS", 10)
    one, other = (typical_user(BOOKSHOP, HashEncoder(), HISTORY) for _ in range(2))
    assert one.tolist() == other.tolist(), "the same every time"
    whole = expected(HashEncoder())
    assert one != pytest.approx(whole, abs=1e-6)
    cosine = one @ whole / np.linalg.norm(one) / np.linalg.norm(whole)
    assert cosine > 0.9


def test_held_out_interactions_are_not_in_it(tmp_path: Path) -> None:
    def review(item: str, timestamp: int) -> dict[str, object]:
        return {"user_id": "u", "item_id": item, "rating": 5, "timestamp": timestamp, "text": ""}

    items = [{"item_id": one, "title": one} for one in ("ships", "cakes", "lamps")]
    write(tmp_path, "items.jsonl", items)
    write(tmp_path, "reviews.jsonl", [review("ships", 1), review("cakes", 2), review("lamps", 3)])
    split = {"user_id": "u", "test_item": "lamps", "valid_item": "cakes"}
    write(tmp_path, "splits.jsonl", [split])
    encoder = HashEncoder()
    found = typical_user(ArtifactFolder(tmp_path), encoder, HISTORY)
    assert encoder.encoded == ["ships"]
    assert found.tolist() == encoder.encode_texts(["ships"])[0].tolist()


def test_it_is_noted_where_a_prior_is_asked_for() -> None:
    encoder = HashEncoder(fingerprint="test")
    index = MemoryIndex(encoder.dimension)
    note_typical_user(BOOKSHOP, encoder, index, Settings.load(history=HISTORY.model_dump()))
    assert index.metadata.typical is None
    assert encoder.encoded == []
    asked = Settings.load(history=HISTORY.model_dump(), rerank={"prior": 0.5})
    note_typical_user(BOOKSHOP, encoder, index, asked)
    assert index.metadata.typical == pytest.approx(expected(encoder), abs=1e-6)


def test_where_it_cannot_be(tmp_path: Path) -> None:
    asked = Settings.load(rerank={"prior": 0.5})
    index = MemoryIndex(4)
    vectors = VectorFile(np.ones((1, 4), np.float32), {"one": 0}, "elsewhere")
    with pytest.raises(InputError, match="needs an encoder for the users' histories"):
        note_typical_user(BOOKSHOP, vectors, index, asked)
    write(tmp_path, "reviews.jsonl", [])
    with pytest.raises(InputError, match="holds no user with a history"):
        note_typical_user(ArtifactFolder(tmp_path), HashEncoder(4), index, asked)
