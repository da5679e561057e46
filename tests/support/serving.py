"""A service for tests: a small catalogue, an encoder without a model, uvicorn on a real port."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

from p4r_qdrant import Persona, PersonaReranker, Settings, open_index
from p4r_qdrant.encoder.base import Encoder
from p4r_qdrant.service.app import create_app
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.run import configured
from p4r_qdrant.service.state import Service
from tests.support.engines import embedded
from tests.support.hash_encoder import HashEncoder

if TYPE_CHECKING:
    from p4r_qdrant.service.tracing import Tracing

DIMENSION = 32
CATALOGUE = {
    "ships": ["tall ships under sail", "harbour and tide tables"],
    "cakes": ["sponge cakes and icing"],
    "roses": ["pruning old roses", "a walled garden of roses"],
    "trains": ["night trains across the alps"],
}
"""What the personas of each item say."""
READER, ADMIN = "reading-key", "admin-key"
AS_READER = {"Authorization": f"Bearer {READER}"}
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}


def persona(item_id: str, number: int, text: str) -> Persona:
    return Persona(
        persona_id=f"{item_id}_P{number}",
        name=f"Reader of {item_id} {number}",
        description=text,
        preference_rationale=f"It is about {text}.",
    )


def make_index(settings: Settings, encoder: Encoder | None = None) -> None:
    """The catalogue, indexed."""
    encoder = encoder or HashEncoder(DIMENSION)
    with open_index(
        settings,
        dimension=encoder.dimension,
        fingerprint=encoder.fingerprint,
        encoder=encoder.name,
        create=True,
    ) as index:
        for item_id, sayings in CATALOGUE.items():
            personas = [persona(item_id, number, one) for number, one in enumerate(sayings)]
            fields = {
                "item_title": item_id.title(),
                "summary": f"All about {item_id}.",
                "shelf": item_id[0],
            }
            index.replace_item(item_id, personas, encoder.encode_personas(personas), fields)


def with_service(settings: Settings, **own: Any) -> Settings:
    """The settings, with a service that requires keys."""
    keys = {"api_key": READER, "admin_key": ADMIN}
    return Settings.load(
        **{
            name: getattr(settings, name).model_dump()
            for name in ("qdrant", "index", "history", "rerank", "llm")
        },
        service=({} if own.get("allow_anonymous") else keys) | own,
    )


def make_app(
    settings: Settings, encoder: Encoder | None = None, tracing: "Tracing | None" = None
) -> FastAPI:
    """The application; its index is open and its encoder loaded."""
    given = encoder or HashEncoder(DIMENSION)
    backend = Backend(settings, lambda _: given)
    if backend.open():
        backend.load_encoder()
    return create_app(Service(backend, tracing=tracing))


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve on a free port of this machine; yields the address."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = configured(app, app.state.service.backend.settings.service)
    config.timeout_graceful_shutdown = 5
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def in_both_places(folder: Path) -> Iterator[tuple[PersonaReranker, str]]:
    """The catalogue in a reranker in this process, and behind the address of a service."""
    here, there = embedded(folder / "here"), embedded(folder / "there")
    make_index(here)
    make_index(there)
    with (
        PersonaReranker(open_index(here), HashEncoder(DIMENSION)) as reranker,
        running(make_app(with_service(there))) as address,
    ):
        yield reranker, address


def history(*texts: str) -> list[dict[str, Any]]:
    """An inline history; the last is the newest."""
    return [
        {"item_id": f"i{number}", "timestamp": number, "summary": text}
        for number, text in enumerate(texts)
    ]


def ids(ranking: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in ranking["items"]]
