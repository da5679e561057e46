"""A real Qdrant for the tests, and a report of the tests that did not run."""

import contextlib
import fcntl
import functools
import gc
import importlib
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from devtools.qdrant_process import PrivateQdrant, QdrantServer
from tests.support import campaign, warm
from tests.support.not_run import NOT_RUN, TO_RUN_THEM, not_run
from tests.support.paths import ROOT
from tests.support.private_qdrant import private_servers

# One thread for each worker. torch, numpy and tokenizers read this when they are imported.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Each of thousands of HTTP clients would read certifi's certificates anew, which takes 20 ms.
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]

# Tests sync thousands of small files: in memory, if there is room, that takes no time.
MEMORY = Path("/dev/shm")
ROOM = 8 << 30
if "TMPDIR" not in os.environ and MEMORY.exists() and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

COMPOSE_FILES = [
    str(ROOT / "docker" / "compose.yaml"),
    str(ROOT / "tests" / "support" / "compose.memory.yaml"),
]

# A busy machine makes every example slow; benchmarks/ measures time.
settings.register_profile("p4r", deadline=None)
settings.load_profile("p4r")


# --- the run and its workers -------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What all worker processes of one test run share."""

    folder: Path
    api_key: str

    @property
    def take_down(self) -> Path:
        """Holds the command that takes the compose project down; exists once one was brought up."""
        return self.folder / "take-down"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one worker at a time is in here."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


RUN = pytest.StashKey[Run]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts a background job with these signals ignored, and a process that a test starts
    # would inherit that: it could not be interrupted.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    given = getattr(config, "workerinput", None)
    config.stash[RUN] = (
        Run(Path(given["p4r_folder"]), given["p4r_api_key"])
        if given
        else Run(Path(tempfile.mkdtemp(prefix="p4r-test-")), secrets.token_hex(16))
    )

    owner = int(given["p4r_pid"]) if given else os.getpid()
    warm.Shared.folder, warm.Shared.owner = config.stash[RUN].folder, owner


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """pytest-xdist: fork the workers from the process that has imported the slow libraries."""
    python = config.stash[RUN].folder / "python"
    warm.install(python)
    for spec in specs:
        spec.python = f"/bin/sh {python}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist: tell a worker what it shares with the others."""
    run = node.config.stash[RUN]
    node.workerinput |= {
        "p4r_folder": str(run.folder),
        "p4r_api_key": run.api_key,
        "p4r_pid": os.getpid(),
    }


