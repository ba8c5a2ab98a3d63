"""Finds statements, runs and breaks by the first digits of their names; what was said of breaks; tables of both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clearline.recon.breaks import TYPES
from clearline.recon.run import debit_counts
from ledger.fields import TEXT_MAX
from schemas.errors import BadInputError
from sinks.finance import cut as cuts
from sinks.finance.ask import Result
from sinks.finance.catalogue import Column, Report
from sinks.recon import BreakRow, Recon, RunRow, StatementRow, Word

_PREFIX_MIN = 6
_POSTING = (
    Column("partition", "count", "of the posting, empty for none"), Column("sequence", "count"), Column("leg", "count"),
)  # fmt: skip
BREAK_COLUMNS = (
    Column("break"), Column("type"), Column("state", about="open or settled"), Column("value_date", "date"),
    Column("age_days", "count"), Column("currency"), Column("statement_amount", "money", "plus: came in"),
    Column("ledger_amount", "money"), Column("difference", "money", "statement less ledger"), Column("reference"),
    Column("text"), Column("candidates", "count"), Column("statement"), Column("line", "count"),
    Column("detail", "count"), *_POSTING, Column("note"), Column("by"),
)  # fmt: skip
MATCH_COLUMNS = (
    Column("run"), Column("match", "count"), Column("pass"), Column("statement"), Column("line", "count"),
    Column("detail", "count"), *_POSTING,
)  # fmt: skip
BREAKS = Report("recon-breaks", "Breaks", "What could not be matched.", (), BREAK_COLUMNS, ("value_date", "break"))
MATCHES = Report("recon-matches", "Matches", "Which line is which posting.", (), MATCH_COLUMNS, ("run", "match"))


@dataclass(frozen=True, slots=True)
class Found:
    """One of the three. `entry`: a break as a document."""

    statement: StatementRow | None = None
    run: RunRow | None = None
    entry: dict[str, Any] | None = None


def find(recon: Recon, name: str) -> Found:
    """What a name, or the first digits of one, names. Breaks are those of each account's last run.

    Raises BadInputError when it names nothing, or several.
    """
    if len(name) < _PREFIX_MIN or not name.isalnum():
        raise BadInputError(f"{name}: give at least the first {_PREFIX_MIN} digits of a statement, a run or a break")
    found = [Found(statement=s) for s in recon.statements() if s.statement.startswith(name)]
    runs = recon.runs()
    found += [Found(run=r) for r in runs if r.run.startswith(name)]
    for last in {r.account_id: r for r in runs}.values():
        mine = [b for b in recon.breaks(last) if b.id.startswith(name)]
        words = recon.words(last.account_id) if mine else {}
        found += [Found(entry=_document(last, b, words.get(b.id, []))) for b in mine]
    if len(found) != 1:
        what = f"names {len(found)} things; give more of its digits" if found else "is no statement, run or open break"
        raise BadInputError(f"{name} {what}")
    return found[0]


def open_breaks(recon: Recon, run: RunRow) -> int:
    """How many breaks of a run nobody has settled."""
    words = recon.words(run.account_id)
    return sum(b.id not in words for b in recon.breaks(run))


def breaks_result(recon: Recon, run: RunRow, type_: str = "", *, only_open: bool = False) -> Result:
    """A run's breaks as a table for all formats. Raises BadInputError for an unknown type."""
    if type_ and type_ not in TYPES:
        raise BadInputError(f"--type must be one of {', '.join(TYPES)}, not {type_}")
    words = recon.words(run.account_id)
    rows = []
    for b in recon.breaks(run):
        said = words.get(b.id, [])
        if (type_ and b.type != type_) or (only_open and said):
            continue
        document = _document(run, b, said)
        rows.append(tuple(document[c.name] for c in BREAK_COLUMNS))
    return Result(BREAKS, {"account": run.account_id, "run": run.run}, _cut_of(recon, run), rows)


