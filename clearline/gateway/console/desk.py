"""The pages of the console under /operations: who gets in, what every answer carries, and the live page itself.

An application of its own beside the API's routes, like the page for finance: it answers with pages, takes a cookie, and
every change is a form that is sent by POST. What the forms do is `acts.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl
from uuid import uuid4

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from clearline import keys
from clearline.gateway import security, staff_pages
from clearline.gateway.console.board import SECTIONS, environment
from clearline.gateway.console.parts import ConsoleParts
from clearline.gateway.console.stream import SESSION_ENDED, STREAM, Stream, events
from clearline.gateway.console.watch import Watch
from clearline.gateway.console.works import LEVELS, Works
from clearline.gateway.finance import session as sessions
from clearline.gateway.finance.session import Door
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from clearline.gateway.staff_pages import STATUS
from schemas.errors import BadInputError, PartUnavailableError
from schemas.identity import BANK
from schemas.records import AccessKey

T = TypeVar("T")
log = structlog.get_logger()

DOOR = Door("operations", "/operations", "status")
PATH = DOOR.path
OPERATE = "operate"
NAV = (
    ("live", PATH, "Live"), ("dead-letters", f"{PATH}/dead-letters", "Dead letters"),
    ("freeze", f"{PATH}/freeze", "Freeze"),
)  # fmt: skip
FORM_FIELDS_MAX = 20
SECURITY = {
    **staff_pages.SECURITY,
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}
PACKAGE = "clearline.gateway.console"
WHY = {
    "key.unknown": "This key is not known here, or has ended.",
    "key.not_bank": "Only keys of the bank's staff open this page.",
    "key.no_scope": "This key lacks the scope status.",
    "key.signed_only": "This key takes signed requests only, which a browser cannot make.",
    "key.certificate": "This key is bound to a client certificate that was not shown.",
}
_NAMES = ("about", "error", "script", "told")  # what templates ask for and not every page has


@dataclass(slots=True)
class Page:
    """One request. `key`: of the one who is signed in."""

    console: Console
    request: Request
    here: str
    session: sessions.Session | None = None
    key: AccessKey | None = None

    @property
    def parts(self) -> Parts:
        return self.console.parts

    async def ask(self, question: Callable[[Works], T]) -> T:
        """What the works answer, asked in their thread. Raises PartUnavailableError, BadInputError."""
        return await self.console.own.ask(question)

    @property
    def query(self) -> dict[str, str]:
        """The query; of a name that comes twice the last one."""
        return {n: v.strip() for n, v in self.request.query_params.items()}

    @property
    def who(self) -> str:
        """The person who is signed in, as acts are recorded under."""
        return (self.key.holder or f"key {self.key.key_id}") if self.key is not None else ""

    @property
    def may_operate(self) -> bool:
        """Whether he may change things."""
        return self.key is not None and bool(self.key.holder) and OPERATE in keys.scopes_of(self.key.scopes)

    def html(self, template: str, title: str, status: int = 200, **more: Any) -> Response:
        """A page from a template."""
        text = environment().get_template(template).render(
            **{**dict.fromkeys(_NAMES, ""), **more}, title=title, here=self.here, world=self.parts.settings.world,
            session=self.session, who=self.who, may_operate=self.may_operate, nav=NAV,
            style=f"{PATH}/console.css?{staff_pages.static(PACKAGE, 'console.css')[1]}",
        )  # fmt: skip
        return Response(text, status, media_type="text/html; charset=utf-8")

    def message(self, title: str, text: str, status: int) -> Response:
        """A page with one sentence."""
        return self.html("message.html", title, status, text=text)


Handler = Callable[[Page], Awaitable[Response]]


class Console:
    """Hands what is asked under /operations to the pages, and everything else on."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        from clearline.gateway.console import acts

        self._app = app
        self.parts = parts
        assert parts.console is not None
        self.own: ConsoleParts = parts.console
        self.watch: Watch = self.own.watch
        routes = [
            *(self._route(*row) for row in (("", "live", _live), ("/events", "live", _events), *acts.PAGES)),
            Route(f"{PATH}/sign-in", self._open(_sign_in), methods=["POST"]),
            Route(f"{PATH}/sign-out", self._open(_sign_out), methods=["POST"]),
            *(
                Route(f"{PATH}/{name}", staff_pages.serving(PACKAGE, name, SECURITY), methods=["GET"])
                for name in ("console.css", "console.js")
            ),
            Route("/{path:path}", self._open(_not_found), methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
        ]
        self._pages = Starlette(routes=routes)
        self._pages.router.redirect_slashes = False  # the redirect would go to whatever Host the request names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        ours = scope["type"] == "http" and (path == PATH or path.startswith(PATH + "/"))
        await (self._pages if ours else self._app)(scope, receive, send)

    def _route(self, path: str, here: str, handler: Handler, methods: Sequence[str] = ("GET",)) -> Route:
        """A page for those who are signed in; everybody else gets the form. What changes something is a POST of one of
        our own pages, by a key that may."""

        async def signed_in(page: Page) -> Response:
            parts, request = self.parts, page.request
            page.session = sessions.current(parts, request, DOOR)
            if page.session is None:
                if request.url.path == f"{PATH}/events":
                    return Response(SESSION_ENDED, 401, media_type="text/plain; charset=utf-8")
                return _form(page, 401, str(request.url.path) if request.method == "GET" else PATH, request.url.query)
            page.key = security.key_row(parts, page.session.key_id)
            if (await parts.gate.take(BANK, 1)).refused:
                raise Problem("rate_limited")
            if request.method == "POST":
                if not sessions.own_form(request):
                    return page.message("Not taken", "This form did not come from a page of this gateway.", 403)
                if not page.may_operate:
                    return page.message("Not allowed", f"Your key may look only: it lacks the scope {OPERATE}.", 403)
            response = await handler(page)
            if "last-event-id" not in request.headers:  # a stream that comes again by itself is no sign of a person
                sessions.keep(parts, request, response, page.session, DOOR)
            return response

        return Route(PATH + path, self._open(signed_in, here, PATH + path), methods=list(methods))

    def _open(self, handler: Handler, here: str = "", route: str = PATH) -> Callable[[Request], Awaitable[Response]]:
        return staff_pages.answering(lambda request: Page(self, request, here), handler, failed, route, SECURITY)


def failed(page: Page, error: Exception) -> Response:
    """The page that says what went wrong, and nothing of the inside."""
    match error:
        case Problem() if error.code in STATUS:
            busy = "Too many pages at once; wait a moment and load it again."
            return page.message("Not now", busy if STATUS[error.code] == 429 else error.detail, STATUS[error.code])
        case BadInputError():
            return page.message("Not taken", str(error), 400)
        case PartUnavailableError():
            log.warning("unavailable", error=str(error))
            return page.message("Not available", f"{error.part} does not answer. Nothing is known to be done.", 503)
    instance = f"urn:uuid:{uuid4()}"
    log.error("internal", instance=instance, error=f"{type(error).__name__}: {error}", exc_info=error)
    return page.message("Our own mistake", f"Something went wrong here. In the log it is {instance}.", 500)


# ---- the live page ---------------------------------------------------------------------------------------------------


async def _live(page: Page) -> Response:
    """Everything as it is now; the script goes on from there."""
    picture = await page.console.watch.newest()
    shown = {name: _Safe(picture.sections.get(name, "<p>Not looked at yet.</p>")) for name in SECTIONS}
    error = f"No new figures: {picture.error}" if picture.error else ""
    script = f"{PATH}/console.js?{staff_pages.static(PACKAGE, 'console.js')[1]}"
    return page.html("live.html", "Live", s=shown, levels=LEVELS, error=error, script=script)


class _Safe(str):
    """HTML that was made by templates which escape."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


async def _events(page: Page) -> Response:
    """The stream of one viewer."""
    parts, request, watch = page.parts, page.request, page.console.watch

    def why_end() -> str:
        return "" if sessions.current(parts, request, DOOR) is not None else SESSION_ENDED

    if watch.full:
        busy = "So many pages watch already that this one is not live; load it again to see newer figures."
        return Response(busy, 503, {"Retry-After": "30"}, "text/plain; charset=utf-8")
    request.scope[STREAM] = True
    return Stream(events(watch, why_end, parts.stopping))


# ---- signing in and out ----------------------------------------------------------------------------------------------


def _form(page: Page, status: int, path: str, query: str = "", error: str = "", told: str = "") -> Response:
    """The form that takes a key. `path`, `query`: where it leads on to."""
    if not page.parts.settings.gateway.master_key:
        return page.message("Sign in", "Set CLEARLINE_GATEWAY__MASTER_KEY: sessions are sealed under it.", 503)
    wanted = sessions.next_page(f"{path}?{query}" if query else path, DOOR)
    elsewhere = page.request.method == "GET" and sessions.from_elsewhere(page.request)
    response = page.html(
        "sign_in.html", "Sign in", status, next=wanted, error=error, told=told, from_elsewhere=elsewhere
    )
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Form realm="operations"'
    return response


async def _sign_in(page: Page) -> Response:
    parts, request = page.parts, page.request
    if not sessions.own_form(request):
        return page.message("Sign in", "This form did not come from a page of this gateway.", 403)
    form = await form_of(request)
    path = sessions.next_page(form.get("next", ""), DOOR)
    if wait := await sessions.attempt(parts, request, DOOR):
        response = _form(page, 429, path, error=f"Too many attempts; wait {wait} s.")
        response.headers["Retry-After"] = str(wait)
        return response
    key, why = sessions.refused(parts, request, form.get("key", ""), DOOR)
    if key is None or why:
        log.warning("operations_sign_in_refused", key_id=key.key_id if key is not None else "", why=why)
        return _form(page, 401 if key is None else 403, path, error=WHY[why])
    if not parts.settings.gateway.master_key:
        return _form(page, 503, path)
    response = RedirectResponse(path, 303)
    sessions.keep(parts, request, response, sessions.begin(parts, key), DOOR, new=True)
    log.info("operations_sign_in", key_id=key.key_id, holder=key.holder)
    return response


async def _sign_out(page: Page) -> Response:
    if not sessions.own_form(page.request):
        return page.message("Sign out", "This form did not come from a page of this gateway.", 403)
    response = _form(page, 200, PATH, told="You are signed out.")
    sessions.end(page.parts, page.request, response, DOOR)
    return response


async def form_of(request: Request) -> Mapping[str, str]:
    """What a form sent. Raises BadInputError for what is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadInputError("a form is application/x-www-form-urlencoded")
    try:
        text = (await request.body()).decode("ascii")
        return dict(
            parse_qsl(
                text, keep_blank_values=True, strict_parsing=True, max_num_fields=FORM_FIELDS_MAX, errors="strict"
            )
        )
    except ValueError:
        raise BadInputError("this is no form") from None


async def _not_found(page: Page) -> Response:
    page.session = sessions.current(page.parts, page.request, DOOR)
    if page.session is None and page.request.method == "GET":
        return _form(page, 401, page.request.url.path)
    if page.request.method in ("GET", "HEAD"):
        return page.message("Not found", "There is no such page.", 404)
    return page.message("Not taken", "This page takes no such request.", 405)
