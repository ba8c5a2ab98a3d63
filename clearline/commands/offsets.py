"""`clearline offsets`: where the settlement's group stands, and putting it back where somebody moved it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearline import screen
from clearline.commands.common import example, live_settings, looks_only

if TYPE_CHECKING:
    from clearline.config import Settings
    from schemas.codec import Codec
    from streams.clients import KafkaConfig
    from streams.group_offsets import Standing
    from streams.topics import Topics

MARGIN_S = 30.0  # beyond a session: on a busy machine the brokers take their time


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="offsets", help="Where the settlement's consumer group stands in each partition.",
        epilog="Example: clearline offsets show",
    )  # fmt: skip
    group.command("show", **example("clearline offsets show"))(show)
    group.command("repair", **example("clearline offsets repair --dry-run"))(repair)


def show(as_json: screen.JsonFlag = False) -> None:
    """Compare the group's offsets with the state that was committed with them. Exit code 1 when one was moved ahead."""
    from streams.group_offsets import standings

    found = standings(*_system(live_settings()))
    _answer(found, as_json, "moved ahead of its state")
    if any(s.moved for s in found):
        raise typer.Exit(1)


def repair(
    dry_run: Annotated[bool, looks_only("The same as `offsets show`")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Put the group back to where the state stands, in partitions where somebody moved it ahead.

    No number is typed: the state's own is the only right one, and the journal must end where the state does, else
    nothing is changed. Kafka allows it with no worker in the group: those of this machine's stack are paused for their
    session and then started again, and settlement stands still so long; stop those that run elsewhere first.
    """
    if dry_run:
        show(as_json)
        return
    from clearline import detached
    from streams.group_offsets import put_back, standings

    settings = live_settings()
    system = _system(settings)
    found = standings(*system)
    if moved := [s for s in found if s.moved]:
        patience_s = settings.settlement.session_timeout_ms / 1000 + MARGIN_S
        with detached.paused(settings, "worker-", lambda name: screen.say(f"{name} starts again")):
            screen.say(f"the workers are paused; Kafka frees their group after {patience_s - MARGIN_S:.0f} s")
            put_back(*system, moved, patience_s)
    _answer(found, as_json, "put back to its state")


def _system(settings: Settings) -> tuple[KafkaConfig, Topics, Codec, int]:
    from clearline.connection import connect

    link = connect(settings)
    return link.kafka, link.topics, link.codec, settings.settlement.keys_window_ms


def _answer(found: list[Standing], as_json: bool, said: str) -> None:
    rows = [(str(s.partition), str(s.group), str(s.state), said if s.moved else "") for s in found]
    places: list[dict[str, Any]] = [{**s._asdict(), "moved": s.moved} for s in found]
    columns = ("partition", "group", "state", "")
    screen.answer({"partitions": places}, as_json, [screen.table("", columns, rows, right=columns[:3])])
