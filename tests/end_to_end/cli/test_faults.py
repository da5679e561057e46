"""Commands x faults: exit code 2, one sentence, and nothing that was not there before."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import Run
from tests.support.hash_encoder import HashEncoder
from tests.support.paths import ROOT, copy_bookshop
from tests.support.small_disk import full_disk

pytest.importorskip("openai")
pytest.importorskip("matplotlib")
pytest.importorskip("peft")

SETTINGS = {"P4R_LLM__BASE_URL": "http://127.0.0.1:1/v1", "P4R_ENCODER__MODEL": "all-MiniLM-L6-v2"}

FILES = {
    "add": "add {bad} --artifacts B --domain books",
    "audit": "audit --artifacts {bad} --html new.html --json new.json",
    "candidates": "candidates --reviews {bad} --splits B/splits.jsonl --output new",
    "candidates of": "candidates --reviews B/reviews.jsonl --splits {bad} --output new",
    "check": "check --reviews {bad}",
    "demo": "demo --artifacts {bad}",
    "erase": "erase bea-k --artifacts {bad}",
    "evaluate": "evaluate --candidates {bad} --truth B/splits.jsonl --json new",
    "evaluate on": "evaluate --candidates B/candidates.jsonl --truth {bad} --json new",
    "evaluate against": "evaluate --candidates B/candidates.jsonl --truth B/splits.jsonl "
    "--against {bad} --json new",
    "evaluate parts": "evaluate --candidates B/candidates.jsonl --truth B/splits.jsonl "
    "--segments {bad} --json new",
    "experiment": "experiment {bad} --output new",
    "experiment on": f"experiment {ROOT}/examples/bookshop.toml --artifacts {{bad}} --output new",
    "import": "import persona4rec {bad} --output new",
    "index": "index --artifacts {bad}",
    "judge explanations": "judge explanations --artifacts B --explanations {bad} --domain books "
    "--output new",
    "judge personas": "judge personas --artifacts {bad} --domain books --output new",
    "local-llm": "local-llm --model {bad}",
    "peers rank": "peers rank --artifacts B --candidates {bad} --domain books --output new",
    "peers verdicts": "peers verdicts --folder {bad}",
    "prepare": "prepare plain --reviews {bad} --output new",
    "prepare items": "prepare plain --reviews B/reviews.jsonl --items {bad} --output new",
    "prepare yelp": "prepare yelp --reviews {bad} --output new",
    "publish": "publish --artifacts {bad}",
    "reason": "reason --items {bad} --reviews B/reviews.jsonl --artifacts new --domain books",
    "reason reviews": "reason --items B/items.jsonl --reviews {bad} --artifacts new --domain books",
    "reason splits": "reason --items B/items.jsonl --reviews B/reviews.jsonl --splits {bad} "
    "--artifacts new --domain books",
    "reason about": "reason --items B/items.jsonl --reviews B/reviews.jsonl --artifacts new "
    "--domain {bad}",
    "rerank": "rerank --artifacts {bad} --candidates B/candidates.jsonl --output new",
    "restore": "restore {bad}",
    "review import": "review import {bad} --artifacts B --by Ann",
    "serve": "serve --artifacts {bad}",
    "stats": "stats --artifacts {bad} --plot new.png",
    "train": "train --artifacts {bad} --output new",
    "tune": "tune --artifacts {bad}",
    "work": "work --artifacts {bad}",
}
"""Each command, once for each of its inputs, which is {bad}."""

RIGHT = {
    ("check", "empty"): "it says that there are 0 records",
    ("reason splits", "empty"): "no user needs to have enough interactions for a split",
    ("add", "empty"): "nothing has arrived",
    ("add", "no text"): "each line is refused for itself",
    ("add", "wrong kind"): "each line is refused for itself",
}
"""What is no fault of the whole input, and why."""

EACH_LINE = {("review import", "wrong kind")}
"""What prints a line for each broken record, as `p4r check` does."""

FAULTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "a folder": Path.mkdir,
    "empty": Path.touch,
    "no text": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "a page": lambda path: path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>\n"),
    "wrong kind": lambda path: path.write_text('{"a": 1}\n{"a": 2}\n'),
}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", FILES)
def test_a_bad_input(command: str, fault: str, p4r: Run, tmp_path: Path) -> None:
    if (command, fault) in RIGHT:
        pytest.skip(RIGHT[command, fault])
    copy_bookshop(tmp_path / "B")
    FAULTS[fault](tmp_path / "bad")
    before = tree(tmp_path)
    result = p4r(*FILES[command].format(bad="bad").split(), **SETTINGS)
    assert result.code == 2, result
    if (command, fault) not in EACH_LINE and command != "check":
        assert result.sentence
    assert "Traceback" not in result.err + result.out
    assert tree(tmp_path) == before


OUTPUTS = {
    "audit": "audit --artifacts B --no-encoder --html {bad}",
    "audit json": "audit --artifacts B --no-encoder --json {bad}",
    "candidates": "candidates --reviews B/reviews.jsonl --splits B/splits.jsonl --output {bad}",
    "evaluate": "evaluate --candidates B/candidates.jsonl --truth B/splits.jsonl --json {bad}",
    "experiment": f"experiment {ROOT}/examples/bookshop.toml --output {{bad}}",
    "peers rank": "peers rank --artifacts B --candidates {bad} --domain books --output new",
    "peers verdicts": "peers verdicts --folder {bad}",
    "prepare": "prepare plain --reviews B/reviews.jsonl --output {bad}",
    "reason": "reason --items B/items.jsonl --reviews B/reviews.jsonl --artifacts {bad} "
    "--domain books",
    "stats": "stats --artifacts B --plot {bad}.png",
    "train": "train --artifacts B --output {bad}",
}


@pytest.mark.parametrize("command", ["import", "reason", "serve"])
def test_an_input_with_too_long_a_name(command: str, p4r: Run, tmp_path: Path) -> None:
    copy_bookshop(tmp_path / "B")
    before = tree(tmp_path)
    result = p4r(*FILES[command].format(bad="x" * 300).split(), **SETTINGS)
    assert (result.code, result.sentence != "") == (2, True), result
    assert tree(tmp_path) == before


def test_an_index_with_too_long_a_name(p4r: Run) -> None:
    result = p4r("status", **SETTINGS, P4R_QDRANT__PATH="x" * 300)
    assert (result.code, "P4R_QDRANT__PATH" in result.sentence) == (2, True), result


@pytest.mark.parametrize("command", ["audit", "index", "publish", "train --output new", "tune"])
def test_a_file_of_personas_that_is_empty(command: str, p4r: Run, tmp_path: Path) -> None:
    """It was lost: a folder without personas has no such file."""
    copy_bookshop(tmp_path / "B")
    (tmp_path / "B" / "personas.jsonl").write_text("\n")
    before = tree(tmp_path)
    result = p4r(*command.split(), "--artifacts", "B", **SETTINGS)
    assert (result.code, result.sentence.partition(" is empty")[0]) == (2, "B/personas.jsonl")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["B/items.jsonl/new", "B/items.jsonl", "x" * 300])
@pytest.mark.parametrize("command", OUTPUTS)
def test_an_output_that_cannot_be(command: str, place: str, p4r: Run, tmp_path: Path) -> None:
    """A file where a folder has to be; an input."""
    copy_bookshop(tmp_path / "B")
    before = tree(tmp_path)
    result = p4r(*OUTPUTS[command].format(bad=place).split(), **SETTINGS)
    if command == "stats" and place == "B/items.jsonl":  # another file: B/items.jsonl.png
        assert result.code == 0
        return
    assert (result.code, result.sentence != "") == (2, True), result
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "command",
    [
        "index --artifacts B",
        "publish --artifacts B",
        "prepare plain --reviews B/reviews.jsonl --output disk/new",
        "peers compare --artifacts B --explanations a=lists --explanations b=lists --output disk/c",
    ],
)
def test_a_full_disk(
    command: str, p4r: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from p4r_qdrant import PersonaEncoder

    monkeypatch.setattr(PersonaEncoder, "from_settings", lambda *_: HashEncoder(64))
    copy_bookshop(tmp_path / "B")
    line = {"user_id": "bea-k", "item_id": "salt-orchard", "explanation": "It is at sea."}
    (tmp_path / "lists").write_text(json.dumps(line))
    with full_disk(tmp_path / "disk", megabytes=1) as disk:
        disk.fill(leave=4096)
        before = tree(tmp_path)
        result = p4r(*command.split(), P4R_QDRANT__PATH="disk/index")
        assert result.code == 1
        assert "space left" in result.sentence
        assert ".unfinished" not in result.sentence
        assert tree(tmp_path) == before
