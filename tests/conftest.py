"""A real Qdrant for the tests, and an honest account of what did not run for want of something."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.not_run import NOT_RUN, TO_RUN_THEM, not_run
from tests.support.qdrant_process import QdrantServer

COMPOSE_FILE = Path(__file__).parents[1] / "docker" / "compose.yaml"

# On a busy machine an example takes as long as it takes; time is measured in benchmarks/.
settings.register_profile("p4r", deadline=None)
settings.load_profile("p4r")


# --- the server -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def qdrant_server(request: pytest.FixtureRequest) -> QdrantServer:
    """The server all integration tests share.

    P4R_TEST_QDRANT_URL (with P4R_TEST_QDRANT_GRPC_PORT, default 6334, and
    P4R_TEST_QDRANT_API_KEY) names one that runs already. Otherwise docker/compose.yaml is brought
    up on free ports and taken down, with its data, at the end. P4R_TEST_NO_DOCKER=1 is as good as
    having no Docker.
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

    services = request.getfixturevalue("docker_services")
    server = QdrantServer(
        f"http://127.0.0.1:{services.port_for('qdrant', 6333)}",
        services.port_for("qdrant", 6334),
        request.getfixturevalue("compose_api_key"),
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


# --- what pytest-docker is told ---------------------------------------------------------------


@pytest.fixture(scope="session")
def compose_api_key() -> str:
    return secrets.token_hex(16)


@pytest.fixture(scope="session")
def docker_compose_command(compose_api_key: str) -> str:
    """The compose command that works here, with the variables docker/compose.yaml reads.

    They are set for the command only, lest the code under test read them as its own settings.
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
        f"env P4R_QDRANT__API_KEY={compose_api_key} QDRANT_HTTP_PORT=0 "
        f"P4R_QDRANT__GRPC_PORT=0 QDRANT_RESTART=no {command}"
    )


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(COMPOSE_FILE)


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return f"p4r-test-{os.getpid()}"


@pytest.fixture(scope="session")
def docker_setup(
    docker_compose_command: str, docker_compose_file: str, docker_compose_project_name: str
) -> Iterator[str]:
    """Bring the services up; whatever came of it, take them down with their data.

    pytest-docker itself would not clean up after an `up` that fails half way.
    """
    yield "up -d"
    subprocess.run(
        f'{docker_compose_command} -f "{docker_compose_file}" -p {docker_compose_project_name} '
        "down --volumes --remove-orphans",
        shell=True,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return []  # done by docker_setup


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent / "integration"
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if folder in item.path.parents or {"qdrant_server", "private_qdrant"} & set(fixtures):
            item.add_marker("integration")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _in_ci() and session.exitstatus == pytest.ExitCode.OK and _tests_not_run(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost, hence last
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Iterator[None]:
    yield
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
