"""`clearline dlq`: what could not be taken, and why; put back, discarded, or corrected first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands.common import PartlyDoneError, example, live_settings, looks_only
from clearline.commands.give import ByOption, NoteOption, WhyOption, asked_by
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.deadletters import Desk, Match, Plan, Progress, Rules, Seen, Work

_SHOWN = 20
_GROUPS_SHOWN = 30
_MATCH_HELP = (
    "Only letters for which FIELD OP VALUE holds, such as reason=unknown_schema, partner=acme, detail~'amount', "
    "attempts>=2, age<2h, id=0:5,1:7, state=open; given again, all must hold. docs/dead-letters.md has all fields."
)
MatchOption = Annotated[list[str], typer.Option("--match", metavar="CONDITION", help=_MATCH_HELP)]
RateOption = Annotated[float, typer.Option(min=0, help="Letters a second; 0 is as fast as it goes.")]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Do it for the whole queue, and for letters that have died again and again.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
AgainOption = Annotated[bool, typer.Option("--again", help="Also letters with which this was done before.")]
_CODES = (
    "\n\nExit codes: 0 done; 1 some of the letters could not be moved, or have died again; 2 bad usage or input, or "
    "another task has taken over; 3 a part is unavailable, or outcomes did not come in time; 130 cancelled."
)


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="dlq", help="Dead letters: records that could not be taken.", epilog="Example: clearline dlq ls"
    )
    group.command("ls", **example("clearline dlq ls --match reason=unknown_schema"))(ls)
    group.command("show", **example("clearline dlq show 2:17"))(show)
    group.command("export", **example("clearline dlq export letters.jsonl --match reason=contract"))(export)
    group.command(
        "redrive", help=_REDRIVE + _CODES,
        **example("clearline dlq redrive --match reason=unknown_schema --rate 500",
                  "clearline dlq redrive --edited letters.jsonl"),
    )(redrive)  # fmt: skip
    group.command(
        "discard",
        help=_DISCARD + _CODES,
        **example('clearline dlq discard --match id=2:17 --note "a test, ticket 812"'),
    )(discard)
    group.command("cancel", **example("clearline dlq cancel"))(cancel)


def ls(
    reason: Annotated[str, typer.Option(help="Only this reason, such as undecodable or too_large.")] = "",
    newest: Annotated[int, typer.Option(min=0, max=100_000, help="So many letters by name, newest first.")] = 50,
    match: MatchOption = [],  # noqa: B006 - typer reads it, and copies it
    as_json: screen.JsonFlag = False,
) -> None:
    """Dead letters in groups by reason and detail: how many, whence, since when, how often tried; and the newest."""
    from clearline import deadletters

    if reason and reason not in deadletters.REASONS:
        raise BadInputError(f"{reason} is not a reason of dead letters; reasons are {', '.join(deadletters.REASONS)}")
    wanted = deadletters.Match([*match, *([f"reason={reason}"] if reason else [])])
    with _desk() as desk:
        seen = deadletters.look(desk, wanted, newest)
    screen.answer(seen.to_dict(), as_json, _listed(seen) if seen.groups else ["no dead letters"])


def _listed(seen: Seen) -> list[RenderableType]:
    groups = [
        (g.open, g.count, g.reason, g.pattern[:70], _few(g.partitions), moment(g.first_at), moment(g.last_at),
         g.attempts_max, g.example)
        for g in seen.groups[:_GROUPS_SHOWN]
    ]  # fmt: skip
    columns = ("open", "all", "reason", "detail", "partitions", "first", "last", "tried", "such as")
    total, open_ = sum(g.count for g in seen.groups), sum(g.open for g in seen.groups)
    counts = ", ".join(f"{k} {v:,}" for k, v in seen.reasons.items())
    out: list[RenderableType] = [
        f"{total:,} dead letters, {open_:,} of them open: {counts}",
        screen.table("", columns, groups, right=("open", "all", "tried")),
    ]
    out += _more(len(seen.groups) - _GROUPS_SHOWN, "groups")
    if seen.newest:
        rows = [
            (f.id, moment(f.received), f.state, f.reason, f"{f.partition}:{f.offset}", f.bytes, f.attempts,
             f.original if f.original != f.id else "", f.detail[:60])
            for f, _ in seen.newest
        ]  # fmt: skip
        names = ("id", "received", "state", "reason", "submitted at", "bytes", "tried", "came of", "detail")
        out.append(screen.table("newest", names, rows, right=("bytes", "tried")))
    return out


def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="PARTITION:OFFSET, as `dlq ls` shows it.")],
    as_json: screen.JsonFlag = False,
) -> None:
    """One dead letter: where it came from, why it is here, its bytes, and what was done with it."""
    from clearline import deadletters

    with _desk() as desk:
        found = deadletters.find_letter(desk.system, letter)
        history = desk.history(found)
        document = {
            **deadletters.explain(desk.judge, found), "state": desk.moves.state(found),
            "original": desk.moves.first_of(found), "attempts": desk.moves.attempts(found), "history": history,
        }  # fmt: skip
    x = found.letter
    lines = [
        f"id:        {found.id}",
        *([f"came of:   {document['original']}"] if document["original"] != found.id else []),
        f"reason:    {x.reason}",
        f"detail:    {x.detail}",
        f"from:      {x.source_topic} partition {x.source_partition} offset {x.source_offset}",
        f"received:  {moment(x.received_at)}",
        f"attempts:  {document['attempts']}",
        f"state:     {document['state']}",
        f"key:       {document['key']}",
        f"bytes:     {document['bytes']:,}",
        *([f"schema id: {document['schema_id']}"] if "schema_id" in document else []),
        *deadletters.hex_lines(x.value or b""),
    ]
    if document["record"]:
        lines.append(f"decodes as {document['record_type']}: {document['record']}")
    screen.answer(document, as_json, [*lines, *_told(history)])


def _told(history: list[dict[str, Any]]) -> list[RenderableType]:
    if not history:
        return []
    rows = [
        (moment(h["at"]), f"{'corrected and ' if h['edited'] else ''}{h['move']}", h["letter"], h["requested_by"],
         f"{h['to_partition']}:{h['to_offset']}" if h["to_offset"] >= 0 else "", h["outcome"], h["task"], h["note"])
        for h in history
    ]  # fmt: skip
    return [screen.table("history", ("at", "move", "letter", "by", "submitted at", "outcome", "task", "note"), rows)]


def export(
    to: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="A file of JSON Lines, or with --files a folder.")],
    match: MatchOption = [],  # noqa: B006
    files: Annotated[bool, typer.Option("--files", help="Two files per letter: the bytes, and the rest.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Write dead letters into a file: their bytes as they came, and, where they decode, the command to be corrected.

    Change `command` (as `clearline publish` reads it) or `value_base64` of a line, delete the lines that you do not
    correct, and give the file to `clearline dlq redrive --edited FILE`.
    """
    from clearline import deadletters

    if to.exists() and not force:
        raise BadInputError(f"{to} is there already; give --force to write over it")
    wanted = deadletters.Match(match)
    write = deadletters.write_files if files else deadletters.write_lines
    with _desk() as desk:
        count = write(to, deadletters.export(desk, wanted))
    screen.answer({"exported": count, "to": str(to)}, as_json, [f"{count:,} dead letters written to {to}"])


