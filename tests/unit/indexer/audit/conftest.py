"""Audits of catalogues that are given as dictionaries."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.audit.figures import Audit
from indexer.audit.run import audit
from tests.support.auditing import Files
from tests.support.jsonl import write
from tests.support.word_encoder import WordEncoder


@pytest.fixture
def audited(tmp_path: Path) -> Callable[..., Audit]:
    def of(files: Files, encoder: WordEncoder | None = None, **more: Any) -> Audit:
        for old in tmp_path.glob("*.jsonl"):
            old.unlink()
        for name, rows in files.items():
            write(tmp_path, f"{name}.jsonl", rows)
        load = None if encoder is None else lambda: encoder
        return audit(ArtifactFolder(tmp_path), load, Refusals(), **more)

    return of
