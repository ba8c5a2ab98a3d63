"""From a request to a Principal: key, signature, certificate; then the limits of calls."""

from __future__ import annotations

from fastapi import Request

from clearline.gateway.parts import Parts
from clearline.gateway.principal import Principal
from clearline.gateway.problems import Problem


def parts_of(request: Request) -> Parts:
    """The gateway's parts."""
    parts: Parts = request.app.state.parts
    return parts


async def principal(request: Request) -> Principal:
    """Who asks. Raises Problem."""
    raise Problem("unauthenticated")
