from collections.abc import Iterator
from typing import Any

import pytest

from indexer.artifacts.folder import ArtifactFolder
from indexer.artifacts.lines import Refusals
from indexer.peers.asking import PeerSources
from indexer.peers.material import Material
from indexer.peers.options import PeerOptions
from indexer.prompts import Domain
from p4r_qdrant.settings import LLMSettings
from tests.support.paths import BOOKSHOP
from tests.support.scripted_peers import Sources


@pytest.fixture(scope="module")
def material() -> Iterator[Material]:
    with Material(ArtifactFolder(BOOKSHOP), Refusals()) as found:
        yield found


@pytest.fixture
def sources(material: Material) -> Sources:
    def made(url: str = "http://localhost:1/v1", **options: Any) -> PeerSources:
        settings = LLMSettings(base_url=url, model="m", concurrency=4, retry_for_s=0.1)
        return PeerSources(Domain.load("books"), settings, PeerOptions(**options), material)

    return made
