"""`p4r candidates`: with personas as hypothetical users, and what it refuses."""

import json
from pathlib import Path

import pytest

from p4r_qdrant.encoder import loading
from tests.support.command_line import Run
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read
from tests.support.paths import BOOKSHOP

pytest.importorskip("scipy")

FILES = ("--reviews", str(BOOKSHOP / "reviews.jsonl"), "--splits", str(BOOKSHOP / "splits.jsonl"))


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> HashEncoder:
    """Without a model."""
    encoder = HashEncoder(64)
    monkeypatch.setattr(loading, "load_encoder", lambda _: encoder)
    return encoder


def test_personas_are_hypothetical_users(p4r: Run, tmp_path: Path, model: HashEncoder) -> None:
    output = tmp_path / "lists.jsonl"
    personas = ("--model", "personas-ease", "--artifacts", str(BOOKSHOP))
    done = p4r("candidates", *FILES, *personas, "--output", str(output))
    assert done.code == 0
    assert "22 lists by personas-ease (share " in done.out
    count = sum(len(row["personas"]) for row in read(BOOKSHOP / "personas.jsonl"))
    assert len(model.encoded) == count
    told = json.loads((tmp_path / "lists.jsonl.provenance.json").read_text())
    assert len(told["personas"]) == 16
    lists = output.read_bytes()
    assert p4r("candidates", *FILES, *personas, "--output", str(output)).code == 0
    assert output.read_bytes() == lists


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["personas-ease"], "needs personas; name their folder, --artifacts"),
        (["ease", "--artifacts", str(BOOKSHOP)], "ease reads no personas; leave --artifacts out"),
        (["magic"], "there is no generator 'magic'; choose one of bpr, "),
        (["personas-ease", "--artifacts", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(
    arguments: list[str], sentence: str, p4r: Run, tmp_path: Path, model: HashEncoder
) -> None:
    output = ("--output", str(tmp_path / "lists.jsonl"))
    done = p4r("candidates", *FILES, "--model", *arguments, *output)
    assert (done.code, sentence in done.sentence) == (2, True), done.sentence
    assert model.encoded == []
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_folder_is_not_written_over(p4r: Run, tmp_path: Path) -> None:
    (tmp_path / "personas.jsonl").write_bytes((BOOKSHOP / "personas.jsonl").read_bytes())
    personas = ("--model", "personas-ease", "--artifacts", str(tmp_path))
    done = p4r("candidates", *FILES, *personas, "--output", str(tmp_path / "personas.jsonl"))
    assert done.code == 2
    assert "which this command reads; name another output" in done.sentence
