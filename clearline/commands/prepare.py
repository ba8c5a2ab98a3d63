"""`clearline prepare`: the one shot before the roles of a world start on servers that are there."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from clearline import screen
from clearline.commands.common import example


def register(app: typer.Typer) -> None:
    app.command("prepare", **example("clearline prepare --dry-run", "clearline prepare --only topics --only access"))(
        prepare
    )


def prepare(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="One part, may be repeated: topics, access, schemas, tables, users."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is missing and change nothing.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Make what is missing of a world: topics, users and rules of the brokers, schemas, tables, users of ClickHouse.

    It changes nothing that is there, so it may run again at any time, and must run before the roles of a new version
    start. Passwords of Kafka's users come from the environment, KAFKA_PASSWORD_<ROLE>.
    """
    from clearline import preparing, redaction
    from clearline.config import load_settings
    from clearline.stack import resolved_settings

    settings = load_settings()
    parts = only or []
    # With the addresses of what is asked for nothing else need be there.
    wanted = set(parts or preparing.PARTS)
    named = [
        settings.kafka.bootstrap if wanted & {"topics", "access"} else "-",
        settings.registry.url if "schemas" in wanted else "-",
        settings.clickhouse.host if wanted & {"tables", "users"} else "-",
    ]
    if not all(named):
        settings = resolved_settings(settings)
    redaction.know(settings)
    steps = (preparing.plan if dry_run else preparing.prepare)(settings, os.environ, parts)
    verb = "to do" if dry_run else "done"
    lines = [f"{verb}: {s.what}" for s in steps]
    nothing = "nothing to do" if dry_run else "nothing was missing"
    screen.answer(
        {"world": settings.world, "dry_run": dry_run, "steps": [s.to_dict() for s in steps]},
        as_json,
        lines or [f"world {settings.world}: {nothing}"],
    )
