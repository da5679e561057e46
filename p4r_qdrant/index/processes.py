"""Whether a process of this machine is still there."""

from __future__ import annotations

import os


def is_running(pid: int) -> bool:
    """Whether there is such a process; True where that cannot be told."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
