"""`p4r` without a model, which dies by SIGKILL at a moment of its work:

    python -m tests.support.mortal_p4r ARGUMENTS

MORTAL_DIES="N SECONDS": it dies so many seconds after its N-th step. A step is a change of a file,
a sync, a call of Qdrant or of the LLM. MORTAL_STEPS=FILE: a process that ends by itself writes
there how many steps it took. MORTAL_ENCODER: another text is another encoder.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from indexer.cli import main
from p4r_qdrant.encoder.local import PersonaEncoder
from p4r_qdrant.index.server.connection import Connection
from tests.support.hash_encoder import HashEncoder

CHANGES = {"os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "sqlite3.connect"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts steps; ends the process at one of them."""

    def __init__(self, dies: tuple[int, float] | None) -> None:
        self.count = 0
        self._dies = dies

    def take(self) -> None:
        self.count += 1
        if self._dies is not None and self.count == self._dies[0]:
            if not self._dies[1]:
                _die()
            timer = threading.Timer(self._dies[1], _die)
            timer.daemon = True
            timer.start()

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """What Python tells of files."""
        opened = event == "open" and isinstance(args[2], int) and args[2] & WRITING
        if (opened or event in CHANGES) and not str(args[0]).startswith(("/dev/null", "/proc/")):
            self.take()

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.take()
            return function(*args, **more)

        return call


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    number, _, seconds = os.environ.pop("MORTAL_DIES", "").partition(" ")
    report = os.environ.pop("MORTAL_STEPS", "")
    salt = os.environ.pop("MORTAL_ENCODER", "")
    steps = Steps((int(number), float(seconds)) if number else None)
    if report:
        atexit.register(lambda: Path(report).write_text(str(steps.count)))
    if "P4R_ENCODER__MODEL" not in os.environ:
        PersonaEncoder.from_settings = lambda _: HashEncoder(salt=salt)  # type: ignore[method-assign, assignment, return-value]
    for owner, name in (
        (os, "fsync"),
        (os, "write"),
        (Connection, "call"),
        (httpx.AsyncClient, "send"),
    ):
        setattr(owner, name, steps.counted(getattr(owner, name)))
    sys.addaudithook(steps.audit)
    main()
