"""`clearline replay`: history settled once more into a shadow, and what would differ; projections built anew."""

from __future__ import annotations

import csv
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from clearline import screen
from clearline.commands.common import example, live_settings, looks_only, sigterm_interrupts
from clearline.commands.give import ByOption, WhyOption, asked_by
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.replay.live import Mark
    from clearline.replay.run import Run
    from clearline.replay.selection import Selection
    from clearline.replay.session import Session

Partner = Annotated[str, typer.Option(help="Compare only this partner and all below it.")]
Account = Annotated[str, typer.Option(help="Compare only what touches this account.")]
Product = Annotated[str, typer.Option(help="Compare only transactions of this product.")]
From = Annotated[str, typer.Option("--from", help="From a time (2026-11-26T08:00, UTC), an offset, or P:OFFSET,...")]
To = Annotated[str, typer.Option("--to", help="Up to before a time or offset; nothing after it is read.")]
Partitions = Annotated[list[int] | None, typer.Option("--partition", help="Only these partitions; may be repeated.")]
Rules = Annotated[
    list[Path] | None, typer.Option("--rules", help="What if: a product's YAML that stands in for a published version.")
]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `clearline replay ls` shows it.")]
ApprovedBy = Annotated[str, typer.Option("--approved-by", help="The second person, who must be another one.")]
DryRun = Annotated[bool, looks_only("Say what would be done")]


class Part(StrEnum):
    """A projection that can be built anew."""

    REDIS = "redis"
    CLICKHOUSE = "clickhouse"


