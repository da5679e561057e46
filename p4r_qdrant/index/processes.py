"""Whether a process of this machine is still there."""

from __future__ import annotations

import os
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def is_running(pid: int) -> bool:
    """Whether a process exists; True if this cannot be found out."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def space() -> str:
    """Where process ids mean the same as here: a run of a kernel, and a container on it.

    "" if this cannot be found out.
    """
    try:
        return f"{_BOOT.read_text().strip()}/{_NAMESPACE.stat().st_ino}"
    except OSError:
        return ""
