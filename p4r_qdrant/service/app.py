"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic_core import to_json
from starlette.middleware.trustedhost import TrustedHostMiddleware

from p4r_qdrant import __version__
from p4r_qdrant.schemas import (
    HealthAnswer,
    JobsAnswer,
    ReadyAnswer,
    RerankAnswer,
    RerankBody,
)
from p4r_qdrant.service import items, problems, recommendations, users
from p4r_qdrant.service.middleware import Requests
from p4r_qdrant.service.security import Access, admin, reader
from p4r_qdrant.service.state import Service, service

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

Served = Annotated[Service, Depends(service)]

NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI's own is on by itself; what this service tells is /metrics and its log."""


def create_app(served: Service) -> FastAPI:
    """The application over a service; its lifespan starts and closes the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await served.start()
        try:
            yield
        finally:
            await served.close()

    app = FastAPI(
        title="p4r",
        version=__version__,
        description="Reranks a recommender's candidates by personas, and says why.",
        lifespan=lifespan,
        telemetry=served.tracing.of_requests if served.tracing else NO_TELEMETRY,
    )
    own = served.backend.settings.service
    app.state.service = served
    app.state.access = Access(own)
    problems.install(app)
    if own.allow_anonymous:
        # Without keys, a web page that names this machine by a domain of its own must not get in.
        app.add_middleware(
            TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", own.host]
        )
    app.add_middleware(
        Requests,
        metrics=served.metrics,
        max_body_bytes=own.max_body_bytes,
        tracing=served.tracing,
    )
    _add_rerank(app)
    app.include_router(items.router)
    app.include_router(users.router)
    app.include_router(recommendations.router)
    _add_operations(app)
    return app


def _add_rerank(app: FastAPI) -> None:
    @app.post(
        "/v1/rerank",
        dependencies=[Depends(reader)],
        response_model=RerankAnswer,
        responses=problems.responses(429),
        tags=["reranking"],
    )
    async def rerank(body: RerankBody, request: Request, served: Served) -> Response:
        """Rerank candidates for one or many users, and say why.

        Where Qdrant or the encoder fail, or take longer than the deadline, the generator's order
        comes back with `degraded: true` and the reason.
        """
        rankings = await served.ranker.rerank(body)
        reasons = sorted({one["reason"] for one in rankings if one["reason"]})
        request.state.told = {
            "users": len(rankings),
            "candidates": sum(len(user.candidates) for user in body.users),
            **({"degraded": reasons} if reasons else {}),
        }
        if served.tracing:
            served.tracing.tell(request.state.told)
        answer: dict[str, Any] = {
            "rankings": rankings,
            "degraded": bool(reasons),
            "request_id": request.state.request_id,
        }
        return Response(to_json(answer), media_type="application/json")


def _add_operations(app: FastAPI) -> None:
    @app.get(
        "/v1/jobs",
        dependencies=[Depends(admin)],
        tags=["operations"],
        response_model=JobsAnswer,
        responses=problems.responses(503),
    )
    async def jobs(served: Served) -> dict[str, Any]:
        """The background work: what waits, and what was given up last, and why."""
        with served.backend.in_use() as live:
            failed = await served.in_thread(lambda: live.users.failed_jobs(20))
            counts = await served.in_thread(live.users.job_counts)
        return {
            **counts,
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

    @app.get("/healthz", tags=["operations"])
    async def healthz() -> HealthAnswer:
        """Whether the process is alive."""
        return HealthAnswer()

    @app.get(
        "/readyz",
        tags=["operations"],
        responses={503: {"model": ReadyAnswer, "description": "Not ready"}},
        response_model=ReadyAnswer,
    )
    async def readyz(served: Served) -> Response:
        """Whether reranking works: the index answers, and the encoder is there if it is wanted."""
        reachable = await served.in_thread(served.backend.is_reachable)
        encoder = served.backend.encoder_state
        answer = ReadyAnswer(
            ready=reachable and encoder in ("ready", "absent"),
            index="open" if reachable else "unavailable",
            encoder=encoder,
        )
        return Response(
            answer.model_dump_json(),
            200 if answer.ready else 503,
            media_type="application/json",
        )

    @app.get(
        "/metrics",
        dependencies=[Depends(reader)],
        tags=["operations"],
        response_class=Response,
        responses=problems.responses() | {200: {"content": {"text/plain": {}}}},
    )
    async def metrics(served: Served) -> Response:
        """For Prometheus."""
        await served.measure_jobs()
        return Response(served.metrics.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
