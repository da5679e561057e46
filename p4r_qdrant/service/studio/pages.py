"""The studio's routes: login and logout, and what the pages need."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI, Response

from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.state import Service
from p4r_qdrant.service.studio import (
    catalogue,
    drift,
    persona_map,
    reader,
    review,
    search,
    segments,
    selection,
    versions,
)
from p4r_qdrant.service.studio.desk import Desk
from p4r_qdrant.service.studio.evidence import Evidence
from p4r_qdrant.service.studio.sessions import Session
from p4r_qdrant.service.studio.visit import PREFIX, Anybody, Known, Studio, StudioRoute

router = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)
KEPT = "kept_"
"""Begins the names of fields that were sent by a session that had ended."""
_STYLE = (Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" '
    'rx="4" fill="#1f5fb8"/><circle cx="8" cy="6" r="3" fill="#fff"/><path d="M2.5 14a5.5 5 0 0 1 '
    '11 0z" fill="#fff"/></svg>'
)


def install(
    app: FastAPI,
    served: Service,
    evidence: Evidence | None = None,
    desk: Desk | None = None,
    artifacts: Path | None = None,
) -> None:
    """Add the studio to an application."""
    app.state.studio = Studio(served, evidence, desk, artifacts)
    pages = (
        catalogue,
        search,
        review,
        reader,
        segments,
        persona_map,
        selection,
        drift,
        versions,
    )
    for one in (router, *(page.router for page in pages), LAST):
        app.include_router(one)


@router.get("/style.css")
async def style() -> Response:
    """The style of all pages."""
    return Response(_STYLE, media_type="text/css")


@router.get("/icon.svg")
async def icon() -> Response:
    """The icon of the browser's tab."""
    return Response(_ICON, media_type="image/svg+xml")


@router.get("/login")
async def login_page(visit: Anybody) -> Response:
    """The form that takes a key."""
    if visit.role is not None:
        return visit.redirect(visit.studio.base)
    return visit.page("login.html", following=visit.studio.base, problem="")


@router.post("/login")
async def login(visit: Anybody) -> Response:
    """Begin a session with the role of a key."""
    form = await visit.form()
    base, following = visit.studio.base, form.get("following", "")
    if not following.startswith((f"{base}/", f"{base}?")) or "\\" in following:
        following = base  # never to another site
    kept = {name.removeprefix(KEPT): value for name, value in form.items() if name.startswith(KEPT)}
    role = visit.request.app.state.access.role(form.get("key", ""))
    if role is None:
        sorry = "The service does not know this key."
        return visit.page("login.html", 403, following=following, problem=sorry, kept=kept)
    visit.begin(Session.new(role))
    if kept:
        return visit.page("resume.html", place=following, kept=kept)
    return visit.redirect(following)


@router.post("/logout")
async def logout(visit: Anybody) -> Response:
    """End the session."""
    await visit.form()
    visit.begin(Session.new())
    return visit.redirect(f"{visit.studio.base}/login")


LAST = APIRouter(prefix=PREFIX, route_class=StudioRoute, include_in_schema=False)
"""What no other route takes."""


@LAST.get("/{place:path}")
async def nowhere(place: str, visit: Known) -> Response:
    """A page that does not exist."""
    del place, visit
    raise ProblemError(404, "not_found", "the studio has no such page")
