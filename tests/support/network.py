"""A network between this machine and a server that can be cut: a TCP proxy on a free port."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Link:
    """Forwards connections to a port of this machine.

    While it is cut, connections are accepted and stay open, and no byte passes in either direction.
    Once it is mended, what was sent meanwhile arrives, as TCP delivers it; or the connections are
    reset, and what was sent is lost.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._whole = threading.Event()
        self._whole.set()
        self._only: int | None = None
        self._lock = threading.Lock()
        self._open = set[socket.socket]()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut(self, only: int | None = None) -> None:
        """Cut it, or only the connections that the process `only` has opened (Linux)."""
        self._only = only
        self._whole.clear()

    def mend(self, *, reset: bool = False) -> None:
        if reset:
            self._close_all()
        self._whole.set()

    def close(self) -> None:
        self._listener.close()
        self._close_all()
        self._whole.set()

    def _close_all(self) -> None:
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, (_, port) = self._listener.accept()
                threading.Thread(target=self._connect, args=(caller, port), daemon=True).start()

    def _wait(self, port: int) -> None:
        """Wait while the connection from a local port is cut."""
        if not self._whole.is_set() and (self._only is None or port in ports_of(self._only)):
            self._whole.wait()

    def _connect(self, caller: socket.socket, port: int) -> None:
        self._wait(port)
        try:
            server = socket.create_connection(self._target)
        except OSError:
            caller.close()
            return
        with self._lock:
            self._open |= {caller, server}
        threads = [
            threading.Thread(target=self._forward, args=(*pair, port), daemon=True)
            for pair in ((caller, server), (server, caller))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._lock:
            self._open -= {caller, server}
        caller.close()
        server.close()

    def _forward(self, source: socket.socket, target: socket.socket, port: int) -> None:
        with suppress(OSError):
            while part := source.recv(1 << 16):
                self._wait(port)
                target.sendall(part)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def ports_of(process: int) -> set[int]:
    """The local TCP ports (IPv4) of a process. Linux only."""
    sockets = set[str]()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):
            sockets.add(str(descriptor.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if f"socket:[{row[9]}]" in sockets}


@contextmanager
def links(*ports: int) -> Iterator[list[Link]]:
    """A link to each port."""
    made = [Link(port) for port in ports]
    try:
        yield made
    finally:
        for one in made:
            one.close()
