"""`p4r serve`, `studio`, `work` and `mcp`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexer.cli.shared import MadeArtifacts, PromptDomain, artifact_sources, check_llm
from indexer.cli.tenant_option import of_tenant
from p4r_qdrant.errors import InputError

if TYPE_CHECKING:
    from indexer.updates.tenant_workers import TenantWorkers
    from indexer.updates.worker import Worker
    from p4r_qdrant.settings import Settings

group = typer.Typer()


@group.command(epilog="Example:  P4R_ENCODER__MODEL=all-MiniLM-L6-v2 p4r serve --anonymous")
@of_tenant
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, instead of P4R_SERVICE__HOST.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Require no key; on this machine only.")
    ] = False,
    artifacts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also do the work of `p4r work` in this process."),
    ] = None,
    domain: Annotated[
        str, typer.Option(help="With --artifacts: books, restaurants, products, or a folder.")
    ] = "products",
    studio: Annotated[
        bool, typer.Option("--studio", help="Also offer pages for people under /studio.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Processes that answer, on one port; several need an index on a server. SIGHUP "
            "replaces them one by one.",
        ),
    ] = None,
) -> None:
    """Serve reranking over HTTP; /docs describes the API.

    Only one process can open the embedded index: with it, --artifacts does the work of `p4r work`
    here.
    """
    options = {
        "host": host,
        "port": port,
        "allow_anonymous": anonymous or None,
        "studio": studio or None,
        "workers": workers,
    }
    settings = _settings(options)
    from p4r_qdrant.service.run import check_workers
    from p4r_qdrant.service.run import serve as run_service

    check_workers(settings, has_background=artifacts is not None)

    if artifacts is None:
        run_service(settings)
        return

    from indexer.artifacts.evidence import QuotedEvidence
    from indexer.ledger import LEDGER, Ledger
    from indexer.review.desk import ReviewDesk
    from indexer.updates.worker import Worker
    from indexer.updates.worker_thread import WorkerThread

    sources = artifact_sources(artifacts, domain, settings)
    with_studio = settings.service.studio
    evidence = QuotedEvidence(artifacts) if with_studio else None
    desk = ReviewDesk(sources.folder, sources.rules) if with_studio else None
    with Ledger(artifacts / LEDGER) as ledger:
        run_service(
            settings,
            lambda backend: WorkerThread(Worker(backend, sources, ledger)),
            evidence=evidence,
            desk=desk,
            artifacts=artifacts,
        )


@group.command(epilog="Example:  p4r studio --artifacts books")
@of_tenant
def studio(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Quote the reviews of this folder, review its personas, and show its map.",
        ),
    ] = None,
    browser: Annotated[
        bool | None,
        typer.Option(
            "--browser/--no-browser", help="Open a browser. Default: if this is a terminal."
        ),
    ] = None,
) -> None:
    """Show the catalogue, its personas and what readers get, on pages for people.

    The pages are served on this machine alone: without a key, or with the service's keys if they
    are set. `p4r serve --studio` offers them to others.
    """
    import sys
    import webbrowser

    from indexer.terminal.console import out
    from p4r_qdrant.settings import Settings

    own = Settings.load().service
    options = {
        "host": "127.0.0.1",
        "port": port,
        "studio": True,
        "workers": 1,
        "allow_anonymous": not (own.api_key or own.reviewer_key or own.admin_key),
    }
    settings = _settings(options)
    from indexer.artifacts.evidence import QuotedEvidence
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.review.desk import ReviewDesk
    from p4r_qdrant.moderation import Rules
    from p4r_qdrant.service.run import serve as run_service

    def show(address: str) -> None:
        out.say(f"{address}/studio")
        if sys.stdout.isatty() if browser is None else browser:
            webbrowser.open(f"{address}/studio")

    evidence = desk = None
    if artifacts is not None:
        folder = ArtifactFolder(artifacts)
        folder.personas()
        evidence = QuotedEvidence(artifacts)
        desk = ReviewDesk(folder, Rules.load(settings.reasoning.rules))
    run_service(settings, evidence=evidence, desk=desk, artifacts=artifacts, listening_at=show)


def _settings(options: dict[str, Any]) -> Settings:
    """The settings, with the given options of the service. Raises MissingExtraError."""
    import importlib.util

    from p4r_qdrant.errors import MissingExtraError
    from p4r_qdrant.settings import Settings

    if importlib.util.find_spec("fastapi") is None:
        raise MissingExtraError("serving needs FastAPI: pip install 'p4r-qdrant[service]'")
    given = {name: value for name, value in options.items() if value is not None}
    return Settings.load(service=given) if given else Settings.load()


@group.command(
    epilog="Example:  P4R_QDRANT__URL=http://localhost:6333 "
    "P4R_LLM__BASE_URL=http://localhost:8000/v1 p4r work --artifacts books --domain books"
)
@of_tenant
def work(
    artifacts: MadeArtifacts,
    domain: PromptDomain = "products",
    once: Annotated[bool, typer.Option("--once", help="Exit when no job is due.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port for Prometheus, on P4R_SERVICE__HOST; 0 picks a free one."
        ),
    ] = None,
) -> None:
    """Do the jobs that `p4r serve` queued: read reviews, write personas, erase users.

    Killed and run again, it goes on and pays for nothing twice.

    With tenants and none named, the jobs of all of them; DIR holds a folder for each: DIR/shop-a.
    """
    import asyncio
    import signal
    import threading

    from indexer.terminal.tables import print_counts
    from indexer.updates.worker_metrics import publish_metrics
    from p4r_qdrant.errors import InputError
    from p4r_qdrant.service import logs
    from p4r_qdrant.settings import Settings

    settings = Settings.load()
    if settings.qdrant.url is None and not once:
        raise InputError(
            "p4r work would keep the embedded index to itself and wait for jobs that no service "
            "can add: run p4r serve --artifacts DIR, which does the work too, set P4R_QDRANT__URL "
            "to a server, or stop the service and use p4r work --once"
        )
    check_llm(artifact_sources(artifacts, domain, settings))
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    with _worker(artifacts, domain, settings) as worker:
        logs.configure()
        if metrics_port is not None:
            found = publish_metrics(worker, settings.service.host, metrics_port)
            logs.requests.info("metrics", extra={"fields": {"port": found}})
        asyncio.run(worker.run_once(stop) if once else worker.run(stop))
        done = dict(worker.done)
    print_counts("done", done)


@contextmanager
def _worker(artifacts: Path, domain: str, settings: Settings) -> Iterator[Worker | TenantWorkers]:
    """The worker of the tenant that the settings name, or of an index without tenants; or all."""
    from indexer.ledger import LEDGER, Ledger
    from indexer.updates.tenant_workers import TenantWorkers
    from indexer.updates.worker import Worker
    from p4r_qdrant.service.backend import Backend

    if settings.index.tenants and not settings.index.tenant:
        with closing(
            TenantWorkers(
                settings, lambda name: artifact_sources(artifacts / name, domain, settings)
            )
        ) as workers:
            yield workers
        return
    sources = artifact_sources(artifacts, domain, settings)
    with closing(Backend(settings)) as backend, Ledger(artifacts / LEDGER) as ledger:
        yield Worker(backend, sources, ledger)


@group.command(epilog="Example:  p4r mcp --url http://127.0.0.1:8000")
def mcp(
    url: Annotated[
        str, typer.Option(help="Address of the running service.")
    ] = "http://127.0.0.1:8000",
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Answer over HTTP at http://127.0.0.1:PORT/mcp, not over stdio."
        ),
    ] = None,
) -> None:
    """Let an assistant ask a running service, by the Model Context Protocol (MCP).

    Over stdio the key is P4R_SERVICE__API_KEY; over HTTP each caller sends its own. The tools only
    read: search_by_person, recommend, rerank, explain, personas_of.
    """
    from p4r_qdrant.frameworks.mcp import make_server
    from p4r_qdrant.settings import Settings
    from p4r_qdrant.settings.section import check_address

    key = Settings.load().service.api_key if port is None else None
    try:
        check_address(url, "--url", "http://host:8000", "SERVICE", key_in_the_clear=key is not None)
    except ValueError as error:
        raise InputError(str(error)) from None
    server = make_server(url, key.get_secret_value() if key else None)
    if port is None:
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=port, stateless_http=True)
