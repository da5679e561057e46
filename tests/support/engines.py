"""Settings and openers for both engines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.qdrant_process import QdrantServer
from p4r_qdrant import PersonaIndex, Settings, open_index
from tests.support.oracle import DIMENSION

_TYPES = {
    **dict.fromkeys(("language", "tags", "shelf", "nobody", "no"), "keyword"),
    **dict.fromkeys(("sale", "even", "flags", "flags[0]", "flags[1]"), "bool"),
    **dict.fromkeys((f"offers[{which}].stock" for which in ("", 0, 1)), "bool"),
    **dict.fromkeys(("deep.inner", "deep.nothing"), "bool"),
    "stock": "integer",
    "n": "integer",
    "price": "float",
}
DECLARED = ",".join(f"{field}={kind}" for field, kind in _TYPES.items())
"""The fields that tests filter on."""


def embedded(path: Path, **index: Any) -> Settings:
    return Settings.load(qdrant={"path": path}, index={"fields": DECLARED} | index)


def on_server(server: QdrantServer, collection: str, **index: Any) -> Settings:
    return Settings.load(
        qdrant={
            "url": server.url,
            "grpc_port": server.grpc_port,
            "api_key": server.api_key,
            "collection": collection,
            "timeout_s": 30,
        },
        index={"fields": DECLARED} | index,
    )


def opened(settings: Settings, dimension: int = DIMENSION) -> PersonaIndex:
    return open_index(
        settings, dimension=dimension, fingerprint="test", encoder="by hand", create=True
    )


@dataclass(frozen=True)
class NewIndex:
    """Settings of indexes that do not exist yet, on one engine: another one for each number."""

    folder: Path
    server: QdrantServer | None = None

    @property
    def engine(self) -> str:
        return "embedded" if self.server is None else "server"

    def __call__(self, number: int) -> Settings:
        if self.server is None:
            return embedded(self.folder / f"index-{number}")
        return on_server(self.server, f"index-{number}")
