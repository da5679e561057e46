"""The personas of a folder as vectors; an item that cannot be encoded costs no other one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.collaborative import encoding
from indexer.collaborative.encoding import encoded_personas
from p4r_qdrant.arrays import Floats
from p4r_qdrant.errors import InputError, TextsRefusedError
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read
from tests.support.paths import BOOKSHOP


class Choosy(HashEncoder):
    """Refuses texts with a word."""

    def __init__(self, word: str) -> None:
        super().__init__(16)
        self.word = word

    def encode_documents(self, texts: Sequence[str]) -> Floats:
        vectors = super().encode_documents(texts)
        refused = {place: "too odd" for place, one in enumerate(texts) if self.word in one}
        if refused:
            vectors[list(refused)] = np.nan
            raise TextsRefusedError(texts, refused, vectors)
        return vectors


@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_items_whose_texts_are_refused_are_counted(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "ITEMS_AT_ONCE", at_once)
    everything = encoded_personas(ArtifactFolder(BOOKSHOP), HashEncoder(16), Refusals())
    rows = read(BOOKSHOP / "personas.jsonl")
    assert list(everything.items) == [row["item_id"] for row in rows]
    assert np.diff(everything.starts).tolist() == [len(row["personas"]) for row in rows]

    word, refusals = rows[2]["personas"][0]["name"], Refusals()
    others = encoded_personas(ArtifactFolder(BOOKSHOP), Choosy(word), refusals)
    gone = [place for place, row in enumerate(rows) if word in str(row)]
    assert list(others.items) == [one for n, one in enumerate(everything.items) if n not in gone]
    assert refusals.counts == {"item refused": len(gone)}
    spans = zip(everything.starts[:-1], everything.starts[1:], strict=True)
    kept = [everything.vectors[a:b] for n, (a, b) in enumerate(spans) if n not in gone]
    assert (others.vectors == np.concatenate(kept)).all()


def test_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "personas.jsonl").write_bytes((BOOKSHOP / "personas.jsonl").read_bytes())
    with pytest.raises(InputError, match="no item with personas that can be encoded"):
        encoded_personas(ArtifactFolder(tmp_path), Choosy(" "), Refusals())
