"""`p4r serve` in a process, and requests to it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from p4r_qdrant import Settings
from tests.support import warm
from tests.support.paths import ROOT
from tests.support.polling import wait_until
from tests.support.serving import ADMIN, AS_READER, CATALOGUE

P4R_WITHOUT_MODEL = [sys.executable, "-m", "tests.support.cli_without_model"]


@contextmanager
def served(
    folder: Path, *options: str, command: str = "serve", **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """`p4r serve` (or another command), killed at the end."""
    process = warm.Popen(
        [*P4R_WITHOUT_MODEL, command, *options],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings of an index as variables for a process of its own."""
    own = settings.qdrant
    values = {
        "P4R_QDRANT__URL": own.url,
        "P4R_QDRANT__GRPC_PORT": own.grpc_port,
        "P4R_QDRANT__API_KEY": own.api_key.get_secret_value() if own.api_key else None,
        "P4R_QDRANT__COLLECTION": own.collection,
        "P4R_QDRANT__PATH": own.path,
        "P4R_SERVICE__ADMIN_KEY": ADMIN,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        told = json.loads(line)
        if "address" in told:
            return str(told["address"])
    raise AssertionError("it never listened")


def wait_until_ready(address: str) -> None:
    wait_until(lambda: httpx2.get(f"{address}/readyz", timeout=30).status_code == 200)


def rerank(address: str, **user: Any) -> Any:
    body = {"users": [{"candidates": list(CATALOGUE), **user}]}
    answer = httpx2.post(f"{address}/v1/rerank", json=body, headers=AS_READER, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["rankings"][0]
