"""Private Qdrant servers for a test, which is skipped where there is no binary."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools.qdrant_process import PrivateQdrant, binary
from tests.support.not_run import not_run


@contextmanager
def private_servers(folder: Path, count: int) -> Iterator[list[PrivateQdrant]]:
    """Servers that are not started yet; they are killed at the end.

    The binary is P4R_TEST_QDRANT_BINARY or the one that docker/fetch-qdrant.sh fetches.
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
