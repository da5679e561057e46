"""One writer at a time, agreed on through a text that all of them can read and write.

The holder writes its name and a number, and changes the number every few seconds. Another process
that finds a name waits. If the number changes, the holder is alive and the lease is refused; if
not, the holder was killed. No clocks are compared, and process ids only on the same machine. If two
processes hold the lease because they were suspended, the one that was overwritten fails.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from p4r_qdrant.errors import IndexLockedError, P4RError
from p4r_qdrant.index.processes import is_running, space

BEAT_S = 3.0
"""How often a holder changes its number."""
DEAD_AFTER_S = 20.0
"""How long the number may stay the same before the holder counts as dead."""
SETTLE_S = 0.3
"""Wait before reading back which of two simultaneous writers holds the lease."""


@contextmanager
def held(read: Callable[[], str], write: Callable[[str], None], what: str) -> Iterator[None]:
    """Context manager that holds the lease. what: the name of the leased thing, for people.

    Raises IndexLockedError if another process holds the lease, at the end if one took it over.
    """
    _wait_for_nobody(read, what)
    name = f"{socket.gethostname()} {os.getpid()} {space() or '-'} {secrets.token_hex(4)}"
    write(f"{name} 0")
    time.sleep(SETTLE_S)
    if not read().startswith(name):
        raise _locked(what, read())
    over = threading.Event()

    def beat() -> None:
        number = 0
        while not over.wait(BEAT_S):
            number += 1
            with suppress(P4RError):  # the next change makes up for a missed one
                if not _taken_over(read(), name):
                    write(f"{name} {number}")

    thread = threading.Thread(target=beat, name="p4r-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        after = ""
        with suppress(P4RError):
            after = read()
            if not _taken_over(after, name):
                write("")
    if _taken_over(after, name):
        raise _locked(what, after)


def _taken_over(seen: str, name: str) -> bool:
    return bool(seen) and not seen.startswith(name)


def _wait_for_nobody(read: Callable[[], str], what: str) -> None:
    first = read()
    if not first or _is_dead(first):
        return
    deadline = time.monotonic() + DEAD_AFTER_S
    while time.monotonic() < deadline:
        time.sleep(BEAT_S / 10)
        seen = read()
        if not seen:
            return
        if seen != first:
            raise _locked(what, seen)


def _is_dead(holder: str) -> bool:
    """Whether the holder was a process of this machine that no longer exists."""
    _, pid, where, *_ = *holder.split(), "", "", ""
    return where == space() != "" and pid.isdecimal() and not is_running(int(pid))


def _locked(what: str, holder: str) -> IndexLockedError:
    host, pid, *_ = *holder.split(), "", ""
    return IndexLockedError(
        f"{what} is being written by another publish (process {pid} on {host}); wait for that one"
    )
