"""`p4r reason --batch`: the artifacts of live calls, through a Batch API that is a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.scripted_llm import ScriptedLLM, fails
from tests.support import warm
from tests.support.obliging_llm import obliging
from tests.support.paths import BOOKSHOP
from tests.support.scripted_batches import ScriptedBatches

ARTIFACTS = ("summaries", "aspects", "personas", "alignments")
P4R = [sys.executable, "-W", "error", "-c", "from indexer.cli import main; main()"]


@pytest.fixture
def server() -> Iterator[ScriptedBatches]:
    with ScriptedBatches(obliging) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def live(tmp_path: Path) -> dict[str, bytes]:
    """The artifacts of a live run."""
    with ScriptedLLM(obliging) as endpoint:
        done = run(command(tmp_path / "live"), endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    return artifacts(tmp_path / "live")


def artifacts(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.jsonl").read_bytes() for name in ARTIFACTS}


def command(folder: Path, *more: str) -> list[str]:
    named = {name: BOOKSHOP / f"{name}.jsonl" for name in ("items", "reviews", "splits")}
    options = [text for name, path in named.items() for text in (f"--{name}", str(path))]
    return ["reason", *options, "--domain", "books", "--artifacts", str(folder), *more]


def environment(server: ScriptedLLM, **settings: str) -> dict[str, str]:
    own = {"P4R_LLM__BASE_URL": server.url, "P4R_LLM__BATCH_POLL_S": "0.05"}
    return {"PATH": os.environ["PATH"], **own, **settings}


def run(
    arguments: list[str], server: ScriptedLLM, place: Path, **settings: str
) -> subprocess.CompletedProcess[str]:
    env = environment(server, **settings)
    return warm.run([*P4R, *arguments], env=env, cwd=place, text=True)


def test_they_write_what_live_calls_write(
    server: ScriptedBatches, live: dict[str, bytes], folder: Path, tmp_path: Path
) -> None:
    few = {"P4R_LLM__BATCH_REQUESTS": "40"}
    done = run(command(folder, "--batch"), server, tmp_path, **few)
    assert done.returncode == 0, done.stderr
    assert artifacts(folder) == live
    assert set(server.paid.values()) == {1}
    assert sum(call.path.endswith("/completions") for call in server.calls) == 4, "one a step"
    assert "summaries: batch_1 completed, 23 of 23 answered" in done.stderr
    assert "under way" not in done.stdout
    asked = len(server.calls)
    for more in ([], ["--batch"]):
        again = run(command(folder, *more), server, tmp_path)
        assert again.returncode == 0, again.stderr
    assert len(server.calls) == asked


def test_nobody_waits(
    server: ScriptedBatches, live: dict[str, bytes], folder: Path, tmp_path: Path
) -> None:
    submit = command(folder, "--batch", "--no-wait")
    first = run(submit, server, tmp_path)
    assert first.returncode == 0, first.stderr
    # Aspects do not wait for summaries; personas wait for aspects.
    assert set(server.batches) == {"batch_1", "batch_2"}
    assert "aspects: batch_2 submitted, 0 of 108 answered" in first.stdout
    assert "batches are under way: run the same command again to collect them" in first.stdout

    dry = run(command(folder, "--batch", "--dry-run"), server, tmp_path)
    assert "summaries: 23 more are under way in batches" in dry.stdout
    refused = run(command(folder), server, tmp_path)
    assert refused.returncode == 2
    assert "live calls would pay for them once more" in refused.stderr

    runs = 1
    while "under way" in (done := run(submit, server, tmp_path)).stdout:
        assert done.returncode == 0, done.stderr
        runs += 1
        assert runs < 12
    assert done.returncode == 0, done.stderr
    assert artifacts(folder) == live
    assert set(server.paid.values()) == {1}


def test_a_dry_run_has_the_batch_price(
    server: ScriptedBatches, folder: Path, tmp_path: Path
) -> None:
    def total(*more: str, **settings: str) -> float:
        prices = {"P4R_LLM__PRICE_INPUT": "100", "P4R_LLM__PRICE_OUTPUT": "100"}
        arguments = command(folder, "--dry-run", "--steps", "summaries", *more)
        done = run(arguments, server, tmp_path, **prices, **settings)
        assert done.returncode == 0, done.stderr
        return float(done.stdout.partition("in all about $")[2].split(";")[0])

    whole = total()
    assert total("--batch") == pytest.approx(whole / 2, abs=0.01)
    quarter = {"P4R_LLM__BATCH_PRICE_FACTOR": "0.25"}
    assert total("--batch", **quarter) == pytest.approx(whole / 4, abs=0.01)
    assert not server.calls


def test_ctrl_c_leaves_batches_to_the_endpoint(
    server: ScriptedBatches, folder: Path, tmp_path: Path
) -> None:
    server.looks = 10**6
    process = warm.Popen(
        [*P4R, *command(folder, "--batch")],
        env=environment(server),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if "batch_1 in_progress" in line:
            break
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "summaries: batch_1 in_progress, 0 of 23 answered" in said
    assert "batches are under way: run the same command again to collect them" in said
    assert complaint == "p4r: interrupted; run it again to go on\n"
    server.looks = 1
    assert run(command(folder, "--batch"), server, tmp_path).returncode == 0
    assert set(server.paid.values()) == {1}


def test_nobody_is_erased_while_batches_are_under_way(
    server: ScriptedBatches, folder: Path, tmp_path: Path
) -> None:
    run(command(folder, "--batch", "--no-wait"), server, tmp_path)
    before = (folder / "reviews.jsonl").read_bytes()
    erased = run(["erase", "maren-o", "--artifacts", str(folder)], server, tmp_path)
    assert erased.returncode == 2
    assert "users cannot be erased from them" in erased.stderr
    assert (folder / "reviews.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "settings", "sentence"),
    [
        (["--no-wait"], {}, "--no-wait needs --batch"),
        (["--batch"], {"P4R_LLM__BATCH_REQUESTS": "0"}, "P4R_LLM__BATCH_REQUESTS"),
        (["--batch"], {"P4R_LLM__BASE_URL": "https://api.openai.com/v1"}, "no key for OpenAI"),
    ],
)
def test_mistakes_are_one_sentence(
    more: list[str],
    settings: dict[str, str],
    sentence: str,
    server: ScriptedBatches,
    folder: Path,
    tmp_path: Path,
) -> None:
    done = run(command(folder, *more), server, tmp_path, **settings)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_endpoint_without_batches(folder: Path, tmp_path: Path) -> None:
    with ScriptedBatches(obliging) as server:
        server.trouble = lambda call: fails(404)
        done = run(command(folder, "--batch"), server, tmp_path)
    assert done.returncode == 2
    assert f"{server.url} has no batch API (HTTP 404): run without --batch" in done.stderr
