"""Settings in the environment."""

import os

import pytest


def clear_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset all P4R_ variables."""
    for name in os.environ:
        if name.upper().startswith("P4R_"):
            monkeypatch.delenv(name)
