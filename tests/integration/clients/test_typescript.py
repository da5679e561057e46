"""The TypeScript client: generated again, compiled, and run by Node against a service."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from devtools.typescript_client import CLIENT, TYPES, document, generate, install
from tests.support.engines import embedded
from tests.support.serving import ADMIN, make_app, make_index, running, with_service

OLDEST = 20
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ETIMEDOUT")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the client with its packages."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("needs Node and npm (on Debian: apt-get install npm)")
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=60)
    if int(said.stdout.removeprefix("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"needs Node {OLDEST} or newer, not {said.stdout.strip()}")
    folder = tmp_path_factory.mktemp("clients") / "typescript"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("npm_config_fetch_retries", "1")
        try:
            install(folder)
        except subprocess.TimeoutExpired:
            pytest.skip("needs npm's registry, which does not answer")
        except subprocess.CalledProcessError as error:
            if not any(code in error.stderr for code in UNREACHABLE):
                raise AssertionError(error.stderr) from None
            pytest.skip("needs npm's registry, which cannot be reached")
    return folder


def test_the_committed_types_are_what_the_generator_makes(client: Path) -> None:
    assert generate(client, document()) == (CLIENT / TYPES).read_text("utf-8"), "make typescript"


def test_the_client_under_node(client: Path, tmp_path: Path) -> None:
    settings = embedded(tmp_path / "index")
    make_index(settings)
    with running(make_app(with_service(settings))) as address:
        done = subprocess.run(
            ["npm", "test"],
            cwd=client,
            env=os.environ | {"P4R_URL": address, "P4R_KEY": ADMIN},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass 7\n" in done.stdout
