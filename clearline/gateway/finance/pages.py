"""The pages: each reads what was asked, has the catalogue's reports made at one cut, and writes HTML.

An application of its own beside the API's routes, because it answers with pages and not with problem documents, and
takes a cookie and not a credential in a header. Only signing in and out is a POST.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import structlog
from jinja2 import Environment
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from clearline.gateway import staff_pages
from clearline.gateway.finance import session as sessions
from clearline.gateway.finance.asked import MOMENTS, link
from clearline.gateway.finance.words import say_or, words
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from clearline.gateway.staff_pages import STATUS
from schemas.errors import BadInputError, PartUnavailableError
from schemas.identity import BANK

log = structlog.get_logger()

LANGUAGE = "en"
NAV = ("today", "trial-balance", "statement", "flows", "breaks", "closes", "reports")
_HTML = "text/html; charset=utf-8"
_NAMES = (  # what templates ask for and not every page has
    "about", "action", "as_of", "charts", "charts_cut", "downloads", "error", "error_field", "facts", "fields", "links",
    "moments", "moments_open", "none", "pages", "rows_said", "sections", "short", "summary", "summary_title", "table",
    "tables", "told", "verdict", "verdicts",
)  # fmt: skip
_NOTHING: dict[str, Any] = dict.fromkeys(_NAMES, ())
PACKAGE = "clearline.gateway.finance"


@dataclass(slots=True)
class Page:
    """One request for a page. `here`: its name in the navigation."""

    parts: Parts
    request: Request
    here: str
    session: sessions.Session | None = None
    language: str = LANGUAGE

    @property
    def query(self) -> dict[str, str]:
        """The query; of a name that comes twice the last one."""
        return dict(self.request.query_params)

    @property
    def path(self) -> str:
        return self.request.url.path

    @property
    def say(self) -> Callable[..., str]:
        """The page's sentences."""
        return words(self.language)

    def name(self, kind: str, name: str, otherwise: str = "") -> str:
        """A column's, parameter's or report's name in words."""
        plain = otherwise or name.replace("_", " ").replace("-", " ").capitalize()
        return say_or(self.language, f"{kind}.{name}", plain)

    def html(self, template: str, title: str, status: int = 200, **more: Any) -> Response:
        """A page from a template."""
        carried = {n: self.query[n] for n in MOMENTS if self.session is not None and self.query.get(n)}
        nav = [(n, link(sessions.PATH + ("" if n == "today" else f"/{n}"), carried)) for n in NAV]
        text = _environment().get_template(template).render(
            **{**_NOTHING, **more}, say=self.say, language=self.language, title=title, here=self.here,
            world=self.parts.settings.world, session=self.session, nav=nav,
            style=f"{sessions.PATH}/finance.css?{staff_pages.static(PACKAGE, 'finance.css')[1]}",
        )  # fmt: skip
        return Response(text, status, media_type=_HTML)


Handler = Callable[[Page], Awaitable[Response]]


