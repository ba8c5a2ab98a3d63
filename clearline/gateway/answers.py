"""From whatever went wrong to a problem document: the one table for the application, for batches and for its edge."""

from __future__ import annotations

from uuid import uuid4

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from clearline.contract import ContractError, FieldError
from clearline.gateway import problems
from clearline.gateway.documents import Document
from clearline.gateway.problems import Problem
from schemas.errors import BadInputError, PartUnavailableError

log = structlog.get_logger()

_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


def problem_of(error: Exception) -> Problem:
    """What a caller is told of an error. Whatever is not known here is `internal`, and told in the log only."""
    match error:
        case Problem():
            return error
        case ContractError():
            return Problem("field_invalid", errors=error.errors)
        case RequestValidationError():  # FastAPI's own finding, in parameters of path, query and headers
            found = [FieldError(".".join(str(p) for p in e["loc"][1:]), str(e["msg"])) for e in error.errors()]
            return Problem("field_invalid", errors=found)
        case HTTPException():
            code = _BY_STATUS.get(error.status_code, "body_invalid" if error.status_code < 500 else "internal")
            return Problem(code, error.detail if error.status_code == 413 else "", headers=dict(error.headers or {}))
        case PartUnavailableError():
            log.warning("unavailable", error=str(error))
            return Problem("unavailable", headers={"Retry-After": "1"})
        case BadInputError():  # a record that no codec takes
            return Problem("field_invalid", str(error))
    problem = Problem("internal", f"{type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem


def problem_document(problem: Problem, base_url: str) -> Document:
    """The problem with a name of its own, by which the log finds it."""
    document = problems.document(problem, base_url, f"urn:uuid:{uuid4()}")
    if problem.code == "internal":
        log.error("internal", instance=document["instance"], error=problem.detail, exc_info=problem.__cause__)
        document["detail"] = document["title"]
    return document


def problem_response(problem: Problem, base_url: str) -> Response:
    """A problem as a response."""
    headers = dict(problem.headers)
    if problem.status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    document = problem_document(problem, base_url)
    return Response(orjson.dumps(document), problem.status, headers, problems.MEDIA_TYPE)
