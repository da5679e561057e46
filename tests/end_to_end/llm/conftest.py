"""A ledger."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger") as opened:
        yield opened
