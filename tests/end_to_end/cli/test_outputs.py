"""No command writes over what it reads, or over a file that it did not write."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import Run
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read
from tests.support.paths import BOOKSHOP, copy_bookshop

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
    return copy_bookshop(tmp_path / "b")


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
    (tmp_path / "page").touch()
    os.link(tmp_path / "page", tmp_path / "hard")
    assert "name one file" in p4r(*both, "hard").sentence


@pytest.mark.parametrize("name", ["decisions.jsonl", "reviews.jsonl.gz", "Personas.jsonl.gz"])
@pytest.mark.parametrize("command", [one for one in OUTPUTS if one != "stats"], indirect=True)
def test_no_output_takes_the_name_of_an_artifact(write: Write, name: str, catalogue: Path) -> None:
    """The next command would read it as one."""
    before = everything(catalogue)
    assert write(catalogue / name) == write(catalogue / name, "--force") == 2
    assert everything(catalogue) == before


@pytest.mark.parametrize("place", ["missing/new", "notes/new"])
def test_a_folder_that_cannot_hold_it_is_found_first(
    write: Write, suffix: str, place: str, tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("a file")
    assert write(tmp_path / f"{place}{suffix}") == 2
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("review flag --no-encoder", "flags.jsonl"),
        ("tune", "tuned.json"),
        ("segments --audience", "audience.csv"),
    ],
)
def test_somebodys_file_in_the_artifact_folder(
    command: str, name: str, p4r: Run, catalogue: Path
) -> None:
    (catalogue / name).write_text("the only copy of my thesis")
    before = everything(catalogue)
    assert "--force replaces it" in p4r(*command.split(), "--artifacts", str(catalogue)).sentence
    assert everything(catalogue) == before


def test_somebodys_provenance(p4r: Run, catalogue: Path, tmp_path: Path) -> None:
    mine = tmp_path / "lists.jsonl.provenance.json"
    mine.write_text("the only copy of my thesis")
    command = f"candidates --reviews {catalogue}/reviews.jsonl --splits {catalogue}/splits.jsonl"
    result = p4r(*command.split(), "--output", str(tmp_path / "lists.jsonl"))
    assert "--force replaces it" in result.sentence
    assert mine.read_text() == "the only copy of my thesis"


def test_a_backup_is_not_put_into_its_index(p4r: Run, tmp_path: Path) -> None:
    (tmp_path / "p4r-index").mkdir()
    (tmp_path / "link").symlink_to("p4r-index")
    for command in (
        "backup p4r-index/new",
        "backup link/new",
        "copy --from p4r-index --to p4r-index/new",
        "copy --from p4r-index --to link --force",
        "copy --from p4r-index --to new --work link",
    ):
        assert p4r(*command.split()).code == 2
        assert not [*(tmp_path / "p4r-index").iterdir()], command
    reached = p4r("erase", "bea-k", "--artifacts", str(BOOKSHOP), "--results", str(BOOKSHOP.parent))
    assert "name the folders of results alone" in reached.sentence


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
