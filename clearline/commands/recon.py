"""`clearline recon`: statements from outside against the ledger (docs/reconciliation.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from clearline import screen
from clearline.commands import files
from clearline.commands.common import example, live_settings, looks_only, money
from clearline.commands.files import FileFormat
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from sinks.recon import Recon, RunRow, StatementRow


class What(StrEnum):
    """What is exported."""

    BREAKS = "breaks"
    MATCHES = "matches"


Account = Annotated[str, typer.Option(metavar="ACCOUNT", help="The ledger's account, such as bank:nostro:EUR.")]
RunOption = Annotated[str, typer.Option("--run", metavar="RUN", help="This run; the account's last if left out.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(
        group, name="recon", help="Reconcile an account with statements from outside.",
        epilog="Example: clearline recon import statement.xml --account bank:nostro:EUR",
    )  # fmt: skip
    group.command(
        "import",
        **example(
            "clearline recon import statement.xml --account bank:nostro:EUR",
            "clearline recon import export.csv --account bank:nostro:EUR --mapping docs/examples/recon-mapping.yaml",
        ),
    )(import_)
    group.command("run", **example("clearline recon run --account bank:nostro:EUR --date-tolerance 2"))(run)
    group.command("list", **example("clearline recon list --account bank:nostro:EUR"))(list_)
    group.command("show", **example("clearline recon show 3f9c2a61d0b7e845"))(show)
    group.command(
        "breaks", **example("clearline recon breaks --account bank:nostro:EUR --format xlsx --out breaks.xlsx")
    )(breaks)
    group.command(
        "settle", **example('clearline recon settle 3f9c2a61d0b7e845 --note "fee, claimed back" --by "A. Analyst"')
    )(settle)
    group.command(
        "withdraw", **example('clearline recon withdraw 6ead4c8d01 --note "wrong mapping" --by "A. Analyst"')
    )(withdraw)
    group.command(
        "export", **example("clearline recon export --account bank:nostro:EUR --what matches --out matches.parquet")
    )(export)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="camt.053 in XML, or a CSV with its mapping.")],
    account: Account,
    mapping: Annotated[str, typer.Option(metavar="FILE.yaml", help="How a CSV is to be read.")] = "",
    opening: Annotated[str, typer.Option(metavar="AMOUNT", help="Opening balance, such as 1250.00.")] = "",
    closing: Annotated[str, typer.Option(metavar="AMOUNT", help="Closing balance.")] = "",
    entries: Annotated[int, typer.Option(min=-1, help="Number of entries; -1: not known.")] = -1,
    external: Annotated[str, typer.Option(help="The account's name on the statement, such as its IBAN.")] = "",
    dry_run: Annotated[bool, looks_only("Read and check it whole")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Import a statement: whole, or refused with line, field and rule. The same file again changes nothing."""
    from clearline.recon.importing import Given, import_file
    from clearline.recon.mapping import read_mapping

    rules = read_mapping(Path(mapping)) if mapping else None
    given = Given(opening, closing, entries if entries >= 0 else None, external)
    with _recon(write=True) as recon, _progress(quiet=as_json) as progress:
        found = import_file(recon, file, account, rules, given, progress, check_only=dry_run)
    if dry_run and found.new:
        text = f"{file.name} would be imported: {found.checked} statements, {found.lines:,} lines"
        checked = {"dry_run": True, "new": True, "statements": found.checked, "lines": found.lines}
        screen.answer(checked, as_json, [text])
        return
    what = "imported" if found.new else "was imported before, nothing changed"
    lines = [f"{s.file_name}: {what}; statement {s.statement[:16]}, {s.lines:,} lines" for s in found.statements]
    document = {"new": found.new, "statements": [_statement(s) for s in found.statements]}
    screen.answer(document, as_json, [*lines, _statement_table(found.statements)])


