"""`clearline publish`: a file of JSON Lines into the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands.common import PartlyDoneError, example, live, sigterm_interrupts
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearline.connection import Connection
    from clearline.outcomes import Outcome
    from clearline.publish import Report
    from schemas.records import Command

_SHOWN = 20
_HELP = """Publish transactions and control commands from a file of JSON Lines, or from standard input (-).

One JSON object per line, amounts in whole minor units:

{"partner_id": "acme", "idempotency_key": "o-1001", "product": "wallet", "operation": "transfer", "amount": 12550,
"currency": "CNY", "accounts": {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"}}

Optional: value_date (today in UTC unless given; give it if the file may be sent again on another day), reference,
metadata, postings in place of amount and accounts. A line with "command": "OpenAccount" (or another control command)
gives that command. Lines that break the contract are refused with line, field and rule and are kept in
FILE.refused.jsonl; the others go, and the exit code is 2. The same file can be sent again: keys make it harmless.

--dry-run says what would become of each line now, by the ledger's own rules on what is committed and on top of the
lines before it, and publishes nothing.

A transaction that the ledger rejects is no error: that is its outcome, with a reason, and the exit code stays 0. A
script that wants to know gives --fail-on-rejected: exit code 1 when a line was rejected or is a dead letter.
"""


def register(app: typer.Typer) -> None:
    app.command("publish", help=_HELP, **example("clearline publish orders.jsonl --wait"))(publish)


def publish(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JSON Lines; - is standard input.")],
    rate: Annotated[float, typer.Option(min=0, help="Commands a second; 0 is as fast as it goes.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcomes, and show the rejections.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the lines; publish nothing.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would become of each line now; publish nothing.")
    ] = False,
    fail_on_rejected: Annotated[
        bool, typer.Option("--fail-on-rejected", help="Wait, and end with exit code 1 when a line was rejected.")
    ] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    from clearline.publish import Run

    if not isfinite(rate):
        raise BadInputError(f"--rate must be a number of commands a second, or 0 for as fast as it goes; not {rate}")

    def progress(report: Report) -> None:
        if report.lines % 200 == 0:
            bar.to(report.published)

    run = Run(
        file, datetime.now(UTC).date(), live, rate=rate, wait=wait or fail_on_rejected, check_only=check,
        foresee=_foresee if dry_run else None, progress=progress,
    )  # fmt: skip
    report = run.report
    dry = "right" if check else "looked at, nothing published" if dry_run else ""
    try:
        with sigterm_interrupts(), screen.bar("published", None, quiet=as_json) as bar:
            run.run()
    except (Exception, KeyboardInterrupt) as e:
        if not report.lines:  # not even begun: there is nothing to tell but the error
            raise
        if not as_json and (report.published or report.refused):
            screen.answer({}, False, _readable(report, dry))
        raise PartlyDoneError(e, report.to_dict()) from e
    screen.answer(
        report.to_dict(),
        as_json,
        _readable(report, dry),
    )
    if report.unanswered:
        screen.say(
            f"error: {report.unanswered} commands are in the log but got no outcome in time; "
            "see `clearline status` for the workers: they are settled when the workers are back"
        )
        raise typer.Exit(3)
    if report.refused:
        raise typer.Exit(2)
    if fail_on_rejected and (report.outcomes["rejected"] or report.outcomes["dead"]):
        raise typer.Exit(1)


def _foresee(system: Connection) -> Callable[[Command], Outcome]:
    from clearline.config import load_settings
    from clearline.foresight import Foresight

    return Foresight(system, load_settings().settlement.keys_window_ms).outcome


def _readable(report: Report, dry: str) -> list[RenderableType]:
    """`dry`: what was done to the lines when nothing was published; empty otherwise."""
    good = report.lines - report.refused if dry else report.acknowledged
    verb = dry or "published and acknowledged"
    out: list[RenderableType] = [f"{good:,} of {report.lines:,} lines {verb} in {report.seconds:.1f} s"]
    if not report.complete:
        rest = (
            "how many lines were not sent is not known" if report.not_sent is None else f"{report.not_sent:,} not sent"
        )
        out.append(
            f"stopped early: {report.published:,} published, {report.acknowledged:,} of them acknowledged, "
            f"{report.not_acknowledged:,} not acknowledged, {report.refused:,} refused, {rest}"
        )
        if report.unanswered:
            out.append(f"{report.unanswered:,} acknowledged commands had no outcome yet")
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
