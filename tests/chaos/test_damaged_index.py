"""Damaged folders of an embedded index: a right answer, or one sentence."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import warm
from tests.support.campaign import Campaign
from tests.support.damage import damage
from tests.support.damaged_index import make
from tests.support.paths import ROOT

DAMAGES = 30
BAD = re.compile(r"Traceback|object at 0x|panicked|Kind\(")


def test_a_right_answer_or_one_sentence(campaign: Campaign, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "damaged"
    make(whole)
    files = sorted(
        path.relative_to(whole)
        for path in whole.rglob("*")
        if path.is_file() and path.stat().st_size
    )
    scenario = campaign("embedded index: a file is damaged", "opening and asking")
    with warm.Popen(
        [sys.executable, "-W", "error", "-m", "tests.support.damaged_index"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for attempt in scenario.attempts(DAMAGES):
            subprocess.run(["cp", "-r", "--sparse=always", whole, folder], check=True)
            done = damage(folder / attempt.random.choice(files), attempt.random)
            with attempt, attempt.timed():
                process.stdin.write(f"{folder}\n")
                process.stdin.flush()
                answer = process.stdout.readline().rstrip("\n")
                assert answer == "right" or answer.startswith("sentence: "), f"{done}: {answer}"
                assert not BAD.search(answer), f"{done}: {answer}"
            shutil.rmtree(folder)
        process.stdin.close()
