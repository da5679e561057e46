"""`p4r serve`: the application under uvicorn."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from p4r_qdrant.errors import InputError
from p4r_qdrant.index.edge.serving import noted
from p4r_qdrant.service import connections, logs
from p4r_qdrant.service.app import create_app
from p4r_qdrant.service.backend import Backend
from p4r_qdrant.service.processes import DRAIN_S, serve_together
from p4r_qdrant.service.security import check_exposure
from p4r_qdrant.service.state import Background, Service
from p4r_qdrant.service.studio.desk import Desk
from p4r_qdrant.service.studio.evidence import Evidence
from p4r_qdrant.settings import ServiceSettings, Settings

MakeBackground = Callable[[Backend], Background]

SPARE_FILES = 128
"""Files that a service has open beside its connections: index, model, Qdrant."""

LINGER_S = 1.0
"""Seconds in which an idle connection may bring one more request when the process is to end."""

_log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    make_background: MakeBackground | None = None,
    *,
    evidence: Evidence | None = None,
    desk: Desk | None = None,
    artifacts: Path | None = None,
    listening_at: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until a signal ends it. Raises InputError if it cannot start.

    `make_background` makes the worker that does the jobs inside this process. `evidence` finds the
    reviews that the studio quotes, `desk` keeps the decisions of reviewers, `artifacts` is the
    folder of its maps and its history. `listening_at` is called with the address.
    """
    check_exposure(settings.service)
    check_tenants(settings, has_background=make_background is not None)
    check_workers(settings, has_background=make_background is not None)
    listening = _listening(settings.service)
    logs.configure()
    backend = Backend(settings)
    try:
        backend.open()
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logs.requests.info("listening", extra={"fields": {"address": address}})
        is_one_folder = settings.qdrant.url is None and bool(
            settings.index.tenant or not settings.index.tenants
        )
        note = noted(settings.folder, address) if is_one_folder else nullcontext()
        listening_at(address + settings.service.root_path)
        with note:
            if settings.service.workers > 1:
                backend.close()  # it was opened to say here what cannot be opened
                serve_together(settings, listening)
            else:
                background = make_background(backend) if make_background else None
                answer(backend, listening, background, evidence, desk, artifacts)
    finally:
        listening.close()
        backend.close()


def answer(
    backend: Backend,
    listening: socket.socket,
    background: Background | None = None,
    evidence: Evidence | None = None,
    desk: Desk | None = None,
    artifacts: Path | None = None,
) -> None:
    """Answer requests in this process until a signal ends it."""
    app = create_app(Service(backend, background), evidence, desk, artifacts)
    config = configured(app, _with_room(backend.settings.service), linger_s=LINGER_S)
    with suppress(KeyboardInterrupt):  # Ctrl-C
        uvicorn.Server(config).run(sockets=[listening])


def check_tenants(settings: Settings, *, has_background: bool = False) -> None:
    """Raise InputError unless what is asked for fits an index with tenants, or one without."""
    own, index = settings.service, settings.index
    if not index.tenants:
        if own.tenant_keys or own.tenant_admin_keys:
            raise InputError(
                "P4R_SERVICE__TENANT_KEYS binds keys to tenants, and P4R_INDEX__TENANTS is not set"
            )
        return
    if not index.tenant and (own.studio or has_background):
        what = "the studio" if own.studio else "--artifacts"
        raise InputError(
            f"{what} is for one tenant, and none is named: add --tenant NAME, or set "
            "P4R_INDEX__TENANT"
        )


def check_workers(settings: Settings, *, has_background: bool = False) -> None:
    """Raise InputError unless several processes can do what is asked for."""
    count = settings.service.workers
    if count == 1:
        return
    if settings.qdrant.url is None:
        raise InputError(
            f"one process alone can open the embedded index, so {count} workers cannot: use "
            "--workers 1, or set P4R_QDRANT__URL to a server"
        )
    if has_background:
        raise InputError(
            f"--artifacts does the work in one process, and {count} workers are asked for: run "
            "p4r work --artifacts DIR beside the service, or use --workers 1"
        )
    if settings.service.studio and not settings.service.admin_key:
        raise InputError(
            f"without an admin key, {count} workers do not know each other's sessions of the "
            "studio: set P4R_SERVICE__ADMIN_KEY, or use --workers 1"
        )


def configured(app: FastAPI, settings: ServiceSettings, *, linger_s: float = 0.0) -> uvicorn.Config:
    """The server with its limits. linger_s: see `Connection`."""
    return uvicorn.Config(
        app,
        http=connections.within(settings, linger_s),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S,
    )


def _with_room(settings: ServiceSettings) -> ServiceSettings:
    """The settings, with as many connections as this process may have files open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return settings
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return settings
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == wanted:
        return settings
    room = max(1, most - SPARE_FILES)
    _log.warning(
        "this process may open %d files, so it takes %d connections and not %d "
        "(P4R_SERVICE__MAX_CONNECTIONS); raise the limit with `ulimit -n`",
        most,
        room,
        settings.max_connections,
    )
    return settings.model_copy(update={"max_connections": room})


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
