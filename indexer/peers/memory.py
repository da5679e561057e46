"""Resident memory of a process, and memory of a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def resident_bytes(pid: int | None = None) -> int | None:
    """The resident memory of a process, by default this one; None where the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    if pid is None and sys.platform != "win32":
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(most if sys.platform == "darwin" else most * 1024)
    return None


def device_bytes() -> int | None:
    """The most GPU memory that torch has held in this process, on all GPUs; None without a GPU."""
    torch = sys.modules.get("torch")  # who has not imported it has nothing on a GPU
    if torch is None or not torch.cuda.is_available():
        return None
    held = (torch.cuda.max_memory_allocated(one) for one in range(torch.cuda.device_count()))
    return sum(int(one) for one in held)
