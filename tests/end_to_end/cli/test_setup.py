"""First contact: version, completion, `p4r init`, `config`, `doctor`, `check` and `--json`."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from indexer import cli
from p4r_qdrant.resources import resource
from p4r_qdrant.settings import Settings
from tests.support.paths import ROOT, copy_bookshop

BOOKSHOP = resource("examples/bookshop")
SECRET = "sk-never-shown"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def p4r(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in this process, in an empty folder."""
    for name in os.environ:
        if name.startswith("P4R_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, **environment: str) -> Result:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["p4r", *arguments])
            with pytest.raises(SystemExit) as leaving:
                cli.main()
        printed = capsys.readouterr()
        return Result(int(leaving.value.code or 0), printed.out, printed.err)

    return run


def process(*arguments: str, cwd: Path, before: str = "", **environment: str) -> Result:
    """Run Python in another process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("P4R_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


# --- version, module, completion --------------------------------------------------------------


def test_the_version(p4r: Run) -> None:
    assert p4r("--version") == Result(0, f"p4r-qdrant {version('p4r-qdrant')}\n", "")


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    done = process("-m", "p4r_qdrant", "--version", cwd=tmp_path)
    assert done == Result(0, f"p4r-qdrant {version('p4r-qdrant')}\n", "")
    wrong = process("-m", "p4r_qdrant", "show", "nope", cwd=tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.startswith("p4r: there is no persona index")


def test_the_module_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from p4r_qdrant import __main__ as module

    monkeypatch.setattr(module, "entry_points", lambda **_: ())
    with pytest.raises(SystemExit) as leaving:
        module.main()
    assert leaving.value.code == 1
    assert "pip install p4r-qdrant" in capsys.readouterr().err


def test_completion(tmp_path: Path) -> None:
    code = "import sys; sys.argv[0] = 'p4r'; from indexer.cli import main; main()"
    options = {"_P4R_COMPLETE": "complete_bash", "COMP_WORDS": "p4r re", "COMP_CWORD": "1"}
    done = process("-c", code, cwd=tmp_path, **options)
    assert done.code == 0
    assert {"reason", "rerank", "remove"} <= set(done.out.split())


def test_the_help_has_one_line_for_each_command(p4r: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = p4r("--help").out
    for name in ("init", "config", "doctor", "check", "demo", "publish", "serve", "--version"):
        assert re.search(rf"^. {name} +\S", shown, re.MULTILINE), name
    described = [line for line in shown.splitlines() if re.match(r"^. \S", line)]
    continued = [line for line in shown.splitlines() if re.match(r"^.  {12,}\S", line)]
    assert len(described) > 25
    assert not [line for line in continued if "customize the installation" not in line]


# --- init and config --------------------------------------------------------------------------


def uncommented(text: str) -> str:
    return re.sub(r"^# (\w+ = .*)$", r"\1", text, flags=re.MULTILINE)


def test_init_writes_every_setting_and_no_value(
    p4r: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = p4r("init")
    assert (done.code, done.err) == (0, "")
    path = tmp_path / "p4r.toml"
    text = path.read_text()
    assert Settings.load() == Settings()
    for one in Settings.catalogue():
        assert re.search(rf"^# {one.name} = ", text, re.MULTILINE)
        assert f"[{one.section}]" in text
        first = one.description.split()[:3]
        assert re.search(r"\s(# )?".join(map(re.escape, first)), text)
    kept = re.sub(r"^# \w+ = .*not set.*$", "", text, flags=re.MULTILINE)
    with_defaults = "\n".join(
        line
        for line in uncommented(kept).splitlines()
        if not re.search(r'= ("\.\.\."|"")$', line)
        and not re.match(r"(price_input|price_output|max_cost_usd|max_tokens|batch_tokens) =", line)
    )
    unset = {one.name for one in Settings.catalogue() if one.default is None}
    path.write_text(
        "\n".join(
            line
            for line in with_defaults.splitlines()
            if line.split(" =")[0] not in unset or line.startswith("#")
        )
    )
    assert Settings.load() == Settings(), "the values are the defaults"


def test_init_overwrites_only_by_force(p4r: Run, tmp_path: Path) -> None:
    (tmp_path / "p4r.toml").write_text("# mine\n")
    refused = p4r("init")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "p4r: p4r.toml is already in this folder; --force overwrites it\n"
    assert (tmp_path / "p4r.toml").read_text() == "# mine\n"
    assert p4r("init", "--force").code == 0
    assert "[qdrant]" in (tmp_path / "p4r.toml").read_text()


def test_config_says_where_each_value_comes_from(p4r: Run, tmp_path: Path) -> None:
    (tmp_path / "p4r.toml").write_text(
        f"[rerank]\nweight = 0.25\nrrf_k = 7\n[llm]\napi_key = '{SECRET}'\n"
        "[llm.personas]\nmodel = 'm'\n"
    )
    environment = {
        "P4R_RERANK__WEIGHT": "0.75",
        "p4r_history__length": "3",
        "P4R_INDEX": '{"shards": 2}',
        "P4R_QDRANT__API_KEY": "",
    }
    done = p4r("config", "--json", **environment)
    assert (done.code, done.err) == (0, "")
    found = {(one["section"], one["name"]): one for one in json.loads(done.out)}
    sources = {key: (one["value"], one["source"]) for key, one in found.items()}
    assert sources["rerank", "weight"] == (0.75, "P4R_RERANK__WEIGHT")
    assert sources["rerank", "rrf_k"] == (7, "p4r.toml")
    assert sources["history", "length"] == (3, "p4r_history__length")
    assert sources["index", "shards"] == (2, "P4R_INDEX")
    assert sources["index", "replication"] == (1, "default")
    assert sources["llm", "api_key"] == ("********", "p4r.toml")
    assert sources["llm.personas", "model"] == ("m", "p4r.toml")
    assert sources["qdrant", "api_key"] == (None, "default")
    assert len(found) == len(Settings.catalogue())
    shown = p4r("config", **environment)
    assert SECRET not in shown.out + done.out
    assert re.search(r"^rerank\.weight +0\.75 +P4R_RERANK__WEIGHT *$", shown.out, re.MULTILINE)
    wrong = p4r("config", P4R_RERANK__WEIGHT="much")
    assert (wrong.code, wrong.out) == (2, "")


# --- doctor -----------------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """A Qdrant and an LLM, as far as they are probed."""

    version = "1.17.0"
    key = ""

    def do_GET(self) -> None:
        known = {
            "/": {"title": "qdrant", "version": self.version},
            "/collections": {"result": {"collections": []}},
            "/v1/models": {"data": [{"id": "small"}]},
        }
        given = self.headers.get("api-key") or self.headers.get("Authorization") or ""
        allowed = self.path == "/" or self.key in given
        body = json.dumps(known.get(self.path, {})).encode()
        self.send_response(200 if allowed else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    served.server_close()
    thread.join()


def findings(result: Result) -> dict[str, tuple[str, str]]:
    return {one["name"]: (one["state"], one["text"]) for one in json.loads(result.out)}


def test_the_doctor_on_a_machine_with_nothing_configured(p4r: Run, tmp_path: Path) -> None:
    done = p4r("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    found = findings(done)
    assert found["settings"][0] == "ok"
    assert found["qdrant"][0] == found["index"][0] == found["llm"][0] == "off"
    assert "p4r index" in found["index"][1]
    assert "GiB free" in found["disk"][1]
    assert not list(tmp_path.iterdir()), "nothing is written"
    shown = p4r("doctor")
    assert re.search(r"^llm +off +not configured", shown.out, re.MULTILINE)


def test_the_doctor_without_extras(tmp_path: Path) -> None:
    absent = ("openai", "tenacity", "sentence_transformers", "torch", "transformers", "fastapi")
    code = (
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name: None if sys.modules.get(name, 0) is None else find(name)\n"
        "sys.argv[0] = 'p4r'\nfrom indexer.cli import main; main()"
    )
    done = process("-c", code, "doctor", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "not installed: encoder (to encode texts in this process), indexer (to " in done.out
    assert "pip install 'p4r-qdrant[encoder]'" in done.out
    chosen = process("-c", code, "doctor", cwd=tmp_path, P4R_ENCODER__MODEL="all-MiniLM-L6-v2")
    assert chosen.code == 1
    assert re.search(r"^encoder +failed +sentence-transformers is not", chosen.out, re.MULTILINE)


def test_the_doctor_beside_a_server_whose_other_port_is_closed(p4r: Run, server: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        environment = {
            "P4R_QDRANT__URL": server,
            "P4R_QDRANT__API_KEY": SECRET,
            "P4R_QDRANT__GRPC_PORT": str(closed.getsockname()[1]),
            "P4R_LLM__BASE_URL": f"{server}/v1",
            "P4R_LLM__MODEL": "small",
        }
        done = p4r("doctor", "--json", "--seconds", "0.5", **environment)
    assert done.code == 1
    found = findings(done)
    assert found["qdrant REST"] == ("ok", f"{server}, Qdrant 1.17.0")
    assert found["qdrant gRPC"][0] == "failed"
    assert "P4R_QDRANT__GRPC_PORT" in found["qdrant gRPC"][1]
    assert found["versions"][0] == "ok"
    assert found["llm"][0] == "ok"
    assert SECRET not in done.out


def test_the_lines_of_the_doctor_line_up(p4r: Run, server: str) -> None:
    address = {"P4R_QDRANT__URL": server, "P4R_QDRANT__API_KEY": SECRET}
    shown = p4r("doctor", "--seconds", "0.5", **address, P4R_QDRANT__TRANSPORT="rest").out
    found = re.findall(r"^(\S.*? +)(?:ok|off|failed) ", shown, re.MULTILINE)
    assert "cluster" in [one.strip() for one in found]
    assert len({len(one) for one in found}) == 1


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        ({"P4R_LLM__MODEL": "large"}, "llm", "has no model 'large'; set P4R_LLM__MODEL, to one of"),
        ({"P4R_LLM__BASE_URL": "http://127.0.0.1:1/v1"}, "llm", "does not answer: start it"),
        ({"P4R_QDRANT__URL": "http://127.0.0.1:1"}, "qdrant REST", "does not answer as Qdrant"),
        ({"P4R_ENCODER__BASE_URL": "http://127.0.0.1:1/v1"}, "encoder", "127.0.0.1:1"),
        ({"P4R_ENCODER__ADAPTER": "nope"}, "encoder", "there is no adapter folder nope"),
        ({"P4R_ENCODER__DEVICE": "foo"}, "encoder", "cannot run on the device 'foo'"),
        ({"P4R_RERANK__WEIGHT": "much"}, "settings", "P4R_RERANK__WEIGHT"),
    ],
)
def test_the_doctor_says_what_to_do(
    settings: dict[str, str], name: str, said: str, p4r: Run, server: str
) -> None:
    base = {
        "P4R_LLM__BASE_URL": f"{server}/v1",
        "P4R_LLM__MODEL": "small",
        "P4R_QDRANT__GRPC_PORT": "1",
    }
    done = p4r("doctor", "--json", "--seconds", "0.3", **(base | settings))
    assert done.code == 1
    state, text = findings(done)[name]
    assert state == "failed"
    assert said in text


def test_the_doctor_compares_versions(
    p4r: Run, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "version", "1.9.3")
    environment = {"P4R_QDRANT__URL": server, "P4R_QDRANT__GRPC_PORT": "1"}
    found = findings(p4r("doctor", "--json", "--seconds", "0.3", **environment))
    assert found["versions"][0] == "failed"
    assert "more than one minor version apart" in found["versions"][1]


def test_the_doctor_knows_a_refused_key(
    p4r: Run, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "key", "right")
    environment = {
        "P4R_QDRANT__URL": server,
        "P4R_QDRANT__API_KEY": SECRET,
        "P4R_QDRANT__GRPC_PORT": "1",
        "P4R_LLM__BASE_URL": f"{server}/v1",
        "P4R_LLM__API_KEY": SECRET,
    }
    done = p4r("doctor", "--json", "--seconds", "0.3", **environment)
    found = findings(done)
    assert "refuses the API key: mend P4R_QDRANT__API_KEY" in found["qdrant REST"][1]
    assert "refuses the API key: mend P4R_LLM__API_KEY" in found["llm"][1]
    assert SECRET not in done.out + done.err


# --- check ------------------------------------------------------------------------------------


def test_check_of_a_whole_folder(p4r: Run) -> None:
    done = p4r("check", str(BOOKSHOP))
    assert (done.code, done.err) == (0, "")
    assert "Nothing is broken." in done.out
    record = json.loads(p4r("check", str(BOOKSHOP), "--json").out)
    assert record["broken"] == 0
    counts = {one["name"]: one["records"] for one in record["files"]}
    assert counts["items.jsonl"] == counts["personas.jsonl"] == 24
    assert counts["reviews.jsonl"] == 153


def test_check_counts_every_broken_line_and_every_wrong_id(p4r: Run, tmp_path: Path) -> None:
    folder = copy_bookshop(tmp_path / "shop")
    with (folder / "reviews.jsonl").open("a") as file:
        file.write("{\n" * 30)
    persona = {"persona_id": "p", "name": "n", "description": "d", "preference_rationale": "r"}
    with (folder / "personas.jsonl").open("a") as file:
        file.write(json.dumps({"item_id": "nope", "personas": [persona]}) + "\n")
        file.write(json.dumps({"item_id": "nope", "personas": []}) + "\n")
    with (folder / "alignments.jsonl").open("a") as file:
        line = {"user_id": "maren-o", "item_id": "salt-orchard", "persona_id": "nope"}
        file.write(json.dumps(line) + "\n")
    done = p4r("check", str(folder), "--json", "--all")
    assert (done.code, done.err) == (2, "")
    record = json.loads(done.out)
    assert record["reasons"]["broken record"] == 30
    assert record["reasons"]["unknown item"] == 2
    assert record["reasons"]["repeated item"] == 1
    assert record["reasons"]["personas that cannot be indexed"] == 1
    assert record["reasons"]["unknown persona"] == 1
    assert record["broken"] == len(record["problems"])
    assert f"{folder}/reviews.jsonl:154: Invalid JSON" in "\n".join(record["problems"])
    assert f"{folder}/personas.jsonl:25: item 'nope' is not in items.jsonl" in record["problems"]
    shown = p4r("check", str(folder))
    assert shown.code == 2
    assert len(shown.err.splitlines()) == 22, "20 problems, the rest counted, the reasons"


def test_check_of_single_files(p4r: Run, tmp_path: Path) -> None:
    reviews = tmp_path / "my.jsonl"
    reviews.write_text('{"user_id": "u", "item_id": "a", "rating": 5, "timestamp": 1}\n')
    splits = tmp_path / "splits.jsonl"
    splits.write_text('{"user_id": "u", "test_item": "b", "valid_item": null}\n')
    done = p4r("check", "--reviews", str(reviews), "--splits", str(splits))
    assert done.code == 2
    assert f"{splits}:1: user 'u' has no review of the held-out 'b'" in done.err
    assert p4r("check", "--reviews", str(reviews)).code == 0
    named_as_a_folder = p4r("check", str(reviews))
    assert named_as_a_folder.code == 2
    assert f"{reviews} is a file; name its folder, or give the file as --items" in (
        named_as_a_folder.err
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the command line names none of items.jsonl"),
        (("nope",), "there is no folder nope"),
        ((".",), "the folder . holds none of items.jsonl"),
        (("--items", "nope"), "nope cannot be read: No such file"),
    ],
)
def test_check_of_nothing(arguments: tuple[str, ...], said: str, p4r: Run) -> None:
    done = p4r("check", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


# --- JSON of other commands -------------------------------------------------------------------


def test_stats_as_json(p4r: Run) -> None:
    done = p4r("stats", "--artifacts", str(BOOKSHOP), "--json")
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert (record["interactions"], record["users"]) == (153, 22)
    assert sum(record["ratings"].values()) == 153


def test_evaluate_as_json_and_into_a_file(p4r: Run, tmp_path: Path) -> None:
    files = ("--candidates", str(BOOKSHOP / "candidates.jsonl"))
    command = ("evaluate", "--json", *files, "--truth", str(BOOKSHOP / "splits.jsonl"))
    done = p4r(*command)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["users"] == 22
    last = (*command[:1], *command[2:], "--json")
    assert p4r(*last).out == done.out, "also as the last option"
    into = p4r(*last, "figures.json")
    assert "NDCG@10" in into.out
    assert json.loads((tmp_path / "figures.json").read_text()) == json.loads(done.out)


def test_audit_as_json(p4r: Run) -> None:
    done = p4r("audit", "--artifacts", str(BOOKSHOP), "--json", "--no-encoder")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["aspects"]["tuples"] == 106
