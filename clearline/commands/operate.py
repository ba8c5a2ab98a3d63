"""`clearline tieout`, `verify`, `redis rebuild`: an operator's proofs and repairs."""

from __future__ import annotations

from typing import Annotated

import typer

from clearline import screen
from clearline.commands.common import example, live_settings, looks_only
from schemas.errors import BadInputError


def register(app: typer.Typer) -> None:
    app.command("tieout", **example("clearline tieout --json", "clearline tieout --repair clickhouse"))(tieout)
    app.command("verify", **example("clearline verify", "clearline verify --drained"))(verify)
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name="redis", help="The balances in Redis.", epilog="Example: clearline redis rebuild")
    group.command("rebuild", **example("clearline redis rebuild"))(rebuild)


def tieout(
    part: Annotated[str, typer.Argument(help="With --repair: redis or clickhouse; without it, both.")] = "",
    repair: Annotated[
        bool, typer.Option("--repair", help="Build what is wrong anew from the journal, while everything runs.")
    ] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Compare journal, ClickHouse and Redis at a common offset. Exit code 1 when they differ, or still do."""
    from clearline.audit.tieout import REPAIRABLE, tieout_whole
    from clearline.connection import connect

    if part and not repair:
        raise BadInputError(f"{part}: a part is named only with --repair, as in `clearline tieout --repair redis`")
    if part and part not in REPAIRABLE:
        raise BadInputError(f"--repair {part}: parts that can be built anew are {', '.join(REPAIRABLE)}")
    settings = live_settings()
    connect(settings)  # refuses another number of partitions, as `publish` does
    parts = set(REPAIRABLE if not part else (part,)) if repair else set[str]()
    found = tieout_whole(settings, parts, screen.say)
    screen.answer(found.to_dict(), as_json, found.lines())
    if not found.ok:
        raise typer.Exit(1)


def verify(
    drained: Annotated[
        bool, typer.Option("--drained", help="Nothing is being published: what still waits is a difference, too.")
    ] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Recompute the whole ledger from its commands, independently, and compare. Exit code 1 when anything differs."""
    from clearline.audit.verify import verify as check
    from clearline.connection import connect

    settings = live_settings()
    connect(settings)
    with screen.bar("commands checked", None, quiet=as_json) as bar:
        before: dict[int, int] = {}

        def progress(partition: int, done: int, _all: int) -> None:
            before[partition] = done
            bar.to(sum(before.values()))

        verdict = check(settings, progress, drained=drained)
    screen.answer(verdict.to_dict(), as_json, verdict.lines())
    if not verdict.ok:
        raise typer.Exit(1)


def rebuild(
    dry_run: Annotated[bool, looks_only("Say how much would be read")] = False, as_json: screen.JsonFlag = False
) -> None:
    """Delete the balances in Redis and build them up from ledger.state, as after FLUSHALL. Settlement goes on."""
    from clearline.connection import kafka_config, redis_config, registry_of
    from streams.sink_host import rebuild_redis
    from streams.topics import Topics

    settings = live_settings()
    if dry_run:
        from streams.reader import spans

        kept = spans(kafka_config(settings), Topics(settings.world).state)
        records = sum(high - low for low, high in kept.values())
        text = f"at most {records:,} records of ledger.state would be read, and the balances in Redis written anew"
        screen.answer({"dry_run": True, "records_max": records}, as_json, [text])
        return
    with screen.bar("records", None, quiet=as_json) as bar:
        written = rebuild_redis(
            kafka_config(settings), Topics(settings.world), registry_of(settings), redis_config(settings),
            lambda done, _all: bar.to(done),
        )  # fmt: skip
    others = "" if written else ": the sink that runs had noticed and was quicker"
    text = f"the balances in Redis are complete; {written:,} were written by this command{others}"
    screen.answer({"complete": True, "accounts_written": written}, as_json, [text])
