"""What the pages for staff (finance, operations) share: headers, errors that become pages, files, templates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

P = TypeVar("P")

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # not none: a form would say nothing of where it was
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
NOT_STORED = {"Cache-Control": "private, no-store"}
STATUS = {  # of the problems that a page tells in words
    "rate_limited": 429, "quota_exceeded": 429, "report_too_large": 422, "not_found": 404, "body_too_large": 413,
}  # fmt: skip
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class _Named:
    """A route's pattern, as metrics look for it."""

    path: str


def answering(
    page_of: Callable[[Request], P],
    handler: Callable[[P], Awaitable[Response]],
    failed: Callable[[P, Exception], Response],
    route: str,
    security: Mapping[str, str] = SECURITY,
) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose errors become pages, and whose answers stay with whoever asked. `route`: its pattern, which
    metrics call it by."""
    private = {**security, **NOT_STORED}

    async def answer(request: Request) -> Response:
        page = page_of(request)
        request.scope["route"] = _Named(route)
        try:
            response = await handler(page)
        except Exception as e:
            response = failed(page, e)
        response.headers.update({n: v for n, v in private.items() if n not in response.headers})
        return response

    return answer


def serving(
    package: str, name: str, security: Mapping[str, str] = SECURITY
) -> Callable[[Request], Awaitable[Response]]:
    """Answers with a file of the package's folder `static`, which is called by its content and so never changes."""

    async def answer(_request: Request) -> Response:
        headers = {**security, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(static(package, name)[0], 200, headers, _TYPES[name.rpartition(".")[2]])

    return answer


@lru_cache(8)
def static(package: str, name: str) -> tuple[bytes, str]:
    """A file of the package's folder `static`, and the name of these very bytes."""
    text = (files(package) / "static" / name).read_bytes()
    return text, sha256(text).hexdigest()[:12]


def templates(package: str) -> Environment:
    """Templates in which everything is escaped, and a name that is missing is an error."""
    return Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
