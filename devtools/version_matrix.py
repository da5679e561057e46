"""The tests of the server engine with several versions of qdrant-client and of the Qdrant server.

    python -m devtools.version_matrix --clients 1.16.2 1.17.1 --servers docker/.cache/qdrant
    make versions CLIENTS="1.16.2 1.17.1" SERVERS="docker/.cache/qdrant /opt/qdrant-1.17.1/qdrant"

Each client is installed into a temporary folder that goes before the environment's own packages, so
nothing that is installed changes. A server is a binary. Prints a table; the exit code is 1 if a
pair of versions fails that is at most one minor version apart, as Qdrant promises for its clients.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from devtools.qdrant_process import PrivateQdrant

TESTS = (
    "tests/integration/index/test_congruence.py",
    "tests/integration/index/test_server.py",
    "tests/integration/users/test_users.py",
)
"""What is run unless other tests are named."""
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")

out = Console()


def installed(client: str, folder: Path) -> Path:
    """A folder with this version of qdrant-client alone. Raises CalledProcessError."""
    place = folder / f"client-{client}"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--target", place, f"qdrant-client=={client}"], check=True)
    return place


def version_of(server: Path) -> str:
    """The version that a binary says."""
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[-1]


def run(client: Path, server: Path, tests: list[str], folder: Path) -> tuple[bool, str]:
    """Whether the tests pass, and their counts."""
    environment = {name: one for name, one in os.environ.items() if not name.startswith("P4R_")}
    place = Path(tempfile.mkdtemp(dir=folder))
    process = PrivateQdrant(server.absolute(), place)
    environment |= {
        "P4R_TEST_QDRANT_BINARY": str(server.absolute()),
        "P4R_TEST_QDRANT_URL": process.url,
        "P4R_TEST_QDRANT_GRPC_PORT": str(process.grpc_port),
        "P4R_TEST_QDRANT_API_KEY": process.api_key,
    }
    path = [str(client), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    log = folder / f"{client.name}-{version_of(server)}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *tests]
    process.start()
    try:
        with log.open("w") as written:
            done = subprocess.run(command, env=environment, stdout=written, check=False)
    finally:
        process.kill()
    counts = ", ".join(f"{n} {what}" for n, what in _COUNT.findall(log.read_text()[-2000:]))
    return done.returncode == 0, counts or f"see {log}"


def is_promised(client: str, server: str) -> bool:
    """Whether the two are at most one minor version apart."""
    (one, minor), (other, other_minor) = (
        [int(part) for part in version.split(".")[:2]] for version in (client, server)
    )
    return one == other and abs(minor - other_minor) <= 1


def main() -> None:
    """Run each client against each server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", nargs="+", required=True, help="versions of qdrant-client")
    parser.add_argument("--servers", nargs="+", required=True, type=Path, help="binaries")
    parser.add_argument("--tests", nargs="+", default=list(TESTS))
    arguments = parser.parse_args()
    table = Table("client", "server", "promised", "tests")
    is_well = True
    folder = Path(tempfile.mkdtemp(prefix="p4r-versions-"))
    for client in arguments.clients:
        place = installed(client, folder)
        for server in arguments.servers:
            version = version_of(server)
            passed, counts = run(place, server, arguments.tests, folder)
            promised = is_promised(client, version)
            is_well = is_well and (passed or not promised)
            table.add_row(client, version, "yes" if promised else "no", counts)
    out.print(table, f"logs: {folder}")
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    main()