def pytest_collection(session: pytest.Session) -> None:
    """A worker imports its share of the test modules first, which rewrites their assertions.

    Then it collects all: the other workers have written their shares by then.
    """
    given = getattr(session.config, "workerinput", None)
    if not given or sys.dont_write_bytecode:
        return
    folder = Path(__file__).parent
    own = slice(int(given["workerid"].removeprefix("gw")), None, given["workercount"])
    for path in sorted(folder.rglob("test_*.py"))[own]:
        # The collection tells what is wrong with a module, or why it is skipped.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def pytest_collection_finish() -> None:
    gc.freeze()  # thousands of tests need not be looked through for garbage again and again


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or RUN not in config.stash:
        return
    run = config.stash[RUN]
    if run.take_down.exists():
        subprocess.run(
            run.take_down.read_text(),
            shell=True,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    shutil.rmtree(run.folder)


# --- the server -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def qdrant_server(request: pytest.FixtureRequest) -> QdrantServer:
    """The server that all integration tests of all workers share.

    P4R_TEST_QDRANT_URL (with P4R_TEST_QDRANT_GRPC_PORT, default 6334, and
    P4R_TEST_QDRANT_API_KEY) names a running server. Without it, the first test that needs a server
    starts docker/compose.yaml on free ports; the end of the run removes it with its data.
    P4R_TEST_NO_DOCKER=1 does without Docker.
    """
    if url := os.environ.get("P4R_TEST_QDRANT_URL"):
        server = QdrantServer(
            url.rstrip("/"),
            int(os.environ.get("P4R_TEST_QDRANT_GRPC_PORT") or 6334),
            os.environ.get("P4R_TEST_QDRANT_API_KEY") or None,
        )
        if not server.is_ready():
            pytest.fail(f"P4R_TEST_QDRANT_URL names {url}, but no Qdrant is ready there")
        return server

    run = request.config.stash[RUN]
    with run.locked():
        services = request.getfixturevalue("docker_services")
    server = QdrantServer(
        f"http://127.0.0.1:{services.port_for('qdrant', 6333)}",
        services.port_for("qdrant", 6334),
        run.api_key,
    )
    try:
        services.wait_until_responsive(server.is_ready, timeout=60, pause=0.1)
    except Exception as error:
        logs = services._docker_compose.execute("logs --tail 50").decode(errors="replace")
        raise RuntimeError(f"Qdrant did not become ready at {server.url}:\n{logs}") from error
    return server


@pytest.fixture
def collection_name(qdrant_server: QdrantServer) -> Iterator[str]:
    """A name no other test uses; collections that begin with it are deleted afterwards."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    collections = qdrant_server.request("GET", "/collections")["result"]["collections"]
    for found in (collection["name"] for collection in collections):
        if found.startswith(name):
            qdrant_server.request("DELETE", f"/collections/{found}?timeout=60", timeout=70)


@pytest.fixture
def private_qdrant(tmp_path: Path) -> Iterator[PrivateQdrant]:
    """A server that is not started yet: call `start`. It is killed after the test."""
    with private_servers(tmp_path, 1) as (server,):
        yield server


# --- settings of pytest-docker -----------------------------------------------------------------


@pytest.fixture(scope="session")
def docker_compose_command(pytestconfig: pytest.Config) -> str:
    """The compose command that works here, with the variables that docker/compose.yaml reads.

    The variables are set for the command only: the code under test would read them as settings.
    Port 0 lets Docker choose a free one.
    """
    if os.environ.get("P4R_TEST_NO_DOCKER"):
        not_run("P4R_TEST_NO_DOCKER is set")
    if not _succeeds("docker version"):
        not_run("no Docker engine answers `docker version`")
    command = next(filter(_compose_works, ("docker compose", "docker-compose")), None)
    if command is None:
        not_run("neither `docker compose` nor `docker-compose` works")
    return (
        f"env P4R_QDRANT__API_KEY={pytestconfig.stash[RUN].api_key} QDRANT_HTTP_PORT=0 "
        f"P4R_QDRANT__GRPC_PORT=0 QDRANT_RESTART=no {command}"
    )


@pytest.fixture(scope="session")
def docker_compose_file() -> list[str]:
    return COMPOSE_FILES


@pytest.fixture(scope="session")
def docker_compose_project_name(pytestconfig: pytest.Config) -> str:
    return pytestconfig.stash[RUN].folder.name.lower()


@pytest.fixture(scope="session")
def docker_setup(
    pytestconfig: pytest.Config,
    docker_compose_command: str,
    docker_compose_file: list[str],
    docker_compose_project_name: str,
) -> str:
    """Bring the services up; where they are up already, this changes nothing.

    The command that takes them down is written first: it also cleans up after an `up` that fails.
    """
    files = " ".join(f'-f "{file}"' for file in docker_compose_file)
    pytestconfig.stash[RUN].take_down.write_text(
        f"{docker_compose_command} {files} -p {docker_compose_project_name} "
        "down --volumes --remove-orphans"
    )
    return "up -d"


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return []  # pytest_unconfigure takes the services down when all workers have ended


def _compose_works(command: str) -> bool:
    return _succeeds(f"{command} version")


def _succeeds(command: str) -> bool:
    try:
        ended = subprocess.run(
            command.split(), check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


# --- the tests that did not run ---------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent / "integration"
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if folder in item.path.parents or {"qdrant_server", "private_qdrant"} & set(fixtures):
            item.add_marker("integration")
    if hasattr(config, "workerinput"):  # long files first: no worker waits long for the last one
        order = ["end_to_end", "chaos", "integration", "unit"]
        items.sort(key=lambda item: min(map(order.index, {*item.path.parts} & {*order}), default=9))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _in_ci() and session.exitstatus == pytest.ExitCode.OK and _tests_not_run(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost, hence last
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Iterator[None]:
    yield
    campaign.print_table(terminalreporter)
    tests = _tests_not_run(config)
    if not tests:
        return
    colour = {"red" if _in_ci() else "yellow": True, "bold": True}
    count = sum(map(len, tests.values()))
    terminalreporter.section(f"{count} TESTS DID NOT RUN", sep="!", **colour)
    for (want, reason), names in tests.items():
        terminalreporter.line(f"For want of {want}, because {reason}:")
        for name in names:
            terminalreporter.line(f"    {name}")
    for want in dict.fromkeys(want for want, _ in tests):
        terminalreporter.line(f"To run them: {TO_RUN_THEM[want]}")
    if _in_ci():
        terminalreporter.line("CI is set, so this run has FAILED.", **colour)
    terminalreporter.write_sep("!", None, **colour)


def _tests_not_run(config: pytest.Config) -> dict[tuple[str, str], list[str]]:
    """The ids of the tests skipped by `not_run`, by what they need and the reason."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found: dict[tuple[str, str], list[str]] = {}
    for report in reporter.stats.get("skipped", ()) if reporter else ():
        if isinstance(report.longrepr, tuple) and (told := NOT_RUN.search(report.longrepr[2])):
            found.setdefault((told[1], told[2]), []).append(report.nodeid)
    return found


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}
