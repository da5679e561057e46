"""No command writes over what it reads, or over a file that it did not write."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import Run
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read
from tests.support.paths import BOOKSHOP

pytest.importorskip("matplotlib")

REVIEWS, SPLITS, LISTS = "reviews.jsonl", "splits.jsonl", "candidates.jsonl"
OUTPUTS = {
    "candidates": (
        "candidates --reviews {b}/reviews.jsonl --splits {b}/splits.jsonl --output",
        (REVIEWS, SPLITS),
    ),
    "rerank": (
        "rerank --artifacts {b} --candidates {b}/candidates.jsonl --output",
        (REVIEWS, LISTS, "personas.jsonl"),
    ),
    "evaluate": (
        "evaluate --candidates {b}/candidates.jsonl --truth {b}/splits.jsonl --json",
        (LISTS, SPLITS),
    ),
    "html": ("audit --artifacts {b} --no-encoder --html", (REVIEWS, "personas.jsonl")),
    "json": ("audit --artifacts {b} --no-encoder --json", (REVIEWS, "personas.jsonl")),
    "stats": ("stats --artifacts {b} --plot", ()),
}
"""Commands that write a file, up to its name, and files that they read."""

Write = Callable[..., int]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    return shutil.copytree(BOOKSHOP, tmp_path / "b")


@pytest.fixture(params=OUTPUTS)
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def suffix(command: str) -> str:
    return ".png" if command == "stats" else ".out"


@pytest.fixture
def write(command: str, p4r: Run, catalogue: Path) -> Write:
    """Runs the command, which writes to a path; its exit code."""

    def run(path: Path, *more: str) -> int:
        result = p4r(*OUTPUTS[command][0].format(b=catalogue).split(), str(path), *more)
        assert "Traceback" not in result.err
        return result.code

    return run


@pytest.fixture(autouse=True)
def _index(monkeypatch: pytest.MonkeyPatch, p4r: Run, request: pytest.FixtureRequest) -> None:
    """An index of hashes, where a command needs one."""
    if "rerank" in request.node.name:
        from p4r_qdrant import PersonaEncoder

        monkeypatch.setattr(PersonaEncoder, "from_settings", lambda *_: HashEncoder(64))
        assert p4r("index", "--artifacts", str(BOOKSHOP)).code == 0


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_an_input_is_never_written_over(
    write: Write, command: str, catalogue: Path, tmp_path: Path
) -> None:
    """Not by its name, through a link or another spelling, nor with --force."""
    before = everything(catalogue)
    link, hard = tmp_path / "link.jsonl", tmp_path / "hard.jsonl"
    for name in OUTPUTS[command][1]:
        link.symlink_to(catalogue / name)
        os.link(catalogue / name, hard)
        for path in (catalogue / name, catalogue / ".." / "b" / name, link, hard):
            assert write(path) == write(path, "--force") == 2, path
        link.unlink()
        hard.unlink()
    assert everything(catalogue) == before


def test_somebodys_file_is_replaced_only_with_force_and_its_own_without(
    write: Write, suffix: str, tmp_path: Path
) -> None:
    empty = tmp_path / f"made by mktemp{suffix}"
    empty.touch()
    assert write(empty) == 0
    mine = tmp_path / f"notes{suffix}"
    mine.write_text("the only copy of my thesis")
    assert write(mine) == 2
    assert mine.read_text() == "the only copy of my thesis"
    assert write(mine, "--force") == 0
    written = mine.read_bytes()
    assert b"thesis" not in written
    assert write(mine) == 0
    assert mine.read_bytes() == written


def test_two_outputs_are_two_files(p4r: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("page")
    both = ("audit", "--artifacts", str(BOOKSHOP), "--no-encoder", "--html", "page", "--json")
    for name in ("page", "./page", "link"):
        assert "name one file" in p4r(*both, name).sentence
    assert not (tmp_path / "page").exists()


def test_lists_need_a_file_beside_which_their_provenance_can_stand(p4r: Run) -> None:
    named = f"candidates --reviews {BOOKSHOP}/reviews.jsonl --splits {BOOKSHOP}/splits.jsonl"
    for output in ("-", "/dev/null", "/dev/fd/1"):
        assert "lists go into a file" in p4r(*named.split(), "--output", output).sentence


def test_what_was_written_is_said(p4r: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert (
        f"written: {page}\n"
        in p4r("audit", "--artifacts", str(BOOKSHOP), "--no-encoder", "--html", str(page)).err
    )


def test_prepare_leaves_its_sources_and_other_artifacts_alone(
    p4r: Run, catalogue: Path, tmp_path: Path
) -> None:
    reviews, items = (str(catalogue / name) for name in ("reviews.jsonl", "items.jsonl"))
    sources = ("--reviews", reviews, "--items", items)
    before = everything(catalogue)
    over = ("prepare", "plain", *sources, "--output", str(catalogue))
    assert "is an input of this command" in p4r(*over).sentence
    assert p4r(*over, "--force").code == 2
    assert everything(catalogue) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "splits.jsonl").write_text("mine\n")
    elsewhere = ("prepare", "plain", *sources, "--output", str(other))
    assert "--force replaces it" in p4r(*elsewhere).sentence
    assert everything(other) == {"splits.jsonl": b"mine\n"}
    assert p4r(*elsewhere, "--force").code == 0
    assert read(other / "splits.jsonl")
