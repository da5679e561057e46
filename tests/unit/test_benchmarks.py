"""The benchmark that needs hardware which tests have not: it runs, in a small form."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers")

from benchmarks import encoding

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def test_encoding_with_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "encoding.json"
    options = ["--random", "tiny", "--device", "cpu", "--dtype", "bfloat16", "--personas", "4"]
    options += ["--users", "1", "--repeat", "1", "--output", str(written)]
    monkeypatch.setattr(sys, "argv", ["encoding", *options])
    encoding.main()
    report = json.loads(written.read_text())
    assert (report["model"], report["dtype"]) == ("tiny, random weights", "bfloat16")
    assert report["ratios"]["publish"] > 0
    assert report["user_vectors_ms"]["1"] > 0
