"""The contracts as documents: OpenAPI and AsyncAPI, and a page to read and try the first, without anybody's CDN."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import orjson
from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import Response

from clearline.gateway.problems import Problem
from clearline.gateway.security import parts_of

router = APIRouter(tags=["gateway"])

_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
_A_DAY = {"Cache-Control": "public, max-age=86400"}


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """This API as OpenAPI 3.1."""
    return Response(_openapi(parts_of(request).base_url), media_type="application/json")


@router.get("/asyncapi.yaml")
async def asyncapi() -> Response:
    """The topics as AsyncAPI 3."""
    return Response(_asyncapi(), media_type="application/yaml")


@router.get("/docs")
async def docs() -> Response:
    """The API to read and to try."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="Clearline",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )


@router.get("/docs/{file}")
async def docs_file(file: str) -> Response:
    """What that page loads."""
    if file not in _FILES:
        raise Problem("not_found")
    return Response(_static(file), media_type=_FILES[file], headers=_A_DAY)


@lru_cache(4)
def _openapi(base_url: str) -> bytes:
    from clearline.gateway.openapi.document import document

    return orjson.dumps(document(base_url))


@lru_cache(1)
def _asyncapi() -> str:
    from clearline.asyncapi import to_yaml

    return to_yaml()


@lru_cache(len(_FILES))
def _static(file: str) -> bytes:
    return (files("fastapi_offline") / "static" / file).read_bytes()
