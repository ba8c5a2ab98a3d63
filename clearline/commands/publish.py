"""`clearline publish`: a file of JSON Lines into the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands.common import example, live

if TYPE_CHECKING:
    from clearline.publish import Report

_SHOWN = 20
_HELP = """Publish transactions and control commands from a file of JSON Lines, or from standard input (-).

One JSON object per line, amounts in whole minor units:

{"partner_id": "acme", "idempotency_key": "o-1001", "product": "wallet", "operation": "transfer", "amount": 12550,
"currency": "CNY", "accounts": {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"}}

Optional: value_date (today in UTC unless given; give it if the file may be sent again on another day), reference,
metadata, postings in place of amount and accounts. A line with "command": "OpenAccount" (or another control command)
gives that command. Lines that break the contract are refused with line, field and rule and are kept in
FILE.refused.jsonl; the others go, and the exit code is 2. The same file can be sent again: keys make it harmless.
"""


def register(app: typer.Typer) -> None:
    app.command("publish", help=_HELP, **example("clearline publish orders.jsonl --wait"))(publish)


def publish(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JSON Lines; - is standard input.")],
    rate: Annotated[float, typer.Option(min=0, help="Commands a second; 0 is as fast as it goes.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcomes, and show the rejections.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the lines; publish nothing.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    from clearline.publish import Run

    today = datetime.now(UTC).date()
    with screen.bar("published", None, quiet=as_json) as bar:

        def progress(report: Report) -> None:
            if report.lines % 200 == 0:
                bar.to(report.published)

        report = Run(file, today, live, rate=rate, wait=wait, check_only=check, progress=progress).run()
    screen.answer(report.to_dict(), as_json, _readable(report, check))
    if report.unanswered:
        screen.say(
            f"error: {report.unanswered} commands are in the log but got no outcome in time; "
            "see `clearline status` for the workers: they are settled when the workers are back"
        )
        raise typer.Exit(3)
    if report.refused:
        raise typer.Exit(2)


def _readable(report: Report, check: bool) -> list[RenderableType]:
    good = report.lines - report.refused
    verb = "right" if check else "published and acknowledged"
    out: list[RenderableType] = [f"{good:,} of {report.lines:,} lines {verb} in {report.seconds:.1f} s"]
    if report.outcomes:
        out.append("outcomes: " + ", ".join(f"{k} {v:,}" for k, v in sorted(report.outcomes.items())))
    if report.rejections:
        rows = [
            (line.number, line.partner_id, line.idempotency_key, outcome.why())
            for line, outcome in report.rejections[:_SHOWN]
        ]
        out.append(screen.table("rejected by the ledger", ("line", "partner", "key", "reason"), rows, right=["line"]))
        out += _more(report.outcomes["rejected"] + report.outcomes["dead"] - len(rows))
    if report.refusals:
        shown = report.refusals[:_SHOWN]
        broken = [(n, e.field or "(line)", e.rule) for n, errors in shown for e in errors]
        out.append(screen.table("refused lines", ("line", "field", "rule"), broken, right=["line"]))
        out += _more(report.refused - len(shown))
    if report.refused_file:
        out.append(f"{report.refused:,} refused lines are kept in {report.refused_file}")
    return out


def _more(left: int) -> list[RenderableType]:
    return [f"... and {left:,} more"] if left > 0 else []
