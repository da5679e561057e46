"""One process of `p4r serve --workers`; `processes` starts it.

Standard input brings settings and sockets. It is closed when the starting process ends, and then
this one ends too.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
import time

from p4r_qdrant.schemas.operations import EncoderState
from p4r_qdrant.service import logs
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.run import answer
from p4r_qdrant.settings import Settings

LOOK_S = 0.05
"""How often it is looked whether this process is ready."""


def main() -> None:
    """Answer requests until SIGTERM."""
    given: tuple[Settings, int, int] = pickle.load(sys.stdin.buffer)  # noqa: S301 - of `processes`
    settings, handle, told = given
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of a terminal that closes: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logs.configure()
    backend = Backend(settings)
    threading.Thread(target=_tell_when_ready, args=(backend, told), daemon=True).start()
    with socket.socket(fileno=handle) as listening:
        try:
            backend.open()
            answer(backend, listening)
        finally:
            backend.close()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _tell_when_ready(backend: Backend, told: int) -> None:
    """Ready: the index is open, and the encoder loaded or known to be missing."""
    while not backend.is_open or backend.encoder_state == EncoderState.LOADING:
        time.sleep(LOOK_S)
    os.write(told, b".")
    os.close(told)


if __name__ == "__main__":
    main()
