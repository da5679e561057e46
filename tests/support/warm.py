"""Processes as subprocess starts them, with the project and slow libraries imported already.

A new interpreter takes six seconds of work to import torch and transformers. These processes are
forked from one that has done so (tests/support/warm_server.py). All else is their own: process id,
signals, files, environment, exit code. Tests of imports, of missing packages and of locales need a
new interpreter: they use subprocess.
"""

import fcntl
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT
from tests.support.polling import wait_until

SERVER = ROOT / "tests" / "support" / "warm_server.py"


class Shared:
    """The server that all workers of one test run share; it is started when it is first needed."""

    folder: Path
    owner: int

    @classmethod
    def connection(cls) -> socket.socket:
        address = cls.folder / "warm"
        with (cls.folder / "warm.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not address.exists():
                cls._start(address)
        connection = socket.socket(socket.AF_UNIX)
        wait_until(lambda: not connection.connect_ex(str(address)))
        return connection

    @classmethod
    def _start(cls, address: Path) -> None:
        unwanted = ("PYTHONPATH", "PYTHONWARNINGS")
        environment = {name: one for name, one in os.environ.items() if name not in unwanted}
        # With pipes of whoever starts it, it would keep a reader of them waiting for their end.
        with (cls.folder / "warm.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-P", str(SERVER), str(address), str(cls.owner)],
                env=environment | {"HF_HUB_OFFLINE": "1"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ).returncode = 0  # it outlives this worker: not waited for
        wait_until(address.exists)


class Popen(subprocess.Popen[Any]):
    """subprocess.Popen for [sys.executable, "-W", "error", "-c" or "-m", ...], without waiting for
    imports."""

    _connection: socket.socket

    def _execute_child(self, args: Any, *more: Any) -> None:
        _, preexec_fn, _, _, cwd, env, _, _, _, *files, _, _, _, _, _, session, _ = more
        assert preexec_fn is None, "only a new interpreter can run it: use subprocess"
        child_in, _, _, child_out, _, child_err = files
        assert args[0] == sys.executable, args
        request = {
            "options": [os.fsdecode(one) for one in args[1:]],
            "cwd": os.fspath(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "session": session,
        }
        handles = [
            standard if file == -1 else file
            for standard, file in enumerate((child_in, child_out, child_err))
        ]
        self._connection = Shared.connection()
        text = json.dumps(request).encode()
        sent = socket.send_fds(self._connection, [text], handles)
        self._connection.sendall(text[sent:])
        self._connection.shutdown(socket.SHUT_WR)
        self.pid = int(self._line())
        self._child_created = True
        self._close_pipe_fds(*files)  # type: ignore[attr-defined]

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            received = self._connection.recv(1)
            assert received, "the server of warm processes has ended"
            line += received
        return line.decode()

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._take_returncode()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._take_returncode()
        return self.returncode

    def _take_returncode(self) -> None:
        self.returncode = int(self._line())
        self._connection.close()


def install_p4r(folder: Path) -> None:
    """Put a `p4r` for shell scripts into a folder."""
    install(folder / "p4r", "-c", "from indexer.cli import main; main()")


def install(path: Path, *options: str) -> None:
    """Write a program: Python with these options. SIGTERM ends it and what it has started."""
    program = [sys.executable, "-m", "tests.support.warm", str(Shared.folder), str(Shared.owner)]
    command = f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.join([*program, *options])}"
    path.write_text(f'#!/bin/sh\nGIVEN="$PYTHONPATH" exec env {command} "$@"\n')
    path.chmod(0o755)


def run(
    command: list[Any], *, check: bool = False, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """subprocess.run with the output captured, without waiting for imports."""
    with Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


if __name__ == "__main__":  # python -m tests.support.warm FOLDER OWNER ARGUMENTS-OF-PYTHON
    Shared.folder, Shared.owner = Path(sys.argv[1]), int(sys.argv[2])
    own = dict(os.environ)
    own["PYTHONPATH"] = own.pop("GIVEN")
    process = Popen([sys.executable, *sys.argv[3:]], env=own)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    sys.exit(process.wait())
