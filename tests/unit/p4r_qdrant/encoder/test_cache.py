"""The cache of vectors: what is encoded once, what is kept apart, how much memory it takes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p4r_qdrant import Interaction
from p4r_qdrant.encoder.cache import ENTRY_BYTES, CachedEncoder, VectorCache
from p4r_qdrant.errors import TextsRefusedError
from p4r_qdrant.index.metadata import IndexMetadata
from tests.support.hash_encoder import HashEncoder

WIDE = 32
TEXTS = st.lists(st.text(max_size=4), max_size=6)


@given(batches=st.lists(st.tuples(st.booleans(), TEXTS), max_size=8), entries=st.integers(0, 4))
def test_the_same_vectors_as_without_a_cache(
    batches: list[tuple[bool, list[str]]], entries: int
) -> None:
    plain, inner = HashEncoder(WIDE), HashEncoder(WIDE)
    for one in (plain, inner):
        one.query_prompt, one.document_prompt = "query ", "passage "
    cached = CachedEncoder(inner, VectorCache(entries * (4 * WIDE + ENTRY_BYTES) / 1e6))
    for of_users, texts in batches:
        wanted = (plain.encode_queries if of_users else plain.encode_documents)(texts)
        found = (cached.encode_queries if of_users else cached.encode_documents)(texts)
        np.testing.assert_array_equal(found, wanted)


def test_a_text_is_encoded_once() -> None:
    inner, looked_up = HashEncoder(WIDE), list[tuple[int, int]]()
    cache = VectorCache(1)
    cache.counted = lambda found, missing: looked_up.append((found, missing))
    encoder = CachedEncoder(inner, cache)
    encoder.encode_queries(["salt", "tide", "salt"])
    encoder.encode_queries(["tide", "salt", "moss"])
    assert inner.encoded == ["salt", "tide", "moss"]
    assert looked_up == [(0, 3), (2, 1)]
    history = [Interaction("a", 1, summary="Dunes."), Interaction("b", 2, summary="Fens.")]
    for _ in range(2):
        encoder.user_vectors([history], length=10, decay=0.5)
    assert len(inner.encoded) == 5


def test_prompts_encoders_and_sides_are_kept_apart() -> None:
    cache = VectorCache(1)
    plain, prompted, other = HashEncoder(WIDE), HashEncoder(WIDE), HashEncoder(WIDE, salt="2")
    prompted.query_prompt = "query "
    for inner in (plain, prompted, other):
        encoder = CachedEncoder(inner, cache)
        encoder.encode_queries(["salt"])
        encoder.encode_documents(["salt"])
    assert plain.encoded == other.encoded == ["salt", "salt"]
    assert prompted.encoded == ["query salt"]
    republished = HashEncoder(WIDE)  # the same encoder, loaded for another version
    CachedEncoder(republished, cache).encode_queries(["salt"])
    assert republished.encoded == []


def test_memory_is_bounded_and_the_oldest_goes() -> None:
    inner = HashEncoder(WIDE)
    encoder = CachedEncoder(inner, VectorCache(2 * (4 * WIDE + ENTRY_BYTES) / 1e6))
    for text in ("a", "b", "a", "c", "a", "b"):
        encoder.encode_queries([text])
    assert inner.encoded == ["a", "b", "c", "b"]


def test_zero_megabytes_keep_nothing() -> None:
    inner = HashEncoder(WIDE)
    encoder = CachedEncoder(inner, VectorCache(0))
    encoder.encode_queries(["a"])
    encoder.encode_queries(["a"])
    assert inner.encoded == ["a", "a"]


def test_refused_texts_are_refused_again_and_cost_the_others_nothing() -> None:
    inner = HashEncoder(WIDE, cannot="bad")
    encoder = CachedEncoder(inner, VectorCache(1))
    encoder.encode_queries(["fine"])
    for _ in range(2):
        with pytest.raises(TextsRefusedError) as refusal:
            encoder.encode_queries(["bad one", "fine", "good", "bad one"])
        assert list(refusal.value.reasons) == [0, 3]
        assert np.isfinite(refusal.value.vectors[[1, 2]]).all()
    assert inner.encoded.count("fine") == inner.encoded.count("good") == 1


def test_what_is_kept_tells_no_text() -> None:
    cache, word = VectorCache(1), "unmistakable"
    encoder = CachedEncoder(HashEncoder(WIDE), cache)
    encoder.encode_queries([word])
    keys = list(cache._rows)
    assert len(keys) == 1
    assert word.encode() not in b"".join(keys)
    other = VectorCache(1)
    CachedEncoder(HashEncoder(WIDE), other).encode_queries([word])
    assert list(other._rows) != keys  # nobody can look up a text by its hash
    cache.clear()
    assert not cache._rows


def test_many_threads_get_their_own_vectors() -> None:
    plain = HashEncoder(WIDE)
    encoder = CachedEncoder(HashEncoder(WIDE), VectorCache(5 * (4 * WIDE + ENTRY_BYTES) / 1e6))
    batches = [[f"{(start + step) % 9}" for step in range(6)] for start in range(60)]
    with ThreadPoolExecutor(4) as threads:
        for texts, found in zip(batches, threads.map(encoder.encode_queries, batches), strict=True):
            np.testing.assert_array_equal(found, plain.encode_queries(texts))


def test_an_index_notes_the_encoder_itself() -> None:
    inner = HashEncoder(WIDE)
    inner.kind, inner.model, inner.options = "model", "folder", {"query_prompt": "q"}
    assert IndexMetadata.of(CachedEncoder(inner, VectorCache(1))) == IndexMetadata.of(inner)
