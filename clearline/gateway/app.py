"""The application: routes over parts, and the one place where whatever goes wrong becomes a problem document."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clearline.contract import ContractError
from clearline.gateway import routes
from clearline.gateway.answers import problem_of, problem_response
from clearline.gateway.console.desk import Console
from clearline.gateway.console.stream import STREAM
from clearline.gateway.finance.pages import Finance
from clearline.gateway.guard import Guard
from clearline.gateway.metrics import Metrics
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from schemas.errors import BadInputError, PartUnavailableError
from streams import traces

TITLE = "Clearline"
_TOLD = (Problem, ContractError, RequestValidationError, HTTPException, PartUnavailableError, BadInputError)


def create_app(parts: Parts) -> FastAPI:
    """The gateway over these parts. The parts are started and stopped by whoever made them."""
    app = FastAPI(
        title=TITLE, version="1", openapi_url=None, docs_url=None, redoc_url=None,
        redirect_slashes=False,  # the redirect would go to whatever Host the request names
    )  # fmt: skip
    app.state.parts = parts
    app.state.metrics = Metrics(parts)
    for router in routers():
        app.include_router(router)
    for kind in _TOLD:
        app.add_exception_handler(kind, _told)
    app.add_middleware(Finance, parts=parts)
    if parts.console is not None:
        app.add_middleware(Console, parts=parts)
    app.add_middleware(Edge, parts=parts, metrics=app.state.metrics)
    own = parts.settings.gateway
    app.add_middleware(
        Guard, bytes_max=own.body_bytes_max, table_bytes_max=own.table_bytes_max, base_url=parts.base_url
    )
    return app


def routers() -> list[APIRouter]:
    """The routers of all nouns: every module of `routes` has one."""
    names = sorted(found.name for found in pkgutil.iter_modules(routes.__path__))
    names.sort(key=lambda name: name != "transactions")  # asked for most; they are looked through in this order
    return [importlib.import_module(f"{routes.__name__}.{name}").router for name in names]


async def _told(request: Request, error: Exception) -> Response:
    parts: Parts = request.app.state.parts
    problem = problem_of(error)
    if problem.code == "method_not_allowed":  # Starlette names the methods of the first route only
        problem.headers["Allow"] = ", ".join(sorted(allowed(request.app.router.routes, request.scope)))
    return problem_response(problem, parts.base_url)


def allowed(routes: Iterable[Any], scope: Scope) -> set[str]:
    """The methods that the path of this call has."""
    found: set[str] = set()
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found |= allowed(inner.routes, scope)
        elif route.matches(scope)[0] is not Match.NONE:
            found |= set(route.methods or ())
    return found


class Edge:
    """Around the routes: what nobody expected becomes a problem that says nothing of it; every answer is counted."""

    def __init__(self, app: ASGIApp, parts: Parts, metrics: Metrics) -> None:
        self._app, self._parts, self._metrics = app, parts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, seconds = 0, 0.0
        began = time.perf_counter()
        followed = traces.active and traces.active.call(scope["method"], scope["path"], scope["headers"])

        async def sent(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.perf_counter() - began
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as e:
            if status:
                raise
            await problem_response(problem_of(e), self._parts.base_url)(scope, receive, sent)
        finally:
            endless = scope.get(STREAM, False)  # it counts by when it began: how long somebody watches is no latency
            self._metrics.answered(scope, status, seconds if endless else time.perf_counter() - began)
            if followed and traces.active is not None:
                traces.active.answered(followed, getattr(scope.get("route"), "path", "other"), status)
