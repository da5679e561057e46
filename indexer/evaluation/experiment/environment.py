"""On what an experiment ran."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "p4r-qdrant",
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "sentence-transformers",
    "peft",
    "qdrant-client",
    "qdrant-edge-py",
    "implicit",
    "torch-geometric",
)


def environment() -> dict[str, Any]:
    """Versions, machine and git revision."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "git": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The checkout's commit, `+` where something is not committed; None in an installed wheel."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        asked = [
            subprocess.run(  # noqa: S603 - fixed arguments
                ["git", "-C", str(root), *arguments],  # noqa: S607 - whatever git there is
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return asked[0] + ("+" if asked[1] else "")
