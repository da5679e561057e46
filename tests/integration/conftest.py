"""A private Qdrant process, an index on either engine, and a catalogue behind a service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.qdrant_process import PrivateQdrant
from p4r_qdrant import PersonaIndex, PersonaReranker, Settings
from p4r_qdrant.client import Client
from p4r_qdrant.index.server import purging
from tests.support.engines import embedded, on_server, opened
from tests.support.private_qdrant import QUICK


@pytest.fixture
def quick_qdrant(private_qdrant: PrivateQdrant, monkeypatch: pytest.MonkeyPatch) -> PrivateQdrant:
    """A server that flushes every second and has a small log, and a purge that asks often."""
    private_qdrant.environment |= QUICK
    monkeypatch.setattr(purging, "POLL_S", 0.1)
    private_qdrant.start()
    return private_qdrant


@pytest.fixture(params=["edge", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Settings, Path]:
    """Settings of an index on either engine, and the folder of all its files."""
    if request.param == "edge":
        folder = tmp_path / "embedded"
        folder.mkdir()
        return embedded(folder / "index"), folder
    server: PrivateQdrant = request.getfixturevalue("quick_qdrant")
    return on_server(server.server, "books"), server.storage


@pytest.fixture(params=["edge", "server"])
def index_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of an index that does not exist yet, on either engine."""
    if request.param == "edge":
        return embedded(tmp_path / "index")
    return on_server(
        request.getfixturevalue("qdrant_server"), request.getfixturevalue("collection_name")
    )


@pytest.fixture
def index(index_settings: Settings) -> Iterator[PersonaIndex]:
    """An empty index on either engine."""
    with opened(index_settings) as index:
        yield index


# --- one catalogue in two places, for the adapters ---------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PersonaReranker, str]]:
    """It reranked in this process, and the address of a service."""
    from tests.support.serving import in_both_places

    with in_both_places(tmp_path_factory.mktemp("places")) as places:
        yield places


@pytest.fixture
def here(places: tuple[PersonaReranker, str]) -> PersonaReranker:
    return places[0]


@pytest.fixture
def client(places: tuple[PersonaReranker, str]) -> Iterator[Client]:
    """The service knows eve, who has had the ships."""
    from tests.support.serving import ADMIN

    with Client(places[1], key=ADMIN) as client:
        client.interact("eve", "ships", 5)
        yield client


@pytest.fixture(params=["in process", "over http"])
def reranker(
    request: pytest.FixtureRequest, here: PersonaReranker, client: Client
) -> PersonaReranker | Client:
    return here if request.param == "in process" else client
