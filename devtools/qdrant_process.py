"""A Qdrant server, and a private Qdrant process, for tests and benchmarks."""

import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FETCHED_BINARY = Path(__file__).parents[1] / "docker" / ".cache" / "qdrant"


def binary() -> Path | None:
    """The server's binary: P4R_TEST_QDRANT_BINARY, or what docker/fetch-qdrant.sh has fetched."""
    path = Path(os.environ.get("P4R_TEST_QDRANT_BINARY") or FETCHED_BINARY).absolute()
    return path if os.access(path, os.X_OK) else None


@dataclass(frozen=True)
class QdrantServer:
    """A running server: `url` is REST, gRPC listens on the same host."""

    url: str
    grpc_port: int
    api_key: str | None = field(repr=False)

    def request(self, method: str, path: str, body: object = None, timeout: float = 10) -> Any:
        """Send one REST request and return the decoded answer."""
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["api-key"] = self.api_key
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        # A proxy named in the environment is not for servers on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout) as response:
            text = response.read().decode()
        return json.loads(text) if text.startswith("{") else text

    def is_ready(self) -> bool:
        try:
            self.request("GET", "/readyz", timeout=2)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False
        return True


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

    @property
    def pid(self) -> int:
        """The number of the process. Raises RuntimeError if it does not run."""
        if self._process is None:
            raise RuntimeError("this server is not running")
        return self._process.pid

    def start(self, timeout: float = 60) -> None:
        """Start the process and wait until it is ready."""
        if self._process is not None:
            raise RuntimeError("this server is running already")
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
        """Terminate the process (SIGTERM); it may flush first. One that hangs is killed."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """Stop the process (SIGSTOP): it answers nobody, as behind a broken network."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process (SIGKILL), as the OOM killer does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def start_cluster(
    nodes: list[PrivateQdrant], reached_at: Callable[[int], int] = lambda port: port
) -> None:
    """Start servers as the nodes of one cluster, with one key, and wait until all know all.

    reached_at: a node's own port -> the port by which the other nodes reach it.
    """
    ports = free_ports(len(nodes))
    reached = [reached_at(port) for port in ports]
    for number, (node, port) in enumerate(zip(nodes, ports, strict=True)):
        node.api_key = nodes[0].api_key
        node.environment |= {
            "QDRANT__SERVICE__API_KEY": node.api_key,
            "QDRANT__CLUSTER__ENABLED": "true",
            "QDRANT__CLUSTER__P2P__PORT": str(port),
            "QDRANT_URI": f"http://127.0.0.1:{reached[number]}",
        }
        if number:
            node.environment["QDRANT_BOOTSTRAP"] = f"http://127.0.0.1:{reached[0]}"
        node.start()
    while any(len(_peers(node)) < len(nodes) for node in nodes):
        time.sleep(0.05)


def _peers(node: PrivateQdrant) -> list[str]:
    return list(node.server.request("GET", "/cluster")["result"]["peers"])


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