_REDRIVE = """Put dead letters back into the log, as they came or corrected; each is applied once, however often.

A letter that was put back is skipped the next time; --again puts it back again, and the ledger then answers `repeated`.
What does not decode cannot be put back as it came, unless its schema is registered now. --edited takes a file that
`clearline dlq export` wrote and somebody has corrected. A letter whose command has died three times is a loop, and is
put back only with --yes; so is everything at once, without --match. Ctrl-C, or `clearline dlq cancel` from another
shell, ends it after the batch under way; a task that was killed is simply begun again."""

_DISCARD = """Note that nothing more is done with dead letters: by whom and why. Their bytes stay where they are.

A letter that was discarded is not put back by `redrive` any more, except with --again."""


def redrive(
    match: MatchOption = [],  # noqa: B006
    edited: Annotated[Path | None, typer.Option("--edited", help="A corrected file or folder of `dlq export`.")] = None,
    rate: RateOption = 500,
    again: AgainOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds to wait for outcomes; 0 does not wait.")] = 60,
    by: ByOption = "",
    note: NoteOption = "",
    as_json: screen.JsonFlag = False,
) -> None:
    from clearline import deadletters

    if edited is not None and match:
        raise BadInputError("give either --match or --edited: a file names its letters itself")
    wanted = deadletters.Match(match)
    if not (wanted or edited or yes or dry_run):
        raise BadInputError("without --match every dead letter is put back: give --yes if that is meant, or --dry-run")
    rules = deadletters.Rules("redrive", again=again, loops=yes)
    with _desk() as desk:
        plan = _plan(desk, wanted, rules) if edited is None else deadletters.plan_edited(desk, edited, rules)
        if dry_run:
            _say_plan(plan, as_json)
        else:
            why = note or f"redrive {' '.join(match) or edited or 'all'}"[:200]
            _do(deadletters.Work(desk, plan, by=_who(by), note=why, rate=_finite(rate)), as_json, wait_s)


