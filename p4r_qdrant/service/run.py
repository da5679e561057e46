"""`p4r serve`: the application under uvicorn."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import nullcontext, suppress

import uvicorn

from p4r_qdrant.errors import InputError
from p4r_qdrant.index.edge.serving import noted
from p4r_qdrant.service import logs
from p4r_qdrant.service.app import create_app
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.security import check_exposure
from p4r_qdrant.service.state import Background, Service
from p4r_qdrant.settings import ServiceSettings, Settings

MakeBackground = Callable[[Backend], Background]

DRAIN_S = 20
"""Seconds that running requests may take when the process is asked to end."""


def serve(settings: Settings, make_background: MakeBackground | None = None) -> None:
    """Serve until a signal ends it. Raises InputError if it cannot start.

    `make_background` makes the worker that does the jobs inside this process.
    """
    check_exposure(settings.service)
    listening = _listening(settings.service)
    logs.configure()
    backend = Backend(settings)
    try:
        backend.open()
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logs.requests.info("listening", extra={"fields": {"address": address}})
        config = uvicorn.Config(
            create_app(Service(backend, make_background(backend) if make_background else None)),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        folder = settings.qdrant.path
        note = noted(folder, address) if settings.qdrant.url is None else nullcontext()
        with note, suppress(KeyboardInterrupt):  # Ctrl-C
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        backend.close()


def _listening(settings: ServiceSettings) -> socket.socket:
    """Open the listening socket; port 0 takes a free one. Raises InputError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {settings.port} on {settings.host} is in use; choose another with --port or "
                "P4R_SERVICE__PORT (0 picks a free one)"
            ) from None
        raise InputError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}); set "
            "P4R_SERVICE__HOST and P4R_SERVICE__PORT"
        ) from None
