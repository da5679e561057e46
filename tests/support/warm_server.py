"""Forks Python commands from one process that has imported this project and the slow libraries.

    python -P tests/support/warm_server.py SOCKET OWNER_PID

tests/support/warm.py starts it and speaks to it. It ends when the process OWNER_PID does.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import certifi

ROOT = Path(__file__).parents[2]
PACKAGES = ("p4r_qdrant", "indexer")

SLOW = (
    "accelerate",
    "fastapi",
    "grpc",
    "httpx",
    "jinja2",
    "jsonschema",
    "langchain_core.runnables",
    "llama_index.core",
    "numpy",
    "openai",
    "peft",
    "prometheus_client",
    "pyarrow.parquet",
    "pydantic_settings",
    "qdrant_client",
    "qdrant_edge",
    "rich.console",
    "sentence_transformers",
    "tenacity",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.trainer",
    "typer",
    "uvicorn",
)


def import_all() -> None:
    """Import the slow libraries and every module of the project, which takes most of a command."""
    sys.path.insert(0, str(ROOT))
    for name in (*SLOW, *own_modules()):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.path.remove(str(ROOT))


def own_modules() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] != "__main__":
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def serve(listener: socket.socket, owner: int) -> dict[str, Any]:
    """Fork a process for each request; return in each of these processes, with its request."""
    running: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while True:
        ready = [key.fileobj for key, _ in selector.select(timeout=2)]
        if woken in ready:
            woken.recv(4096)
            report_ended(running)
        if listener in ready:
            connection, _ = listener.accept()
            request, files = received(connection)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                for one in (listener, woken, wake, connection, *running.values()):
                    one.close()
                return request | {"files": files}
            for file in files:
                os.close(file)
            running[pid] = connection
            connection.sendall(f"{pid}\n".encode())
        if not alive(owner):
            os._exit(0)


def received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text, files, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while more := connection.recv(1 << 16):
        text += more
    return json.loads(text), files


def report_ended(running: dict[int, socket.socket]) -> None:
    """Tell whoever asked for a process how it ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as connection, contextlib.suppress(OSError):
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def become(request: dict[str, Any]) -> None:
    """Run what `python OPTIONS` would, and end.

    An uncaught error ends the process as it ends any other.
    """
    try:
        execute(request)
    except SystemExit as leaving:
        if not isinstance(leaving.code, int | None):
            print(leaving.code, file=sys.stderr)  # noqa: T201
            leaving.code = 1
        end(leaving.code or 0)
    end(0)


def end(code: int) -> None:
    """End as the interpreter does, but for the destruction of every module.

    That takes twenty times as long as all else: pages that are shared with the server are copied.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # what nobody has closed is told
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python tells of it
    os._exit(code)


def execute(request: dict[str, Any]) -> None:
    if request["session"]:
        os.setsid()
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # Those of the server believe that they can seek, as /dev/null can.
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    text: dict[str, Any] = {"encoding": encoding or "utf-8", "closefd": False}
    sys.stdin = os.fdopen(0, **text, errors=errors or None)
    sys.stdout = os.fdopen(1, "w", **text, errors=errors or None)
    sys.stderr = os.fdopen(2, "w", **text, errors="backslashreplace", buffering=1)
    options = request["options"]
    if options[0] == "-u":  # of pytest-xdist, which flushes what it writes
        options = options[1:]
    if options[0] == "-W":
        warnings.resetwarnings()
        warnings.simplefilter(options[1])
        sys.warnoptions[:] = [options[1]]
        options = options[2:]
    kind, what, *arguments = options
    searched = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = ["" if kind == "-c" else str(Path.cwd()), *searched]
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    # Reading the certificates of certifi takes 20 ms, in each process.
    ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]
    ssl.create_default_context(cafile=certifi.where())
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen(64)
        import_all()
        gc.freeze()
        command = serve(listening, int(sys.argv[2]))
    become(command)
