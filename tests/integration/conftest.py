"""A Qdrant process of one's own; and one catalogue in this process and behind a service."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p4r_qdrant import PersonaIndex, PersonaReranker, Settings
from p4r_qdrant.client import Client
from tests.conftest import not_run
from tests.support.engines import embedded, on_server, opened
from tests.support.qdrant_process import PrivateQdrant, binary


@contextmanager
def private_servers(folder: Path, count: int) -> Iterator[list[PrivateQdrant]]:
    """Servers that are not running yet; they are ended at the end.

    The binary is P4R_TEST_QDRANT_BINARY, or what docker/fetch-qdrant.sh has fetched.
    """
    path = binary()
    if path is None:
        not_run("there is no Qdrant binary (P4R_TEST_QDRANT_BINARY or docker/.cache/qdrant)")
    servers = []
    for number in range(count):
        own = folder / f"qdrant-{number}"
        own.mkdir()
        servers.append(PrivateQdrant(path, own))
    try:
        yield servers
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def private_qdrant(tmp_path: Path) -> Iterator[PrivateQdrant]:
    """A server that is not running yet: call `start`. It is ended after the test."""
    with private_servers(tmp_path, 1) as (server,):
        yield server


@pytest.fixture(params=["edge", "server"])
def index_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of an index that is not there yet, on either engine."""
    if request.param == "edge":
        return embedded(tmp_path / "index")
    return on_server(
        request.getfixturevalue("qdrant_server"), request.getfixturevalue("collection_name")
    )


@pytest.fixture
def index(index_settings: Settings) -> Iterator[PersonaIndex]:
    """An empty index on either engine."""
    with opened(index_settings) as index:
        yield index


class Disk:
    """A small disk of its own, to be filled to the last byte and freed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, leave: int = 0) -> None:
        """Leave no more than so many bytes free."""
        free = shutil.disk_usage(self.folder).free - leave
        with self._filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(1, free))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def full_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """Mount one; skips where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a disk that can be filled is mounted here, which only root may do")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# --- one catalogue in two places, for the adapters ---------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PersonaReranker, str]]:
    """It reranked in this process, and the address of a service."""
    from tests.support.serving import in_both_places

    with in_both_places(tmp_path_factory.mktemp("places")) as places:
        yield places


@pytest.fixture
def here(places: tuple[PersonaReranker, str]) -> PersonaReranker:
    return places[0]


@pytest.fixture
def client(places: tuple[PersonaReranker, str]) -> Iterator[Client]:
    """The service knows eve, who has had the ships."""
    from tests.support.serving import ADMIN

    with Client(places[1], key=ADMIN) as client:
        client.interact("eve", "ships", 5)
        yield client


@pytest.fixture(params=["in process", "over http"])
def reranker(
    request: pytest.FixtureRequest, here: PersonaReranker, client: Client
) -> PersonaReranker | Client:
    return here if request.param == "in process" else client
