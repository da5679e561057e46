"""The encoder that belongs to an index."""

from typing import Any

import pytest

from p4r_qdrant.errors import IndexMismatchError
from p4r_qdrant.index.metadata import IndexMetadata
from p4r_qdrant.live import loading
from p4r_qdrant.settings import EncoderSettings
from tests.support.hash_encoder import HashEncoder


def made(**options: Any) -> IndexMetadata:
    encoder = HashEncoder()
    encoder.kind, encoder.model, encoder.options = "model", "m", options
    return IndexMetadata.of(encoder)


def test_the_index_notes_the_prompts_of_its_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_encoder", lambda settings: settings)
    noted = made(query_prompt="query: ", max_tokens=64)
    stored = IndexMetadata.from_json(noted.to_json(), "here")
    found: Any = loading.encoder_for_index(EncoderSettings(), stored)
    assert (found.model, found.query_prompt, found.max_tokens) == ("m", "query: ", 64)
    found = loading.encoder_for_index(EncoderSettings(query_prompt="other: "), stored)
    assert (found.query_prompt, found.max_tokens) == ("other: ", 64)
    found = loading.encoder_for_index(EncoderSettings(), made())
    assert found.query_prompt == ""


def test_an_index_of_an_earlier_version_is_refused_in_one_sentence() -> None:
    metadata = IndexMetadata("0123456789abcdef", 32, "bge-m3")
    with pytest.raises(IndexMismatchError) as caught:
        metadata.check(32, "fedcba9876543210." + "a" * 24, "the index")
    assert "was made by an earlier version" in str(caught.value)
    assert "`p4r publish` the artifacts again" in str(caught.value)


def test_an_adapter_that_is_elsewhere_is_named() -> None:
    metadata = IndexMetadata("f", 32, "m+a", kind="model", model="m", adapter="/away/a")
    with pytest.raises(IndexMismatchError, match=r"/away/a, which is not on this machine"):
        loading.encoder_for_index(EncoderSettings(), metadata)
