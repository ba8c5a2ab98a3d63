"""`clearline webhook`: subscriptions of partners, what was not delivered to them, and sending it again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clearline import screen
from clearline.commands.common import example, live, looks_only
from clearline.commands.give import ByOption, asked_by
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.connection import Connection
    from schemas.records import Delivery, Subscription
    from streams.table import Table

Status = Annotated[
    Literal["pending", "dead"] | None, typer.Option(help="Only deliveries that are pending, or that are dead.")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="webhook", help="Webhooks: subscriptions, and what was not delivered.",
        epilog="Example: clearline webhook ls",
    )  # fmt: skip
    group.command("ls", **example("clearline webhook ls --below acme"))(ls)
    group.command("show", **example("clearline webhook show wh_0f1e2d3c4b5a69788796a5b4c3d2e1f0 --status dead"))(show)
    group.command("redeliver", **example("clearline webhook redeliver wh_0f1e2d3c4b5a69788796a5b4c3d2e1f0"))(redeliver)


def ls(
    below: Annotated[str, typer.Option(help="Only this partner and its tree.")] = "",
    as_json: screen.JsonFlag = False,
) -> None:
    """Subscriptions, with how many notifications of each are pending and dead."""
    from clearline.webhooks.subscriptions import document
    from ledger.names import within
    from streams.outbox import deliveries

    system = live()
    queued = deliveries(system.kafka, system.topics, system.codec)
    with _table(system) as table:
        found = [s for s in _subscriptions(table) if not below or within(s.partner_id, below)]
    now = _now_ms()
    documents: list[dict[str, Any]] = [
        {
            **document(s, now),
            **{state: sum(d.subscription_id == s.subscription_id and d.state == state for d in queued) for state in
               ("pending", "dead")},
        }
        for s in sorted(found, key=lambda s: (s.partner_id, s.subscription_id))
    ]  # fmt: skip
    rows = [
        (
            d["partner_id"],
            d["id"],
            d["state"],
            d["pending"],
            d["dead"],
            d["url"],
            " ".join(e["type"] for e in d["events"]),
        )
        for d in documents
    ]
    columns = ("partner", "subscription", "state", "pending", "dead", "url", "events")
    table_ = screen.table("", columns, rows, right=["pending", "dead"])
    screen.answer({"webhooks": documents}, as_json, [table_ if rows else "there are no subscriptions"])


def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="Of a subscription, or of a delivery.")],
    status: Status = None,
    newest: Annotated[int, typer.Option(min=1, max=100_000, help="Only so many, the newest.")] = 50,
    as_json: screen.JsonFlag = False,
) -> None:
    """What is not delivered to a subscription, and why; or one delivery with its body."""
    from clearline.webhooks.subscriptions import delivery_document

    found = [d for d in _queued(live(), name) if status in (None, d.state)]
    documents = [{**delivery_document(d), "subscription": d.subscription_id} for d in found[-newest:]]
    rows = [
        (
            d["id"],
            d["event"],
            d["account"],
            d["state"],
            d["attempts"],
            d["created_at"],
            d["next_at"] or "",
            d["last_error"] or "",
        )
        for d in documents
    ]
    columns = ("delivery", "event", "account", "state", "tries", "queued", "next", "last error")
    lines: list[Any] = [screen.table("", columns, rows, right=["tries"]) if rows else "everything was delivered"]
    if len(found) == 1 and found[0].delivery_id == name:
        lines.append(found[0].body.decode())
    screen.answer({"total": len(found), "deliveries": documents}, as_json, lines)


def redeliver(
    name: Annotated[str, typer.Argument(metavar="ID", help="Of a delivery, or of a subscription: all its dead ones.")],
    by: ByOption = "",
    dry_run: Annotated[bool, looks_only("Say which would be sent again")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Have dead notifications sent again, under the same ids; a pending one is tried at once."""
    from schemas.identity import partition_of
    from schemas.records import Redelivery

    system = live()
    found = [d for d in _queued(system, name) if d.delivery_id == name or d.state == "dead"]
    with _table(system) as table:
        places = {s.subscription_id: partition_of(s.partner_id, system.partitions) for s in _subscriptions(table)}
        asked = [d for d in found if d.subscription_id in places]
        for d in asked if not dry_run else ():
            row = Redelivery(
                d.delivery_id, d.subscription_id, places[d.subscription_id], _now_ms(), f"bank:{asked_by(by)}"
            )
            table.put(f"r:{d.delivery_id}", row)
    document = {"dry_run": dry_run, "asked": [d.delivery_id for d in asked]}
    text = f"{len(asked):,} asked for again; `clearline webhook show {name}` shows the rest"
    screen.answer(document, as_json, [f"{len(asked):,} would be sent again" if dry_run else text])


def _queued(system: Connection, name: str) -> list[Delivery]:
    """A subscription's deliveries, or the one of this id. Raises BadInputError when there is neither."""
    from streams.outbox import deliveries

    queued = deliveries(system.kafka, system.topics, system.codec)
    found = [d for d in queued if name in (d.subscription_id, d.delivery_id)]
    if not found:
        with _table(system) as table:
            if all(s.subscription_id != name for s in _subscriptions(table)):
                raise BadInputError(
                    f"there is no subscription {name}, and no delivery that waits; see `clearline webhook ls`"
                )
    return found


def _table(system: Connection) -> Table:
    from streams.table import Table

    return Table(system.kafka, system.topics.access, system.codec)


def _subscriptions(table: Table) -> list[Subscription]:
    from schemas.records import Subscription

    rows = (row for _, row in table.items("s:") if isinstance(row, Subscription))
    return [s for s in rows if s.state != "deleted"]


def _now_ms() -> int:
    return int(time.time() * 1000)
