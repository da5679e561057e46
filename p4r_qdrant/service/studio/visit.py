"""One request to the studio: who sends it, what it says, and the page that answers it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from p4r_qdrant.errors import P4RError
from p4r_qdrant.service import problems
from p4r_qdrant.service.problems import ProblemError
from p4r_qdrant.service.security import Role
from p4r_qdrant.service.state import Service
from p4r_qdrant.service.studio.desk import Desk
from p4r_qdrant.service.studio.evidence import Evidence
from p4r_qdrant.service.studio.sessions import COOKIE, SESSION_S, Session, Sessions
from p4r_qdrant.settings import ServiceSettings
from p4r_qdrant.templating import Templates

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The headers of every answer: nothing of another address, no script, no frame, no copy.

The map alone has a policy of its own.
"""

PREFIX = "/studio"

MAX_FIELDS = 250
"""Most fields of a form."""

TEMPLATES = Templates(Path(__file__).parent / "templates")


class Studio:
    """What the pages of a service share.

    evidence, desk, artifacts: None without an artifact folder, which is the last one.
    """

    def __init__(
        self,
        served: Service,
        evidence: Evidence | None = None,
        desk: Desk | None = None,
        artifacts: Path | None = None,
    ) -> None:
        self.served = served
        self.artifacts = artifacts
        self.desk = desk
        self.settings: ServiceSettings = served.backend.settings.service
        self.sessions = Sessions(self.settings)
        self.evidence = evidence
        self.base = f"{self.settings.root_path}{PREFIX}"


class Visit:
    """A request of a session."""

    def __init__(self, studio: Studio, request: Request) -> None:
        self.studio = studio
        self.request = request
        self.session = studio.sessions.read(request.cookies.get(COOKIE))
        self.is_new = self.session is None
        """Whether the answer sets the cookie."""
        self.typed: dict[str, str] = {}
        """The fields of the form that was sent, also if it is refused."""

    @property
    def role(self) -> Role | None:
        """What the visitor may do; None before the login."""
        if self.studio.settings.allow_anonymous:
            return "admin"
        return self.session.role if self.session else None

    @property
    def may_review(self) -> bool:
        """Whether the visitor may read reviews and decide on personas."""
        return self.role in ("reviewer", "admin")

    @property
    def name(self) -> str:
        """The name that is recorded with the visitor's decisions; "" if it is not known."""
        return self.session.name if self.session else ""

    def begin(self, session: Session) -> None:
        """Replace the session."""
        self.session, self.is_new = session, True

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """The page of a template."""
        if self.session is None:
            self.begin(Session.new())
        assert self.session is not None  # noqa: S101
        html = TEMPLATES.render(
            template,
            base=self.studio.base,
            link=self.link,
            token=self.studio.sessions.token(self.session),
            role=self.role,
            may_review=self.may_review,
            can_leave=not self.studio.settings.allow_anonymous,
            **values,
        )
        return HTMLResponse(html.encode(errors="replace"), status)

    def link(self, place: str, **fields: Any) -> str:
        """The address of a page; fields without a value are left out."""
        given = {name: value for name, value in fields.items() if value not in (None, "")}
        return f"{self.studio.base}{place}" + (f"?{urlencode(given)}" if given else "")

    def redirect(self, address: str) -> Response:
        """Send the browser to another page of the studio."""
        return RedirectResponse(address, 303)

    def problem(self, error: ProblemError) -> Response:
        """The page of an error."""
        answer = self.page("problem.html", error.status, message=str(error))
        answer.headers.update(error.headers)
        return answer

    async def form(self) -> dict[str, str]:
        """The fields of a form that this session was given. Raises ProblemError."""
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise ProblemError(415, "no_form", "send the form of the page")
        body = (await self.request.body()).decode(errors="replace")
        try:
            fields = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FIELDS))
        except ValueError:
            raise ProblemError(422, "invalid", f"a form has {MAX_FIELDS} fields at most") from None
        token = fields.pop("token", "")
        # Browsers send each line break of a text area as two characters.
        self.typed = {name: value.replace("\r\n", "\n").strip() for name, value in fields.items()}
        if self.session is None or not self.studio.sessions.is_own(self.session, token):
            raise ProblemError(
                403,
                "old_form",
                "this form is of a session that has ended: send it again from a page of this one",
            )
        return self.typed


class StudioRoute(APIRoute):
    """A route whose errors are pages, and whose answers carry `HEADERS` and the cookie."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """See APIRoute."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            studio: Studio = request.app.state.studio
            visit = request.state.visit = Visit(studio, request)
            try:
                answer: Response = await handle(request)
            except ProblemError as error:
                answer = await _of_problem(visit, error)
            except RequestValidationError:
                answer = visit.problem(
                    ProblemError(422, "invalid", "the address of this page is not complete")
                )
            except HTTPException as error:
                answer = visit.problem(ProblemError(error.status_code, "error", str(error.detail)))
            except P4RError as error:
                answer = visit.problem(problems.of_ours(request, error))
            return _finished(visit, answer)

        return guarded


async def _of_problem(visit: Visit, error: ProblemError) -> Response:
    if error.code != "login":
        return visit.problem(error)
    query = visit.request.url.query
    place = visit.request.url.path + (f"?{query}" if query else "")
    if visit.request.method != "GET":
        with suppress(ProblemError):  # the session has ended: what was typed is still there
            await visit.form()
    return visit.page("login.html", 401, following=place, problem="", kept=visit.typed)


def _finished(visit: Visit, answer: Response) -> Response:
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    if visit.is_new and visit.session is not None:
        request = visit.request
        # A proxy may have taken the TLS off. Who claims so without one only hurts oneself.
        schemes = {request.url.scheme, request.headers.get("x-forwarded-proto", "")}
        answer.set_cookie(
            COOKIE,
            visit.studio.sessions.signed(visit.session),
            max_age=SESSION_S,
            path=visit.studio.base,
            secure="https" in schemes,
            httponly=True,
            samesite="strict",
        )
    return answer


async def anybody(request: Request) -> Visit:
    """Dependency of the pages before the login."""
    visit: Visit = request.state.visit
    return visit


async def known(request: Request) -> Visit:
    """Dependency of the pages after the login."""
    visit: Visit = request.state.visit
    if visit.role is None:
        raise ProblemError(401, "login", "log in first")
    return visit


async def reviewing(request: Request) -> Visit:
    """Dependency of the pages for reviewers."""
    visit = await known(request)
    if not visit.may_review:
        raise ProblemError(
            403, "forbidden", "this page is for reviewers: log in with the reviewer or admin key"
        )
    return visit


Anybody = Annotated[Visit, Depends(anybody)]
Known = Annotated[Visit, Depends(known)]
Reviewing = Annotated[Visit, Depends(reviewing)]