def run(
    account: Account,
    date_tolerance: Annotated[int, typer.Option(metavar="DAYS", help="Days that value dates may differ by.")] = 1,
    amount_tolerance: Annotated[str, typer.Option(metavar="AMOUNT", help="What amounts may differ by.")] = "0",
    cut: files.CutOption = "",
    known_at: files.KnownAtOption = "",
    closed: files.ClosedOption = "",
    day: Annotated[str, typer.Option(metavar="DATE", help="Ages are counted to this day.")] = "",
    dry_run: Annotated[bool, looks_only("Match, and show what would be kept")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Match lines with postings and type what is left. Exit code 1 when there are open breaks."""
    from clearline.recon.importing import read_amount
    from clearline.recon.match import Rules
    from clearline.recon.run import Request
    from clearline.recon.run import run as make
    from sinks.finance.ask import day as day_of
    from sinks.finance.ask import named_cut

    ages_to = day_of("--day", day) if day else None
    with _recon(write=True) as recon, _progress(quiet=as_json) as progress:
        tolerance = read_amount("--amount-tolerance", amount_tolerance, recon.account(account)[1])
        at = named_cut(recon.db, cut=cut, known_at=known_at, closed=closed)
        request = Request(account, at, Rules(date_tolerance, tolerance), ages_to)
        done = make(recon, request, progress, check_only=dry_run)
        change = done.row.figures["change"]
        open_ = _open(recon, done.row) if not (dry_run and done.new) else change["new"] + change["kept"]
    document = {"dry_run": dry_run, "new": done.new, **_run(done.row), "open_breaks": open_}
    said = [] if done.new else ["the same run was made before; nothing changed"]
    screen.answer(document, as_json, [*said, *_run_lines(done.row, open_)])
    if open_:
        raise typer.Exit(1)


def list_(
    account: Annotated[str, typer.Option(metavar="ACCOUNT", help="Only of this account.")] = "",
    as_json: screen.JsonFlag = False,
) -> None:
    """List the statements that were imported and the runs that were made."""
    with _recon() as recon:
        statements, runs = recon.statements(account), recon.runs(account)
    document = {"statements": [_statement(s) for s in statements], "runs": [_run(r) for r in runs]}
    screen.answer(document, as_json, [_statement_table(statements), _run_table(runs)])


def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="A statement, run or break; its first digits are enough.")],
    original: Annotated[bool, typer.Option("--original", help="A statement's file as it came, on stdout.")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Show a statement, a run or a break; of a break also the adjustment that would mend it."""
    from clearline.recon.lookup import adjustment, find

    with _recon() as recon:
        found = find(recon, name)
        if original:
            if found.statement is None:
                raise BadInputError("--original is for a statement")
            for chunk in recon.file(found.statement):
                sys.stdout.buffer.write(chunk)
            return
        if found.statement is not None:
            screen.answer(_statement(found.statement), as_json, [_statement_table([found.statement])])
        elif found.run is not None:
            open_ = _open(recon, found.run)
            screen.answer({**_run(found.run), "open_breaks": open_}, as_json, _run_lines(found.run, open_))
        else:
            assert found.entry is not None
            line = adjustment(recon, found.entry)
            document = {**found.entry, "adjustment": line}
            shown = [f"{k.replace('_', ' ')}: {v}" for k, v in found.entry.items() if v not in ("", None)]
            offer = ["to mend it, publish (choose the other account):", screen.to_json(line).decode()] if line else []
            screen.answer(document, as_json, [*shown, *offer])


def breaks(
    account: Account,
    run: RunOption = "",
    type_: Annotated[str, typer.Option("--type", help="Only of this type.")] = "",
    only_open: Annotated[bool, typer.Option("--open", help="Only those that nobody settled.")] = False,
    form: files.FormOption = FileFormat.TABLE,
    out: files.OutOption = "",
    as_json: screen.JsonFlag = False,
) -> None:  # fmt: skip
    """List a run's breaks by value date, with age and what was said of them. Exit code 1 when there are open ones."""
    from clearline.recon.lookup import breaks_result

    with _recon() as recon:
        chosen = _chosen(recon, account, run)
        result = breaks_result(recon, chosen, type_, only_open=only_open)
        open_ = _open(recon, chosen)
    _write(result, form, out, as_json)
    if open_:
        raise typer.Exit(1)


def settle(
    name: Annotated[str, typer.Argument(metavar="BREAK", help="Its id; the first digits are enough.")],
    note: Annotated[str, typer.Option(help="What is known of it, 1 to 1,024 characters.")],
    by: Annotated[str, typer.Option(help="Who says so.")],
    dry_run: Annotated[bool, looks_only("Show the break that is meant")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Keep a person's word on a break. It changes nothing in the ledger; the break does not count as open any more."""
    from clearline.recon.lookup import find, say

    with _recon(write=True) as recon:
        found = find(recon, name)
        if found.entry is None:
            raise BadInputError(f"{name} is not a break")
        if dry_run:
            name = found.entry["break"]
            screen.answer({"dry_run": True, "break": name}, as_json, [f"break {name} would be settled"])
            return
        new = say(recon, found.entry, note, by)
    text = "settled" if new else "was settled with the same words before; nothing changed"
    screen.answer({"break": found.entry["break"], "note": note, "by": by, "new": new}, as_json,
                  [f"break {found.entry['break']}: {text}"])  # fmt: skip


def withdraw(
    name: Annotated[str, typer.Argument(metavar="STATEMENT", help="Its id; the first digits are enough.")],
    note: Annotated[str, typer.Option(help="Why, 1 to 1,024 characters.")],
    by: Annotated[str, typer.Option(help="Who says so.")],
    dry_run: Annotated[bool, looks_only("Show the statement that is meant")] = False,
    as_json: screen.JsonFlag = False,
) -> None:
    """Withdraw a statement that should not have been imported: it counts no more, nor does any match with it."""
    from clearline.recon import lookup

    with _recon(write=True) as recon:
        if dry_run:
            meant = lookup.find(recon, name).statement
            if meant is None:
                raise BadInputError(f"{name} is not a statement that counts")
            text = f"statement {meant.statement[:16]} would be withdrawn"
            screen.answer({"dry_run": True, "statement": meant.statement}, as_json, [text])
            return
        found, new = lookup.withdraw(recon, name, note, by)
    text = "withdrawn; the next run goes on without it" if new else "was withdrawn before; nothing changed"
    document = {"statement": found.statement, "note": note, "by": by, "new": new}
    screen.answer(document, as_json, [f"statement {found.statement[:16]}: {text}"])


def export(
    account: Account,
    what: Annotated[What, typer.Option(help="Which table.")] = What.BREAKS,
    run: RunOption = "",
    form: Annotated[FileFormat | None, typer.Option("--format", help="By the file's ending if left out.")] = None,
    out: files.OutOption = "-",
    as_json: screen.JsonFlag = False,
) -> None:
    """Write breaks, or all matches up to a run, to a file. The same run is the same bytes, while nothing is settled."""
    from clearline.recon.lookup import breaks_result, matches_result

    endings = {f".{f.value}": f for f in FileFormat}
    chosen_form = form or endings.get(Path(out).suffix, FileFormat.CSV)
    with _recon() as recon:
        chosen = _chosen(recon, account, run)
        result = breaks_result(recon, chosen) if what is What.BREAKS else matches_result(recon, chosen)
    _write(result, chosen_form, out, as_json)


@contextmanager
def _recon(*, write: bool = False) -> Iterator[Recon]:
    from clearline.connection import clickhouse_config
    from sinks.clickhouse import Database
    from sinks.recon import Recon

    db = Database(clickhouse_config(live_settings()), reader=not write)
    try:
        yield Recon(db)
    finally:
        db.close()


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    """A bar for each step that says how much there is of it, and a remark for each other."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        bars: dict[str, screen.Bar] = {}

        def progress(what: str, done: int, total: int) -> None:
            if quiet:
                return
            if what not in bars:
                stack.close()
                bars[what] = stack.enter_context(screen.bar(what, total or None))
            bars[what].to(done)

        yield progress


def _chosen(recon: Recon, account: str, run_id: str) -> RunRow:
    runs = recon.runs(account)
    found = [r for r in runs if r.run.startswith(run_id)] if run_id else runs[-1:]
    if not found:
        raise BadInputError(f"{account} has no run {run_id or 'yet'}; `clearline recon run` makes one")
    if len(found) > 1:
        raise BadInputError(f"{run_id} names {len(found)} runs; give more of its digits")
    return found[0]


def _open(recon: Recon, chosen: RunRow) -> int:
    from clearline.recon.lookup import open_breaks

    return open_breaks(recon, chosen)


def _write(result: Any, form: FileFormat, out: str, as_json: bool) -> None:
    from clearline.finance.formats import readable, to_bytes

    if form is FileFormat.TABLE and not as_json:
        screen.answer({}, False, readable(result))
        return
    on_screen = out in ("", "-")
    if on_screen and not as_json:
        files.spare_terminal(form, "name a file")
    data = to_bytes(result, "json" if as_json and on_screen else files.FORMS.get(form, "json"))
    if not files.put(data, out):
        return
    screen.answer({"file": out, "rows": len(result.rows), "bytes": len(data)}, as_json,
                  [f"{out}: {len(result.rows):,} rows, {len(data):,} bytes"])  # fmt: skip


def _statement(s: StatementRow) -> dict[str, Any]:
    return {k: v for k, v in s._asdict().items() if k not in ("attempt", "place", "mapping")}


def _run(r: RunRow) -> dict[str, Any]:
    """A run as JSON: nothing of when and by which process it was stored, so that equal runs are equal bytes."""
    from sinks.finance.cut import LAST_MOMENT

    out = {k: v for k, v in r._asdict().items() if k not in ("attempt", "made_at")}
    out["known_at"] = None if r.known_at == LAST_MOMENT else r.known_at.isoformat()
    return out


def _statement_table(rows: Sequence[StatementRow]) -> RenderableType:
    def amount(s: StatementRow, value: int | None) -> str:
        return "" if value is None else money(value, s.currency)

    shown = [
        (s.statement[:16], s.account_id, s.name, s.first_day, s.last_day, s.currency, amount(s, s.opening),
         money(s.credits, s.currency), money(s.debits, s.currency), amount(s, s.closing), s.lines)
        for s in rows
    ]  # fmt: skip
    figures = ("opening", "credits", "debits", "closing", "lines")
    return screen.table("Statements", ("statement", "account", "name", "from", "to", "currency", *figures), shown,
                        right=figures)  # fmt: skip


def _run_table(rows: Sequence[RunRow]) -> RenderableType:
    shown = [
        (r.run, r.account_id, r.number, r.day, r.cut, sum(r.figures["matches"].values()),
         sum(t["count"] for t in r.figures["breaks"].values()), r.result[:16])
        for r in rows
    ]  # fmt: skip
    return screen.table("Runs", ("run", "account", "number", "day", "cut", "matches", "breaks", "result"), shown,
                        right=("number", "matches", "breaks"))  # fmt: skip


def _run_lines(r: RunRow, open_: int) -> list[RenderableType]:
    f, c = r.figures, r.currency
    types = [(t, x["count"], money(x["difference"], c)) for t, x in f["breaks"].items() if x["count"]]
    passes = [(p.replace("_", " "), n) for p, n in f["matches"].items() if n]
    lines: list[RenderableType] = [
        f"run {r.run} of {r.account_id}: {r.first_day} to {r.last_day}, cut {r.cut}, day {r.day}",
        f"{f['lines']:,} lines, {f['postings']:,} postings; matched before {f['matched_before']['lines']:,} lines and "
        f"{f['matched_before']['postings']:,} postings, now {f['matched']['lines']:,} and "
        f"{f['matched']['postings']:,}; {f['not_due']:,} postings not due, {f['zero_lines']:,} lines of nothing",
        screen.table("Matches of this run", ("pass", "matches"), passes, right=("matches",)),
    ]
    if types:
        lines.append(screen.table("Breaks", ("type", "count", "difference"), types, right=("count", "difference")))
    if f["balance"]:
        shown = [(k.replace("_", " "), money(v, c)) for k, v in f["balance"].items()]
        lines.append(
            screen.table(f"From the ledger to the statement, {c}", ("what", "amount"), shown, right=("amount",))
        )
    change = f["change"]
    lines.append(
        f"{open_:,} open breaks; since the run before {change['new']:,} new, {change['kept']:,} kept, "
        f"{change['resolved']:,} resolved"
    )
    lines.append(f"result {r.result}")
    return lines
