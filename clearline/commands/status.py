"""`clearline status`: what runs, how far behind it is, what is wrong and what to do next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from clearline import screen
from clearline.commands.common import example
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.config import Settings
    from clearline.embedded.folder import DataFolder
    from clearline.status.model import Status

WATCH_S = 1.0


def register(app: typer.Typer) -> None:
    examples = ("clearline status", "clearline status --watch", "clearline status --json")
    app.command("status", **example(*examples))(status)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """What is wrong, with its cause and the next command; then every part and role, how far each is behind, throughput,
    latency, partitions, tie-out, dead letters, disks. Exit code 3 when something is down, 1 when everything runs and
    something is critical (docs/OPERATING.md has a section for each)."""
    from clearline import detached
    from clearline.config import load_settings
    from clearline.embedded.folder import DataFolder
    from clearline.stack import check_world
    from clearline.status.collect import collect, is_external
    from clearline.status.shown import readable

    if watch and as_json:
        raise BadInputError("--watch is for people; call `clearline status --json` again and again instead")
    settings = load_settings()
    folder = DataFolder(settings.data_dir)
    run = detached.running(folder)
    if run is not None and not is_external(settings):
        check_world(settings, run)
    if watch and (run is not None or is_external(settings)):
        _watch(settings, folder)
        return
    found = collect(settings, folder)
    screen.answer(found.to_dict(), as_json, readable(found))
    code = exit_code(found)
    if code:
        raise typer.Exit(code)


def exit_code(found: Status) -> int:
    """3 when something is down or waits for something that is, 1 when all runs and something is critical, else 0."""
    troubled = any(r.state != "ready" or r.waiting_for or r.paused for r in found.roles)
    serves = all(p.state == "up" and p.process in ("", "ready") for p in found.parts)
    if found.state not in ("running", "external") or troubled or not serves or found.lags_unknown:
        return 3
    return 1 if any(i.severity == "critical" for i in found.incidents) else 0


def _watch(settings: Settings, folder: DataFolder) -> None:
    """Shows looks until Ctrl-C."""
    from rich.console import Group
    from rich.live import Live

    from clearline.status.collect import Collector
    from clearline.status.shown import readable

    collector = Collector(settings, folder)
    try:
        with Live(console=screen.results(), screen=False, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                live.update(Group(*readable(collector.collect(), addresses=False)), refresh=True)
                time.sleep(max(0.1, WATCH_S - (time.monotonic() - began)))
    finally:
        collector.close()
