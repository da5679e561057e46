"""The FastAPI application."""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic_core import to_json
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from p4r_qdrant import __version__
from p4r_qdrant.schemas.common_rerank import CommonRerankBody
from p4r_qdrant.schemas.items import ItemBody
from p4r_qdrant.schemas.operations import EncoderState, HealthAnswer, JobsAnswer, ReadyAnswer
from p4r_qdrant.schemas.reranking import RankingAnswer, RerankAnswer, RerankBody
from p4r_qdrant.schemas.search import SearchBody
from p4r_qdrant.schemas.users import InteractionBody
from p4r_qdrant.schemas.why_not import WhyNotBody
from p4r_qdrant.service import (
    bodies,
    common_rerank,
    items,
    problems,
    recommendations,
    search,
    users,
    why_not,
)
from p4r_qdrant.service.middleware import Requests
from p4r_qdrant.service.security import Access, TellsBecause, admin, operator
from p4r_qdrant.service.state import Service, service, whole_service
from p4r_qdrant.service.studio import pages as studio
from p4r_qdrant.service.studio.desk import Desk
from p4r_qdrant.service.studio.evidence import Evidence

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

Served = Annotated[Service, Depends(service)]
Whole = Annotated[Service, Depends(whole_service)]

MANY = 2000
"""Candidates of a request from which its answer is written on another thread."""

NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""Turns off FastAPI's own telemetry, which is on by default."""


class Application(FastAPI):
    """The application, whose document has the bodies with the limits of the settings."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        served: Service = self.state.service
        limits = served.backend.settings.service
        models = (
            RerankBody,
            CommonRerankBody,
            SearchBody,
            WhyNotBody,
            ItemBody,
            InteractionBody,
        )
        made = bodies.schemas(limits, *models)
        document["components"]["schemas"] |= made
        return document


def create_app(
    served: Service,
    evidence: Evidence | None = None,
    desk: Desk | None = None,
    artifacts: Path | None = None,
) -> FastAPI:
    """The application of a service; its lifespan starts and closes the service.

    `evidence` finds the reviews that the studio quotes, `desk` keeps the decisions of reviewers,
    `artifacts` is the folder of its maps and its history.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await served.start()
        try:
            yield
        finally:
            await served.close()

    own = served.backend.settings.service
    app = Application(
        title="p4r",
        version=__version__,
        description="Reranks candidates of a recommender by item personas, and explains the order.",
        lifespan=lifespan,
        docs_url=None,  # those of FastAPI load their scripts from another server
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name a scheme and host that a proxy has changed
        telemetry=served.tracing.of_requests if served.tracing else NO_TELEMETRY,
    )
    app.state.service = served
    app.state.access = Access(own)
    problems.install(app)
    if own.allow_anonymous:
        # Without keys, no web page may reach this machine under another domain name.
        app.add_middleware(
            TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", own.host]
        )
    app.add_middleware(
        Requests,
        metrics=served.metrics,
        settings=own,
        tracing=served.tracing,
        has_tenants=served.tenants is not None,
    )
    if own.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=own.origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Encoding", "Content-Type", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    _add_rerank(app)
    app.include_router(common_rerank.router)
    app.include_router(search.router)
    app.include_router(why_not.router)
    app.include_router(items.router)
    app.include_router(users.router)
    app.include_router(recommendations.router)
    _add_operations(app)
    if own.studio:
        studio.install(app, served, evidence, desk, artifacts)
    _add_documentation(app)
    return app


def _add_rerank(app: FastAPI) -> None:
    @app.post(
        "/v1/rerank",
        response_model=RerankAnswer,
        responses=problems.responses(429),
        openapi_extra=bodies.documented(RerankBody),
        tags=["reranking"],
    )
    async def rerank(
        because: TellsBecause,
        body: Annotated[RerankBody, bodies.body_of(RerankBody)],
        request: Request,
    ) -> Response:
        """Rerank candidates for one or many users, and explain the order.

        If Qdrant or the encoder fails or misses the deadline, the answer keeps the generator's
        order, with `degraded: true` and the reason.
        """
        served = await service(request)
        rankings, why = await served.ranker.rerank(body)
        reasons = sorted(set(filter(None, why)))
        candidates = sum(len(user.candidates) for user in body.users)
        request.state.log_fields = {
            "users": len(rankings),
            "candidates": candidates,
            **({"degraded": reasons} if reasons else {}),
        }
        if served.tracing:
            served.tracing.set_counts(request.state.log_fields)

        def answer() -> bytes:
            told: dict[str, Any] = {
                "rankings": [
                    RankingAnswer.of(user, ranking, reason, body.min_score, because=because)
                    for user, ranking, reason in zip(body.users, rankings, why, strict=True)
                ],
                "degraded": bool(reasons),
                "request_id": request.state.request_id,
            }
            return to_json(told)

        content = answer() if candidates < MANY else await served.parse(answer)
        return Response(content, media_type="application/json")


def _add_operations(app: FastAPI) -> None:
    @app.get(
        "/v1/jobs",
        dependencies=[Depends(admin)],
        tags=["operations"],
        response_model=JobsAnswer,
        responses=problems.responses(503),
    )
    async def jobs(served: Served) -> dict[str, Any]:
        """Background jobs: how many wait and how many failed, and why the last ones failed."""
        with served.backend.in_use() as live:
            failed = await served.in_thread(lambda: live.users.jobs.failed(20))
            counts = await served.in_thread(live.users.jobs.counts)
        return {
            "waiting": counts["waiting"],
            "failed": counts["failed"],
            "last_failed": [
                {
                    "kind": job.kind,
                    "about": str(job.body.get("item_id", "")),
                    "attempts": job.attempts,
                    "problem": job.problem,
                }
                for job in failed
            ],
        }

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> HealthAnswer:
        """Whether the process is alive."""
        return HealthAnswer()

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz",
        tags=["operations"],
        responses={503: {"model": ReadyAnswer, "description": "Not ready"}},
        response_model=ReadyAnswer,
    )
    async def readyz(served: Whole) -> Response:
        """Whether rankings can be answered: the index answers and the encoder is loaded."""
        reachable = await served.in_thread(served.backend.is_reachable)
        encoder = served.backend.encoder_state
        answer = ReadyAnswer(
            ready=reachable and encoder in (EncoderState.READY, EncoderState.ABSENT),
            index="open" if reachable else "unavailable",
            writes="ok" if reachable and served.backend.can_write else "unavailable",
            encoder=encoder,
        )
        return Response(
            answer.model_dump_json(),
            200 if answer.ready else 503,
            media_type="application/json",
        )

    @app.get(
        "/metrics",
        dependencies=[Depends(operator)],
        tags=["operations"],
        response_class=Response,
        responses=problems.responses() | {200: {"content": {"text/plain": {}}}},
    )
    async def metrics(served: Whole) -> Response:
        """Metrics in the text format of Prometheus."""
        await served.measure()
        return Response(served.metrics.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _add_documentation(app: FastAPI) -> None:
    """The pages for people. Their addresses are relative, so they work behind a path prefix."""

    @app.get("/", include_in_schema=False)
    async def start() -> dict[str, str]:
        pages = {"openapi": "openapi.json", "health": "healthz", "ready": "readyz"}
        return {"service": "p4r", "version": __version__, **documentation, **pages}

    documentation: dict[str, str] = {}
    if importlib.util.find_spec("fastapi_offline") is None:
        return
    documentation["documentation"] = "docs"
    assets = importlib.resources.files("fastapi_offline") / "static"
    app.mount("/docs/assets", StaticFiles(directory=str(assets)))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="p4r",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon.png",
        )
