"""Scenarios, whose rows are printed at the end of the run, and new indexes on both engines."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.campaign import ROW, Campaign, Scenario
from tests.support.engines import NewIndex
from tests.support.private_qdrant import private_servers


@pytest.fixture
def campaign(record_property: Callable[[str, object], None]) -> Iterator[Campaign]:
    """Makes scenarios; their rows are part of the test's report."""
    made: list[Scenario] = []

    def scenario(name: str, measured: str = "") -> Scenario:
        made.append(Scenario(name, measured))
        return made[-1]

    yield scenario
    for one in made:
        record_property(ROW, one.row)


@pytest.fixture(params=["embedded", "server"])
def new_index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewIndex]:
    if request.param == "embedded":
        yield NewIndex(tmp_path)
        return
    with private_servers(tmp_path, 1) as (server,):
        server.start()
        yield NewIndex(tmp_path, server.server)
