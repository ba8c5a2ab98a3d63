"""What a gateway says of itself: to load balancers, to Prometheus and to people."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from clearline import __version__
from clearline.gateway.metrics import CONTENT_TYPE
from clearline.gateway.security import parts_of

router = APIRouter(tags=["status"])


@router.get("/healthz")
async def healthz() -> Response:
    """The process answers."""
    return _json({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Whether it can take commands: the broker is there, replies and keys are followed."""
    troubles = parts_of(request).ready()
    return _json({"status": "not ready" if troubles else "ready", "troubles": troubles}, 503 if troubles else 200)


@router.get("/v1/status")
async def status(request: Request) -> Response:
    """What this gateway is, and how far what it knows is behind."""
    parts = parts_of(request)
    troubles = parts.ready()
    return _json(
        {
            "status": "not ready" if troubles else "ready",
            "troubles": troubles,
            "world": parts.settings.world,
            "sandbox": parts.settings.sandbox,
            "version": __version__,
            "limiter": "local" if parts.gate.local else "redis",
            **parts.figures(),
        }
    )


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All figures, for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE)


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
