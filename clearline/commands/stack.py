"""`clearline setup`, `up`, `restart`, `down`: the embedded stack and its roles."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands.common import example, sigterm_interrupts

if TYPE_CHECKING:
    from clearline.config import Settings


def register(app: typer.Typer) -> None:
    app.command("setup", **example("clearline setup"))(setup)
    app.command("up", **example("clearline up", "clearline up --role worker --slot 0"))(up)
    app.command("restart", **example("clearline restart worker-0 gateway-0"))(restart)
    app.command("down", **example("clearline down"))(down)


def setup(as_json: screen.JsonFlag = False) -> None:
    """Download what the embedded parts need, once per machine; a later start needs no network."""
    from clearline.config import load_settings
    from clearline.stack import Stack

    settings = load_settings()
    stack = Stack(settings)
    downloads = screen.Downloads()
    stack.prepare(downloads)
    document = {
        "parts": list(stack.parts), "cache_dir": str(settings.cache_dir),
        "downloaded_files": downloads.files, "downloaded_bytes": downloads.total,
    }  # fmt: skip
    parts = ", ".join(stack.parts) or "no part is embedded, all have addresses in the settings"
    screen.answer(document, as_json, [f"ready: {parts} ({settings.cache_dir})"])


def up(
    role: Annotated[
        str,
        typer.Option(help="One role: worker, sink-clickhouse, sink-redis, sealer, tieout, gateway."),
    ] = "",
    slot: Annotated[int, typer.Option(min=0, help="Which worker or gateway this is.")] = 0,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay until Ctrl-C instead of detaching.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Start Kafka, registry, ClickHouse, Redis and all roles, and keep them running; a killed role is restarted."""
    from clearline.config import load_settings

    settings = load_settings()
    if role:
        from clearline.roles import run_role

        run_role(role, settings, slot)
        return
    if foreground:
        _stay(settings, as_json)
        return
    from clearline import detached
    from clearline.stack import Stack, components

    run = detached.running_here(settings)
    if run is not None:
        screen.say(f"already running, supervised by pid {run['supervisor']['pid']}")
    else:
        stack = Stack(settings)
        stack.folder.check(components())
        with sigterm_interrupts():
            stack.prepare(screen.Downloads())
            run = detached.start(settings, screen.Arrivals())
    screen.answer({"state": run["state"], **_summary(run)}, as_json, [*_readable(run), "stop it with `./run down`"])


def _stay(settings: Settings, as_json: bool) -> None:
    """Runs the stack in this process until a signal. A signal during the start ends the start and what came up."""
    from clearline.stack import Stack

    ended = threading.Event()
    starting = True

    def on_signal(_number: int, _frame: object) -> None:
        ended.set()
        if starting:
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    with Stack(settings) as stack:
        stack.start(roles=True)
        starting = False
        run = stack.status()
        screen.answer({"state": run["state"], **_summary(run)}, as_json, _readable(run))
        ended.wait()


def restart(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Parts or roles, as `clearline status` names them.")
    ],
    as_json: screen.JsonFlag = False,
) -> None:
    """End parts or roles of the running stack and wait until each serves again, one after the other. Nothing is lost:
    what a worker had not committed its successor settles; what hangs or is paused is killed after 15 s."""
    from clearline import detached
    from clearline.config import load_settings

    done = detached.restart(load_settings(), names, lambda name: screen.say(f"{name} ends and starts again"))
    rows = [(name, str(x["ended"]), str(x["pid"]), f"{x['seconds']:.1f}") for name, x in done.items()]
    columns = ("name", "pid before", "pid", "seconds")
    screen.answer({"restarted": done}, as_json, [screen.table("", columns, rows, right=columns[1:])])


def down(as_json: screen.JsonFlag = False) -> None:
    """Stop all roles and parts. Data stays; the next `up` goes on where this one ended."""
    from clearline import detached
    from clearline.config import load_settings

    settings = load_settings()
    detached.running_here(settings)
    stopped = detached.stop(settings)
    text = "everything is stopped" if stopped else f"nothing was running on {settings.data_dir}"
    screen.answer({"stopped": stopped, "data_dir": str(settings.data_dir)}, as_json, [text])


def _summary(run: dict[str, Any]) -> dict[str, Any]:
    """run.json without what only the supervisor needs."""
    keep = ("pid", "state", "restarts", "error", "log")

    def short(children: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {k: child.get(k) for k in keep} | ({"metrics": url} if (url := _metrics_of(child)) else {})
            for name, child in children.items()
        }

    return {
        "world": run.get("world"),
        "data_dir": run.get("data_dir"),
        "error": run.get("error"),
        "supervisor": run.get("supervisor", {}).get("pid"),
        "addresses": run.get("addresses", {}),
        "parts": short(run.get("parts", {})),
        "roles": short(run.get("roles", {})),
    }


def _metrics_of(child: dict[str, Any]) -> str:
    """Where a role serves its metrics; empty for one that has none, and while it starts."""
    return str((child.get("ready") or {}).get("metrics", ""))


def _readable(run: dict[str, Any]) -> list[RenderableType]:
    rows = [
        (name, child["state"], child["pid"] and str(child["pid"]), child["restarts"], _short(child.get("error") or ""))
        for name, child in {**run.get("parts", {}), **run.get("roles", {})}.items()
    ]
    at = run.get("addresses", {})
    house = f"{at.get('clickhouse_host')}:{at.get('clickhouse_port')}"
    addresses = [
        ("gateway", at.get("gateway_url")),
        ("Kafka bootstrap", at.get("kafka_bootstrap")),
        ("schema registry", at.get("registry_url")),
        ("ClickHouse native", house),
        ("ClickHouse HTTP", f"http://{at.get('clickhouse_host')}:{at.get('clickhouse_http_port')}"),
        ("Redis", at.get("redis_url")),
        *((f"metrics of {name}", url) for name, c in run.get("roles", {}).items() if (url := _metrics_of(c))),
        ("data", run.get("data_dir")),
    ]
    return [
        f"world {run.get('world')}: {run.get('state')}",
        screen.table("", ("name", "state", "pid", "restarts", ""), rows, right=["pid", "restarts"]),
        "",
        *([screen.table("", ("address", ""), addresses)] if at else []),
    ]


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "…"