def matches_result(recon: Recon, run: RunRow) -> Result:
    """All matches up to a run, those of earlier runs first."""
    rows = [
        (r.run, x.number, x.match_pass, x.statement, x.line, x.detail, x.partition, x.sequence, x.leg)
        for r in recon.runs(run.account_id)
        if r.number <= run.number
        for x in recon.links(run.account_id, [r])
    ]
    return Result(MATCHES, {"account": run.account_id, "run": run.run}, _cut_of(recon, run), rows)


def say(recon: Recon, entry: dict[str, Any], note: str, by: str) -> bool:
    """Keeps a person's word on a break; whether it is new. Raises BadInputError."""
    _check_words(note, by)
    account, name = entry["account"], entry["break"]
    if any((w.note, w.by) == (note, by) for w in recon.words(account).get(name, [])):
        return False
    recon.say(account, Word(name, note, by, datetime.now(UTC)))
    return True


def withdraw(recon: Recon, name: str, note: str, by: str) -> tuple[StatementRow, bool]:
    """Withdraws the statement with this name, or these first digits; the statement, and whether it is done now.
    Raises BadInputError."""
    _check_words(note, by)
    gone = [s for s in recon.withdrawn() if len(name) >= _PREFIX_MIN and s.statement.startswith(name)]
    if len(gone) == 1:
        return gone[0], False
    found = find(recon, name).statement
    if found is None:
        raise BadInputError(f"{name} is not a statement")
    recon.withdraw(found, note, by, datetime.now(UTC))
    return found, True


def adjustment(recon: Recon, entry: dict[str, Any]) -> dict[str, Any] | None:
    """The transaction that would bring the ledger to what the statement says, but for the other account; None where
    nothing is to be moved."""
    moved = entry["difference"]
    if not moved or entry["type"] in ("ambiguous", "date_differs"):
        return None
    is_debit = (debit_counts(recon.account(entry["account"])[0]) > 0) == (moved > 0)
    own, other = ("debit", "credit") if is_debit else ("credit", "debit")
    return {
        "partner_id": "bank", "idempotency_key": f"recon-{entry['break']}", "product": "payment",
        "operation": "adjustment", "currency": entry["currency"],
        "postings": [
            {"account_id": entry["account"], "side": own, "amount": abs(moved)},
            {"account_id": "bank:CHOOSE:" + entry["currency"], "side": other, "amount": abs(moved)},
        ],
        "value_date": entry["value_date"].isoformat(), "reference": entry["reference"],
        "note": f"recon break {entry['break']}: {entry['type']}",
    }  # fmt: skip


def _check_words(note: str, by: str) -> None:
    for name, text in (("--note", note), ("--by", by)):
        if not text.strip() or len(text) > TEXT_MAX:
            raise BadInputError(f"{name} must have 1 to {TEXT_MAX:,} characters")


def _document(run: RunRow, b: BreakRow, said: list[Word]) -> dict[str, Any]:
    has_posting = bool(b.sequence)
    return {
        "break": b.id, "type": b.type, "state": "settled" if said else "open", "account": run.account_id,
        "value_date": b.value_date, "age_days": b.age_days, "currency": b.currency,
        "statement_amount": b.statement_amount if b.statement else None,
        "ledger_amount": b.ledger_amount if has_posting else None, "difference": b.difference,
        "reference": b.reference, "text": b.text, "candidates": b.candidates, "statement": b.statement,
        "line": b.line if b.statement else None, "detail": b.detail if b.statement else None,
        "partition": b.partition if has_posting else None, "sequence": b.sequence if has_posting else None,
        "leg": b.leg if has_posting else None, "note": said[-1].note if said else "", "by": said[-1].by if said else "",
        "run": run.run,
    }  # fmt: skip


def _cut_of(recon: Recon, run: RunRow) -> cuts.Cut:
    return cuts.at(recon.db, cuts.parse(run.cut) if run.cut else {}, run.known_at)