def finance_app(parts: Parts) -> ASGIApp:
    """The application under /finance."""
    from clearline.gateway.finance import breaks, closes, flows, overview, tables

    routes = [
        *(
            _page(parts, path, here, handler)
            for path, here, handler in (*overview.PAGES, *tables.PAGES, *flows.PAGES, *breaks.PAGES, *closes.PAGES)
        ),
        Route(f"{sessions.PATH}/sign-in", _open(parts, _sign_in), methods=["POST"]),
        Route(f"{sessions.PATH}/sign-out", _open(parts, _sign_out), methods=["POST"]),
        Route(f"{sessions.PATH}/finance.css", staff_pages.serving(PACKAGE, "finance.css"), methods=["GET"]),
        Route("/{path:path}", _open(parts, _not_found), methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False  # the redirect would go to whatever Host the request names
    return app


class Finance:
    """Hands what is asked under /finance to the pages, and everything else on."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._pages = finance_app(parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        ours = scope["type"] == "http" and (path == sessions.PATH or path.startswith(sessions.PATH + "/"))
        await (self._pages if ours else self._app)(scope, receive, send)


def _page(parts: Parts, path: str, here: str, handler: Handler) -> Route:
    """A page for those who are signed in; everybody else gets the form."""

    async def signed_in(page: Page) -> Response:
        page.session = sessions.current(parts, page.request)
        if page.session is None:
            return _form(page, 401, str(page.request.url.path), page.request.url.query)
        if (await parts.gate.take(BANK, 1)).refused:
            raise Problem("rate_limited")
        response = await handler(page)
        sessions.keep(parts, page.request, response, page.session)
        return response

    route = sessions.PATH + path
    return Route(route, _open(parts, signed_in, here, route), methods=["GET"])


def _open(
    parts: Parts, handler: Handler, here: str = "", route: str = sessions.PATH
) -> Callable[[Request], Awaitable[Response]]:
    return staff_pages.answering(lambda request: Page(parts, request, here), handler, failed, route)


def failed(page: Page, error: Exception) -> Response:
    """The page that says what went wrong, and nothing of the inside."""
    say = page.say
    match error:
        case Problem() if error.code in STATUS:
            text = say("busy") if STATUS[error.code] == 429 else error.detail
            return page.html("message.html", say("bad"), STATUS[error.code], text=text)
        case BadInputError():
            return page.html("message.html", say("bad"), 400, text=str(error))
        case PartUnavailableError():
            log.warning("unavailable", error=str(error))
            text = say("unavailable.text", part="ClickHouse")
            return page.html("message.html", say("unavailable"), 503, text=text)
    instance = f"urn:uuid:{uuid4()}"
    log.error("internal", instance=instance, error=f"{type(error).__name__}: {error}", exc_info=error)
    return page.html("message.html", say("internal"), 500, text=say("internal.text", instance=instance))


# ---- signing in and out ----------------------------------------------------------------------------------------------


def _form(page: Page, status: int, path: str, query: str = "", error: str = "", told: str = "") -> Response:
    """The form that takes a key. `path`, `query`: where it leads on to."""
    if not page.parts.settings.gateway.master_key:
        return page.html("message.html", page.say("sign_in"), 503, text=page.say("no_master_key"))
    wanted = sessions.next_page(f"{path}?{query}" if query else path)
    elsewhere = page.request.method == "GET" and sessions.from_elsewhere(page.request)
    response = page.html(
        "sign_in.html", page.say("sign_in"), status, next=wanted, error=error, told=told, from_elsewhere=elsewhere
    )
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Form realm="finance"'
    return response


async def _sign_in(page: Page) -> Response:
    parts, request, say = page.parts, page.request, page.say
    if not sessions.own_form(request):
        return page.html("message.html", say("sign_in"), 403, text=say("foreign_form"))
    form = await _fields(request)
    path = sessions.next_page(form.get("next", ""))
    if wait := await sessions.attempt(parts, request):
        response = _form(page, 429, path, error=say("wait", seconds=wait))
        response.headers["Retry-After"] = str(wait)
        return response
    key, why = sessions.refused(parts, request, form.get("key", ""))
    if key is None or why:
        log.warning("finance_sign_in_refused", key_id=key.key_id if key is not None else "", why=why)
        return _form(page, 401 if key is None else 403, path, error=say(why))
    if not parts.settings.gateway.master_key:
        return _form(page, 503, path)
    response = RedirectResponse(path, 303)
    sessions.keep(parts, request, response, sessions.begin(parts, key), new=True)
    log.info("finance_sign_in", key_id=key.key_id)
    return response


async def _sign_out(page: Page) -> Response:
    if not sessions.own_form(page.request):
        return page.html("message.html", page.say("sign_out"), 403, text=page.say("foreign_form"))
    response = _form(page, 200, sessions.PATH, told=page.say("ended"))
    sessions.end(page.parts, page.request, response)
    return response


async def _fields(request: Request) -> dict[str, str]:
    """What a form sent. Raises BadInputError for what is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadInputError("a form is application/x-www-form-urlencoded")
    try:
        return dict(parse_qsl((await request.body()).decode("ascii"), strict_parsing=True, max_num_fields=10))
    except ValueError:
        raise BadInputError("this is no form") from None


async def _not_found(page: Page) -> Response:
    page.session = sessions.current(page.parts, page.request)
    if page.session is None and page.request.method == "GET":
        return _form(page, 401, page.path)
    status, name = (404, "not_found") if page.request.method in ("GET", "HEAD") else (405, "method")
    return page.html("message.html", page.say(f"{name}.title"), status, text=page.say(name))


# ---- what pages are made of ------------------------------------------------------------------------------------------


@lru_cache(1)
def _environment() -> Environment:
    return staff_pages.templates(PACKAGE)
