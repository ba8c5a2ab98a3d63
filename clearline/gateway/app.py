"""The application: routes over parts, and the one place where whatever goes wrong becomes a problem document."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from clearline.contract import ContractError, FieldError
from clearline.gateway import problems
from clearline.gateway.guard import Guard
from clearline.gateway.parts import Parts
from clearline.gateway.problems import Problem
from schemas.errors import PartUnavailableError

log = structlog.get_logger()

_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


def create_app(parts: Parts) -> FastAPI:
    """The gateway over these parts. The parts are started and stopped by whoever made them."""
    app = FastAPI(title="Clearline", version="1", openapi_url="/openapi.json", docs_url=None, redoc_url=None)
    app.state.parts = parts
    for router in routers():
        app.include_router(router)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(ContractError, _contract)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(PartUnavailableError, _unavailable)
    app.add_exception_handler(Exception, _internal)
    app.add_middleware(Guard, bytes_max=parts.settings.gateway.body_bytes_max, base_url=parts.base_url)
    return app


def routers() -> list[Any]:
    """The routers of all nouns."""
    return []


def answer(request: Request, problem: Problem) -> Response:
    """A problem as a response."""
    parts: Parts = request.app.state.parts
    document = problems.document(problem, parts.base_url, f"urn:uuid:{uuid4()}")
    headers = dict(problem.headers)
    if problem.status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    if problem.code == "internal":
        log.error("internal", instance=document["instance"], path=request.url.path, error=problem.detail)
        document["detail"] = document["title"]
    return Response(orjson.dumps(document), problem.status, headers, problems.MEDIA_TYPE)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(request, error)


async def _contract(request: Request, error: Exception) -> Response:
    assert isinstance(error, ContractError)
    return answer(request, Problem("field_invalid", errors=error.errors))


async def _validation(request: Request, error: Exception) -> Response:
    """FastAPI's own finding, in parameters of path, query and headers."""
    assert isinstance(error, RequestValidationError)
    found = [FieldError(".".join(str(p) for p in e["loc"][1:]), str(e["msg"])) for e in error.errors()]
    return answer(request, Problem("field_invalid", errors=found))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _BY_STATUS.get(error.status_code, "body_invalid" if error.status_code < 500 else "internal")
    return answer(request, Problem(code, headers=dict(error.headers or {})))


async def _unavailable(request: Request, error: Exception) -> Response:
    assert isinstance(error, PartUnavailableError)
    log.warning("unavailable", path=request.url.path, error=str(error))
    return answer(request, Problem("unavailable", headers={"Retry-After": "1"}))


async def _internal(request: Request, error: Exception) -> Response:
    return answer(request, Problem("internal", f"{type(error).__name__}: {error}"))
