"""The versions, machine and git revision of an experiment."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from indexer.evaluation.versions import installed_versions

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
    """The record of the environment, as JSON."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": installed_versions(_PACKAGES),
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    """The commit of the checkout, with `+` if files are not committed; None in a wheel."""
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
