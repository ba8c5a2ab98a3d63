"""`clearline migrate`: the tables and views of ClickHouse, planned and brought up to this version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live_settings, looks_only

if TYPE_CHECKING:
    from sinks.clickhouse import ClickHouseConfig
    from sinks.migrate import Migration


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="migrate", help="Tables and views of the world's database in ClickHouse.",
        epilog="Example: clearline migrate plan",
    )  # fmt: skip
    group.command("plan", **example("clearline migrate plan"))(plan)
    group.command("apply", **example("clearline migrate apply"))(apply)
    group.command("status", **example("clearline migrate status --json"))(status)


def plan(as_json: screen.JsonFlag = False) -> None:
    """Say what `apply` would do. Exit code 2 when a migration was changed after it was applied."""
    from sinks import migrate

    config = _config()
    todo = migrate.plan(config)
    lines = [f"to do: {m.kind} {m.title}" for m in todo]
    _answer(config.database, todo, as_json, lines or [f"{config.database} is up to date: nothing to do"])


def apply(
    dry_run: Annotated[bool, looks_only("The same as `migrate plan`")] = False, as_json: screen.JsonFlag = False
) -> None:
    """Apply the migrations that are missing and make the views anew that changed. Again changes nothing."""
    from sinks import migrate

    if dry_run:
        plan(as_json)
        return
    config = _config()
    done = migrate.apply(config)
    lines = [f"done: {m.kind} {m.title}" for m in done]
    _answer(config.database, done, as_json, lines or [f"{config.database} was up to date: nothing was done"])


def status(as_json: screen.JsonFlag = False) -> None:
    """List every migration and view and whether the database has it."""
    from sinks import migrate

    config = _config()
    found = migrate.status(config)
    lines = [f"{'applied' if m.applied else 'to do':8} {m.kind:9} {m.title}" for m in found]
    _answer(config.database, found, as_json, lines)


def _config() -> ClickHouseConfig:
    """Where the database is: with an address of ClickHouse in the settings nothing else need run."""
    from clearline.config import load_settings
    from clearline.connection import clickhouse_config

    settings = load_settings()
    return clickhouse_config(settings if settings.clickhouse.host else live_settings())


def _answer(database: str, steps: Sequence[Migration], as_json: bool, lines: Sequence[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"kind": m.kind, "name": m.title, "applied": m.applied, "checksum": m.checksum} for m in steps
    ]
    screen.answer({"database": database, "steps": rows}, as_json, list(lines))
