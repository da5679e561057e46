"""A Qdrant process of one's own, for tests that kill, restart or starve the server."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p4r_qdrant import PersonaIndex, Settings
from tests.conftest import QdrantServer, not_run
from tests.engines import embedded, on_server, opened

FETCHED_BINARY = Path(__file__).parents[2] / "docker" / ".cache" / "qdrant"


class PrivateQdrant:
    """One server process on free loopback ports; it keeps ports, key and data when restarted.

    `storage` and `environment` (QDRANT__... settings) may be changed before `start`.
    """

    def __init__(self, binary: Path, folder: Path) -> None:
        http_port, self.grpc_port = free_ports(2)
        self.url = f"http://127.0.0.1:{http_port}"
        self.api_key = secrets.token_hex(16)
        self.storage = folder / "storage"
        self.log = folder / "qdrant.log"
        self.environment = {
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(http_port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.grpc_port),
            "QDRANT__SERVICE__API_KEY": self.api_key,
            "QDRANT__TELEMETRY_DISABLED": "true",
        }
        self._binary = binary
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> QdrantServer:
        return QdrantServer(self.url, self.grpc_port, self.api_key)

    def start(self, timeout: float = 60) -> None:
        """Start the process and wait until it is ready."""
        if self._process is not None:
            raise RuntimeError("this server runs already")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("QDRANT_")}
        paths = {
            "QDRANT__STORAGE__STORAGE_PATH": str(self.storage),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self.storage.parent / "snapshots"),
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary],
                cwd=self._folder,
                env=inherited | paths | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + timeout
        while not self.server.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = self.log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"Qdrant did not become ready at {self.url}:\n{tail}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the process as an operator would; it may flush first."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End the process at once, as a crash or the kernel's OOM killer would (kill -9)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def private_servers(folder: Path, count: int) -> Iterator[list[PrivateQdrant]]:
    """Servers that are not running yet; they are ended at the end.

    The binary is P4R_TEST_QDRANT_BINARY, or what docker/fetch-qdrant.sh has fetched.
    """
    binary = Path(os.environ.get("P4R_TEST_QDRANT_BINARY") or FETCHED_BINARY).absolute()
    if not os.access(binary, os.X_OK):
        not_run("there is no Qdrant binary (P4R_TEST_QDRANT_BINARY or docker/.cache/qdrant)")
    servers = []
    for number in range(count):
        own = folder / f"qdrant-{number}"
        own.mkdir()
        servers.append(PrivateQdrant(binary, own))
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


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


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
