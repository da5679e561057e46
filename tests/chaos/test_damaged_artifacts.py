"""Damaged artifacts, ledgers and settings: what is broken is told, and never by a traceback."""

import gzip
import shutil
from pathlib import Path

import pytest

from p4r_qdrant.encoder.local import PersonaEncoder
from tests.support.campaign import Campaign
from tests.support.command_line import in_process
from tests.support.damage import damage
from tests.support.environment import clear_settings
from tests.support.erasable import bookshop_with_ledger
from tests.support.hash_encoder import HashEncoder

DAMAGES = 5
FOLDER = ("--artifacts", "books")
COMMANDS = [
    ("check", "books", "--reviews", "books/reviews.jsonl.gz"),
    ("stats", *FOLDER),
    ("audit", *FOLDER),
    ("rerank", *FOLDER, "--candidates", "books/candidates.jsonl", "--force", "--output", "out"),
    ("evaluate", "--candidates", "books/candidates.jsonl", "--truth", "books/splits.jsonl"),
    ("index", *FOLDER),
    ("erase", "maren-o", *FOLDER),
]


def make(folder: Path) -> None:
    bookshop_with_ledger(folder / "books")
    packed = gzip.compress((folder / "books" / "reviews.jsonl").read_bytes(), mtime=0)
    (folder / "books" / "reviews.jsonl.gz").write_bytes(packed)
    (folder / "p4r.toml").write_text("[history]\nlength = 5\n\n[rerank]\nexplain = 1\n")


def test_one_sentence_at_most(
    campaign: Campaign,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "damaged"
    whole.mkdir()
    make(whole)
    clear_settings(monkeypatch)
    monkeypatch.setattr(PersonaEncoder, "from_settings", lambda _: HashEncoder())
    files = sorted(
        path.relative_to(whole)
        for path in whole.rglob("*")
        if path.is_file() and path.stat().st_size
    )
    scenario = campaign("artifacts, ledger, settings: a file is damaged", "one command")
    for attempt in scenario.attempts(DAMAGES):
        shutil.copytree(whole, folder)
        monkeypatch.chdir(folder)
        done = damage(folder / attempt.random.choice(files), attempt.random)
        with attempt:
            for command in COMMANDS:
                with attempt.timed():
                    result = in_process(monkeypatch, capsys, command)
                said = f"{done}; {command[0]}: {result.err}"
                assert result.code in (0, 1, 2), said
                assert "Traceback" not in result.err + result.out, said
                lines = [line for line in result.err.splitlines() if line.startswith("p4r: ")]
                assert len(lines) <= 1, said
                is_told = lines or "refused" in result.err or command[0] == "check"
                assert result.code == 0 or is_told, said
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder)