class Form(StrEnum):
    """How a diff is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=False, rich_markup_mode=None, invoke_without_command=True)
    group.callback(invoke_without_command=True)(replay)
    app.add_typer(
        group, name="replay", help="Settle history once more into a shadow and compare; build projections anew.",
        epilog="Example: clearline replay --partner acme --run  |  clearline replay --rules products/new.yaml --run",
    )  # fmt: skip
    group.command(
        "plan", **example("clearline replay plan --rules products/new.yaml --out plan.json --note 'new fee'")
    )(plan)
    group.command("apply", **example("clearline replay apply plan.json --by li --approved-by wang --note 'as agreed'"))(
        apply
    )
    group.command("ls", **example("clearline replay ls"))(ls)
    group.command("show", **example("clearline replay show r0a1b2c3d4e --format csv"))(show)
    group.command("cancel", **example("clearline replay cancel r0a1b2c3d4e"))(cancel)
    group.command("resume", **example("clearline replay resume r0a1b2c3d4e"))(resume)
    group.command("drop", **example("clearline replay drop r0a1b2c3d4e"))(drop)


def replay(
    context: typer.Context, partner: Partner = "", account: Account = "", product: Product = "", since: From = "",
    until: To = "", partition: Partitions = None, rules: Rules = None,
    rebuild: Annotated[Part | None, typer.Option(help="Build this projection anew while everything runs.")] = None,
    execute: Annotated[bool, typer.Option("--run", help="Do it; without it nothing is done.")] = False,
    by: ByOption = "", as_json: screen.JsonFlag = False,
) -> None:  # fmt: skip
    """Say what a replay would read and take, and with --run do it. Exit code 1 when anything differs."""
    if context.invoked_subcommand is not None:
        return
    selection = _selection(partner, account, product, since, until, partition)
    if rebuild is not None:
        if selection.narrows or selection.until or selection.partitions or rules:
            raise BadInputError("--rebuild builds a projection anew as a whole: it takes no selection and no rules")
        _rebuild(rebuild, execute, asked_by(by), as_json)
        return
    from clearline.replay import run as runs

    session = _session()
    made, marks = session.plan(selection, rules or [])
    if not execute:
        screen.answer(made.to_dict(), as_json, [*made.lines(), "nothing was done: add --run"])
        return
    if not as_json:
        for line in made.lines():
            screen.say(line)
    _do(session, runs.begin(session.root, made, requested_by=asked_by(by)), as_json, marks)


def plan(
    out: Annotated[Path, typer.Option(help="Where to write the plan.")],
    partner: Partner = "", account: Account = "", product: Product = "", since: From = "", until: To = "",
    partition: Partitions = None, rules: Rules = None, by: ByOption = "", note: WhyOption = "",
    as_json: screen.JsonFlag = False,
) -> None:  # fmt: skip
    """Write a plan with its SHA-256 into a file, for a second person to approve; the journal has a record of it."""
    from dataclasses import replace

    from clearline.acts import record_act
    from clearline.connection import connect
    from clearline.replay.plan import write_plan

    _why(note)
    session = _session()
    made, _ = session.plan(_selection(partner, account, product, since, until, partition), rules or [])
    made = replace(made, requested_by=asked_by(by))
    digest = write_plan(made, out)
    act = record_act(
        connect(session.settings), act="replay.plan", subject_id=session.settings.world, digest=digest,
        requested_by=made.requested_by, note=note, key=f"replay.plan/{digest}",
    )  # fmt: skip
    document = made.to_dict() | {"file": str(out), "recorded": {"partition": act.partition, "sequence": act.sequence}}
    said = f"written to {out}, sha256 {digest}; recorded in the journal (partition {act.partition})"
    screen.answer(document, as_json, [*made.lines(), said])


def apply(
    file: Annotated[Path, typer.Argument(help="A plan that `replay plan` wrote.")],
    approved_by: ApprovedBy = "", by: ByOption = "", note: WhyOption = "", dry_run: DryRun = False,
    as_json: screen.JsonFlag = False,
) -> None:  # fmt: skip
    """Do what a plan says, once a second person approved it. A changed file is refused. Exit code 1 for differences."""
    from clearline.acts import record_act
    from clearline.connection import connect
    from clearline.replay import run as runs
    from clearline.replay.plan import read_plan

    _why(note)
    made = read_plan(file)
    asker = by or made.requested_by or asked_by("")
    if not approved_by:
        raise BadInputError("--approved-by: a plan is applied with a second person's name")
    if approved_by in (asker, made.requested_by):
        raise BadInputError(f"--approved-by {approved_by}: the second person must be another one")
    session = _session()
    session.check(made)
    if dry_run:
        screen.answer(made.to_dict(), as_json, [*made.lines(), "the plan can be applied; nothing was done"])
        return
    run_id = runs.new_id()
    record_act(
        connect(session.settings), act="replay.apply", subject_id=run_id, digest=made.digest, requested_by=asker,
        approved_by=approved_by, note=note, key=f"replay.apply/{run_id}",
    )  # fmt: skip
    _do(session, runs.begin(session.root, made, run_id=run_id, requested_by=asker, approved_by=approved_by), as_json)


def ls(as_json: screen.JsonFlag = False) -> None:
    """Replays and rebuilds: what runs, what was done, what can be resumed."""
    from clearline.connection import clickhouse_config
    from clearline.replay import progress, run
    from clearline.replay.session import root_of
    from schemas.errors import PartUnavailableError

    settings = live_settings()
    here = {r.id: r for r in run.runs(root_of(settings))}
    try:
        rows = progress.replays(clickhouse_config(settings))
    except PartUnavailableError as e:
        screen.say(f"only what this machine knows: {e}")
        rows = []
    found = [progress.plain(r) | {"here": r.id in here} for r in rows]
    known = {r.id for r in rows}
    found += [r.document() | {"kind": "replay", "subject": r.plan.selection.words(), "here": True}
              for r in here.values() if r.id not in known]  # fmt: skip
    for one in found:  # this machine knows better whether a process lives
        if one["id"] in here and here[one["id"]].state != run.RUNNING:
            one["state"] = here[one["id"]].state
    columns = ("id", "kind", "state", "done", "of", "compared", "by", "here")
    table = [
        (o["id"], o["kind"], o["state"], o["done"], o["total"], o["subject"],
         " / ".join(filter(None, (o["requested_by"], o["approved_by"]))), "yes" if o["here"] else "")
        for o in found
    ]  # fmt: skip
    shown = [screen.table("", columns, table, right=["done", "of"]) if table else "no replay was made"]
    screen.answer({"replays": found}, as_json, shown)


def show(
    replay_id: Id, form: Annotated[Form, typer.Option("--format", help="csv and json have every change.")] = Form.TABLE,
    as_json: screen.JsonFlag = False,
) -> None:  # fmt: skip
    """One replay: how far it is, and its diff when it is done."""
    from clearline.config import load_settings
    from clearline.replay import diff, run
    from clearline.replay.session import root_of

    one = run.find(root_of(load_settings()), replay_id)
    if one.state != run.DONE:
        screen.answer(one.document(), as_json, [f"replay {one.id} is {one.state}: {one.done:,} of {one.total:,}"])
        return
    partitions = [t.partition for t in one.plan.tasks]
    if form is Form.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(diff.COLUMNS)
        writer.writerows(diff.row_of(c) for c in diff.changes_of(one.folder, partitions))
        return
    if as_json or form is Form.JSON:
        sys.stdout.buffer.write(one.diff_path.read_bytes())
        sys.stdout.flush()
        return
    summary = orjson.loads(one.diff_path.read_bytes())["summary"]
    screen.answer(summary, False, diff.shown(one.id, summary, diff.changes_of(one.folder, partitions)))


def cancel(
    replay_id: Id, by: ByOption = "", dry_run: DryRun = False, as_json: screen.JsonFlag = False
) -> None:  # fmt: skip
    """End a replay or rebuild, wherever it runs. What was done is kept; the live system was never touched."""
    from clearline.connection import clickhouse_config
    from clearline.replay import progress, run
    from clearline.replay.session import root_of

    settings = live_settings()
    root = root_of(settings)
    here = next((r for r in run.runs(root) if r.id == replay_id), None)
    if dry_run:
        state = here.state if here else progress.find(clickhouse_config(settings), replay_id).state
        screen.answer({"id": replay_id, "state": state}, as_json, [f"replay {replay_id} is {state}; nothing was done"])
        return
    if here is not None:
        run.ask_to_cancel(root, replay_id)
    else:
        progress.cancel(clickhouse_config(settings), replay_id, asked_by(by))
    screen.answer({"id": replay_id, "state": "cancelling"}, as_json, [f"replay {replay_id} was asked to end"])


def resume(replay_id: Id, dry_run: DryRun = False, as_json: screen.JsonFlag = False) -> None:
    """Go on with a replay that was cancelled or killed, to the same diff. Exit code 1 for differences."""
    from clearline.replay import run

    session = _session()
    one = run.find(session.root, replay_id)
    if one.state == run.DONE:
        raise BadInputError(f"replay {replay_id} is done: see `clearline replay show {replay_id}`")
    if dry_run:
        session.check(one.plan)
        said = f"replay {one.id} is {one.state} and goes on at {one.done:,} of {one.total:,}; nothing was done"
        screen.answer(one.document(), as_json, [said])
        return
    _do(session, one, as_json)


def drop(replay_id: Id, dry_run: DryRun = False, as_json: screen.JsonFlag = False) -> None:
    """Delete what a replay has left in the data folder. Books that it kept for later replays stay."""
    from clearline.config import load_settings
    from clearline.replay import run
    from clearline.replay.session import root_of

    root = root_of(load_settings())
    size = run.scratch_of(run.find(root, replay_id).folder)
    if not dry_run:
        run.drop(root, replay_id)
    said = f"replay {replay_id} has {size / 1e6:.1f} MB; nothing was done" if dry_run else f"replay {replay_id} is gone"
    screen.answer({"id": replay_id, "bytes": size}, as_json, [said])


def _why(note: str) -> None:
    if not note.strip():
        raise BadInputError("--note: say why; it is kept in the journal")


# ---- doing it --------------------------------------------------------------------------------------------------------


def _selection(
    partner: str, account: str, product: str, since: str, until: str, partitions: list[int] | None
) -> Selection:
    from clearline.replay.selection import Selection, bound_of

    bound_of(since, "--from")
    bound_of(until, "--to")
    return Selection(partner, account, product, since, until, tuple(sorted(set(partitions or ()))))


def _session() -> Session:
    from clearline.replay.session import open_session

    return open_session(live_settings())


def _do(session: Session, one: Run, as_json: bool, marks: dict[int, Mark] | None = None) -> None:
    """Runs it with a bar, shows the diff, and ends with 1 when anything differs."""
    from clearline.replay import diff
    from clearline.replay.run import CancelledError

    with _signals_cancel(one) as interrupted, screen.bar(f"replay {one.id}", one.total, quiet=as_json) as bar:

        def watch(run: Run) -> bool:
            bar.to(run.done, _pace(run))
            if as_json:
                _progress_line(run)
            return bool(interrupted)

        try:
            summary = session.execute(one, watch, marks)
        except CancelledError as e:
            if not interrupted:
                raise
            screen.say(str(e))
            raise KeyboardInterrupt from None
    partitions = [t.partition for t in one.plan.tasks]
    document = one.document() | {"diff": str(one.diff_path), "summary": summary}
    untouched = bool(one.found["live_untouched"])
    said = "the live system is untouched" if untouched else "THE LIVE SYSTEM CHANGED below where it stood"
    readable = [
        *diff.shown(one.id, summary, diff.changes_of(one.folder, partitions)),
        f"{said} (hash {one.found['live_before'][:16]} before, {one.found['live_after'][:16]} after, same offsets)",
        f"diff {one.diff_path}, sha256 {one.found['diff_sha256']}",
    ]
    screen.answer(document, as_json, readable)
    if diff.differs(summary) or not untouched or not all(one.found["state_equal"].values()):
        raise typer.Exit(1)


@contextmanager
def _signals_cancel(one: Run) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end it after the batch, with a checkpoint; a second one at once, back to the last checkpoint.
    Which signals came."""
    came: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        (one.folder / "cancel").touch()

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pace(run: Run) -> str:
    """How fast, and for how long still."""
    eta = run.document()["eta_seconds"]
    return "" if eta is None else f"{run.rate_per_second:,.0f}/s, {eta:.0f} s left"


def _progress_line(run: Run) -> None:
    """Progress for programs: one JSON document a line on stderr."""
    names = ("id", "state", "done", "total", "rate_per_second", "eta_seconds")
    document: dict[str, Any] = run.document()
    sys.stderr.write(orjson.dumps({n: document[n] for n in names}).decode() + "\n")
    sys.stderr.flush()


def _rebuild(part: Part, execute: bool, by: str, as_json: bool) -> None:
    from clearline.replay import rebuild

    settings = live_settings()
    if not execute:
        said = rebuild.plan(settings, part.value)
        screen.answer(said.to_dict(), as_json, [*said.lines(), "nothing was done: add --run"])
        return
    with sigterm_interrupts(), screen.bar(f"rebuild {part.value}", None, quiet=as_json) as bar:
        done = rebuild.rebuild(settings, part.value, by, bar.phase)
    screen.answer(done.to_dict(), as_json, done.lines())
    if not done.equal:
        raise typer.Exit(1)