def discard(
    note: WhyOption,
    match: MatchOption = [],  # noqa: B006
    rate: RateOption = 0,
    again: AgainOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    by: ByOption = "",
    as_json: screen.JsonFlag = False,
) -> None:
    from clearline import deadletters

    wanted = deadletters.Match(match)
    if not (wanted or yes or dry_run):
        raise BadInputError("without --match every dead letter is discarded: give --yes if that is meant, or --dry-run")
    with _desk() as desk:
        plan = _plan(desk, wanted, deadletters.Rules("discard", again=again, loops=yes))
        if dry_run:
            _say_plan(plan, as_json)
        else:
            _do(deadletters.Work(desk, plan, by=_who(by), note=note, rate=_finite(rate)), as_json, 0)


def cancel(
    task: Annotated[str, typer.Argument(help="The task, as redrive names it; the one that runs unless given.")] = "",
    by: ByOption = "",
    dry_run: Annotated[bool, looks_only("Say what runs")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Stop the redrive or discard that runs, wherever it was begun; what it has moved stands."""
    from clearline import deadletters

    with _desk() as desk:
        if dry_run:
            running = desk.refresh().running()
            told = f"task {running.id} would be stopped" if running else "no redrive or discard is running"
            screen.answer({"dry_run": True, "running": running and running.to_dict()}, as_json, [told])
            return
        found, answered = deadletters.cancel(desk, _who(by), task)
    how = "" if answered else "; it did not answer, and cannot move anything any more"
    text = f"task {found.id} ({found.what}) is {found.state} after {found.moved:,} of {found.total:,} letters{how}"
    screen.answer({**found.to_dict(), "answered": answered}, as_json, [text])


# ---- what they share -----------------------------------------------------------------------------------------------


def _desk() -> Desk:
    from clearline.deadletters import Desk

    return Desk.of(live_settings())


def _plan(desk: Desk, match: Match, rules: Rules) -> Plan:
    return desk.plan(match, rules)


def _who(by: str) -> str:
    """Who does it, which becomes part of the journal."""
    who = asked_by(by)
    if not who:
        raise BadInputError("give --by: who does this becomes part of the journal")
    return who


def _finite(rate: float) -> float:
    if not 0 <= rate < 1e9:
        raise BadInputError(f"--rate must be a number of letters a second, or 0 for as fast as it goes; not {rate}")
    return rate


def _say_plan(plan: Plan, as_json: bool) -> None:
    document = {"dry_run": True, **plan.to_dict()}
    verb = "put back" if plan.rules.what == "redrive" else "discarded"
    rows = [
        (p.id, "corrected" if p.value is not None else "", p.partner_id, p.idempotency_key,
         p.to_partition if p.to_partition >= 0 else "", p.attempts, p.reason)
        for p in plan.puts[:_SHOWN]
    ]  # fmt: skip
    names = ("id", "", "partner", "key", "to partition", "tried", "died of")
    out: list[RenderableType] = [f"{len(plan.puts):,} of {plan.matched:,} letters would be {verb}"]
    if rows:
        out.append(screen.table("", names, rows, right=("tried",)))
    screen.answer(document, as_json, [*out, *_more(len(plan.puts) - _SHOWN, "letters"), *_not_moved(plan)])
    if plan.counts()[1]:
        raise typer.Exit(1)


def _do(work: Work, as_json: bool, wait_s: float) -> None:
    """Carries the plan out, shows how far it is and what came of it, and ends with the exit code."""

    def told(p: Progress) -> None:
        bar.to(p.moved, f"{p.rate:,.0f}/s, {p.left_s:,.0f} s left" if p.moved < p.total else f"{p.rate:,.0f}/s")

    progress = work.progress
    verb = "put back" if progress.what == "redrive" else "discarded"
    with _ends_gently(work.stop), screen.bar(verb, progress.total, quiet=as_json) as bar:
        if progress.total and not as_json:
            screen.say(f"task {progress.task}: {progress.total:,} letters; `clearline dlq cancel` stops it")
        try:
            work.run(told, wait_s)
        except Exception as e:
            raise PartlyDoneError(e, work.to_dict()) from e
    if progress.state != "cancelled":
        screen.answer(work.to_dict(), as_json, _done(work, verb))
    else:
        if not as_json:
            screen.answer({}, False, _done(work, verb))
        raise PartlyDoneError(KeyboardInterrupt(), work.to_dict())
    if progress.unanswered:
        screen.say(
            f"error: {progress.unanswered} commands are in the log and have no outcome yet; see `clearline status`"
        )
        raise typer.Exit(3)
    if work.plan.counts()[1] or progress.outcomes["dead"]:
        raise typer.Exit(1)


def _done(work: Work, verb: str) -> list[RenderableType]:
    """What came of it, for people."""
    progress = work.progress
    out: list[RenderableType] = [
        f"{progress.moved:,} of {progress.total:,} letters {verb} in {progress.seconds:.1f} s "
        f"({progress.rate:,.1f} a second){f', task {progress.task}' if progress.total else ''}"
    ]
    if progress.outcomes:
        out.append("outcomes: " + ", ".join(f"{k} {v:,}" for k, v in sorted(progress.outcomes.items())))
    if work.died:
        rows = [(f"{o.partition}:{o.offset}", o.outcome, o.why()) for o in work.died[:_SHOWN]]
        out.append(screen.table("", ("submitted at", "outcome", "reason"), rows))
    if progress.state == "cancelled":
        out.append(f"cancelled{f' by {progress.stopped_by}' if progress.stopped_by else ''}: what was moved stands")
    return [*out, *_not_moved(work.plan)]


def _not_moved(plan: Plan) -> list[RenderableType]:
    """Why letters are not moved: counts of what is done already, and the letters that are refused."""
    skipped, refused = plan.counts()
    out: list[RenderableType] = [f"skipped: {', '.join(f'{k} {v:,}' for k, v in skipped.items())}"] if skipped else []
    if refused:
        wrong = [r for r in plan.refused if r.code in refused]
        rows = [(r.id, r.code, r.detail) for r in wrong[:_SHOWN]]
        out.append(f"not moved: {', '.join(f'{k} {v:,}' for k, v in refused.items())}")
        out.append(screen.table("", ("id", "code", "why"), rows))
        out += _more(len(wrong) - _SHOWN, "letters")
    return out


def _more(left: int, what: str) -> list[RenderableType]:
    return [f"... and {left:,} more {what}"] if left > 0 else []


def _few(partitions: dict[int, int]) -> str:
    names = [str(p) for p in sorted(partitions)]
    return " ".join(names) if len(names) <= 8 else f"{len(names)} of them"


@contextmanager
def _ends_gently(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the batch under way be finished; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    before: Sequence[Any] = [signal.signal(n, asked) for n in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def moment(milliseconds: int) -> str:
    """A time of the log for people, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
