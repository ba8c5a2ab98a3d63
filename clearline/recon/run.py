"""One run: lines and postings at a cut into the matcher, what it found into the store, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
import polars as pl

from clearline.recon.breaks import TYPES, Break, Period, find_breaks
from clearline.recon.match import PASSES, Links, Matcher, Rules, Side, sides
from clearline.recon.statement import day_number, to_day
from ledger.money import AMOUNT_MAX
from schemas.errors import BadInputError, InvariantError
from sinks.finance.cut import Cut
from sinks.finance.cut import parse as parse_cut
from sinks.recon import Recon, RunRow, StatementRow, new_attempt

DAYS_MAX = 366
Progress = Callable[[str, int, int], None]
DEFAULT_RULES = Rules()
_RULES_VERSION = 1  # of docs/reconciliation.md: another matcher makes other runs


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `day`: ages are counted to it; None for the day of booking of the cut's last record."""

    account: str
    cut: Cut
    rules: Rules = DEFAULT_RULES
    day: date | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rules.date_tolerance <= DAYS_MAX:
            raise BadInputError(f"date tolerance: must be 0 to {DAYS_MAX} days, not {self.rules.date_tolerance}")
        if not 0 <= self.rules.amount_tolerance <= AMOUNT_MAX:
            raise BadInputError(f"amount tolerance: must be 0 to {AMOUNT_MAX} minor units")


@dataclass(frozen=True, slots=True)
class Done:
    """A run that is stored. `new`: this call made it."""

    row: RunRow
    new: bool


def run(recon: Recon, request: Request, progress: Progress = lambda *_: None, *, check_only: bool = False) -> Done:
    """Matches what is left of an account and stores it. The same request again finds the run, and changes nothing.

    Raises BadInputError, PartUnavailableError, InvariantError when the figures do not add up.
    """
    account = request.account
    kind, currency = recon.account(account)
    statements = sorted(recon.statements(account), key=lambda s: s.statement)
    if not statements:
        raise BadInputError(f"no statement of {account} is imported; `clearline recon import --help`")
    day = request.day or _last_day(request.cut)
    name = _run_id(request, day, statements, recon.withdrawn(account))
    runs = recon.runs(account)
    found = next((r for r in runs if r.run == name), None)
    if found is not None:
        return Done(found, new=False)
    if runs:
        _check_forward(runs[-1], request.cut)
    first, last = (min(s.first_day for s in statements), max(s.last_day for s in statements))
    first_day, last_day = date.fromisoformat(first), date.fromisoformat(last)
    since = max(date(1970, 1, 1), first_day - timedelta(days=request.rules.date_tolerance))
    progress("reading lines", 0, 0)
    lines = _line_frame(recon.lines(account, statements, runs))
    progress("reading postings", 0, 0)
    postings = _posting_frame(recon.postings(account, request.cut, since, runs), debit_counts(kind))
    progress("matching", 0, 0)
    both = sides(lines, postings)
    links = Matcher(*both, request.rules).run()
    period = Period(day_number(first_day), day_number(last_day), day_number(day))
    names = [s.statement for s in statements]
    held = [~s.free for s in both]
    breaks, not_due = find_breaks(account, names, *both, request.rules, period)
    figures = _figures(both, held, links, breaks, not_due)
    _check_sums(figures)
    figures["balance"] = _balance(recon, request, kind, statements, both, held, breaks, period)
    previous = recon.breaks(runs[-1]) if runs else []
    before, now = {b.id for b in previous}, {b.id for b in breaks}
    figures["change"] = {"new": len(now - before), "kept": len(now & before), "resolved": len(before - now)}
    link_columns, break_columns = _link_columns(both, links, names), _break_columns(breaks, names, currency)
    row = RunRow(
        account, len(runs) + 1, new_attempt(), name, request.cut.text, request.cut.known_at, day, since, first_day,
        last_day, names, currency, *request.rules, figures, _result(link_columns, break_columns), datetime.now(UTC),
    )  # fmt: skip
    if check_only:
        return Done(row, new=True)
    total = {"recon_links": len(links.line), "recon_breaks": len(breaks)}
    for table, stored in recon.store_run(row, link_columns, break_columns):
        progress("matches stored" if table == "recon_links" else "breaks stored", stored, total[table])
    return Done(next(r for r in recon.runs(account) if r.number == row.number), new=True)


def debit_counts(kind: str) -> int:
    """What a debit of an account of this type counts: 1 where it lets the account grow, else -1."""
    return 1 if kind in ("asset", "expense") else -1


def _last_day(cut: Cut) -> date:
    if not cut.places:
        raise BadInputError("the cut is empty: nothing is in ClickHouse yet")
    return datetime.fromtimestamp(max(at.booked_at for at in cut.places.values()) / 1000, UTC).date()


def _run_id(request: Request, day: date, statements: Sequence[StatementRow], withdrawn: Sequence[StatementRow]) -> str:
    facts: dict[str, Any] = {
        "version": _RULES_VERSION, "account": request.account, "cut": request.cut.text,
        "known_at": request.cut.known_at.isoformat(), "day": day.isoformat(),
        "statements": [s.statement for s in statements], "rules": list(request.rules),
    }  # fmt: skip
    if withdrawn:  # without them it would be the run from before they were imported, which says nothing of what is left
        facts["withdrawn"] = sorted(s.statement for s in withdrawn)
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _check_forward(last: RunRow, cut: Cut) -> None:
    before = parse_cut(last.cut) if last.cut else {}
    behind = [p for p, s in before.items() if p not in cut.places or cut.places[p].sequence < s]
    if behind or cut.known_at < last.known_at:
        raise BadInputError(
            f"the last run of {last.account_id} was at the cut {last.cut}, beyond {cut.text}: a run goes on from the "
            "one before"
        )


def _line_frame(columns: Sequence[Sequence[Any]]) -> pl.DataFrame:
    names = (
        "statement",
        "number",
        "detail",
        "day",
        "booking",
        "amount",
        "reference",
        "bank_reference",
        "text",
        "taken",
    )
    return _frame(columns, names, texts=("reference", "bank_reference", "text"))


def _posting_frame(columns: Sequence[Sequence[Any]], debit: int) -> pl.DataFrame:
    names = ("partition", "sequence", "leg", "day", "booking", "debit", "amount", "reference", "taken")
    frame = _frame(columns, names, texts=("reference",))
    sign = pl.when(pl.col("debit") == 1).then(debit).otherwise(-debit)
    return frame.with_columns(amount=pl.col("amount") * sign).drop("debit")


def _frame(columns: Sequence[Sequence[Any]], names: Sequence[str], texts: Sequence[str]) -> pl.DataFrame:
    kinds = {n: pl.String if n in texts else pl.Int64 for n in names}
    frame = pl.DataFrame({n: pl.Series(n, c, dtype=kinds[n]) for n, c in zip(names, columns, strict=True)})
    return frame.with_columns(pl.col("taken") == 1)


def _figures(
    both: tuple[Side, Side], held: Sequence[Any], links: Links, breaks: Sequence[Break], not_due: int
) -> dict[str, Any]:
    lines, postings = (s.frame for s in both)
    by_type: dict[str, dict[str, int]] = {}
    for t in TYPES:
        of_type = [b for b in breaks if b.type == t]
        by_type[t] = {"count": len(of_type), "difference": sum(b.difference for b in of_type)}
    matches = np.unique(links.match, return_index=True)[1]
    counts = np.bincount(links.match_pass[matches], minlength=len(PASSES)).tolist()
    return {
        "lines": len(lines), "zero_lines": int((lines["amount"] == 0).sum()), "postings": len(postings),
        "matched_before": {"lines": int(lines["taken"].sum()), "postings": int(postings["taken"].sum())},
        "matched": {"lines": len(np.unique(links.line)), "postings": len(np.unique(links.posting))},
        "matches": dict(zip(PASSES, counts, strict=True)),
        "in_breaks": {
            "lines": sum(b.line is not None for b in breaks), "postings": sum(b.posting is not None for b in breaks)
        },
        "breaks": by_type, "not_due": not_due,
        "matched_lines_amount": _sum(lines, held[0]), "matched_postings_amount": _sum(postings, held[1]),
    }  # fmt: skip


def _sum(frame: pl.DataFrame, chosen: Any) -> int:
    """The exact sum of amounts, which need not fit into 64 bits."""
    return int(frame.filter(pl.Series(chosen))["amount"].cast(pl.Int128).sum())


def _check_sums(f: Mapping[str, Any]) -> None:
    """Each line and each posting is in exactly one place. Raises InvariantError."""
    lines = f["zero_lines"] + f["matched_before"]["lines"] + f["matched"]["lines"] + f["in_breaks"]["lines"]
    postings = f["not_due"] + sum(f[k]["postings"] for k in ("matched_before", "matched", "in_breaks"))
    if lines != f["lines"] or postings != f["postings"]:
        raise InvariantError(
            f"a run does not add up: {lines:,} of {f['lines']:,} lines, {postings:,} of {f['postings']:,} postings"
        )


def _balance(
    recon: Recon, request: Request, kind: str, statements: Sequence[StatementRow], both: tuple[Side, Side],
    held: Sequence[Any], breaks: Sequence[Break], period: Period,
) -> dict[str, int | None] | None:  # fmt: skip
    """From the ledger's balance at the last covered day to the statements': None when they state no balances.

    `unexplained` is 0 unless statements are missing between the first and the last.
    """
    ordered = sorted(statements, key=lambda s: (s.first_day, s.last_day, s.statement))
    opening, closing = ordered[0].opening, max(ordered, key=lambda s: (s.last_day, s.first_day)).closing
    if opening is None or closing is None:
        return None
    sign = debit_counts(kind)

    def ledger(day: int) -> int:
        if day < 0:
            return 0
        debits, credits = recon.balance(request.account, request.cut, to_day(day))
        return sign * (debits - credits)

    before, now = ledger(period.first_day - 1), ledger(period.last_day)
    inside = pl.col("day").is_between(period.first_day, period.last_day)
    matched = _sum(both[0].frame, held[0])
    frame = both[1].frame.with_columns(held=pl.Series(held[1])).filter(inside)
    timing = matched - _sum(frame, frame["held"])
    open_ = sum(
        b.statement_amount - (b.ledger_amount if b.posting and _inside(b.posting["day"], period) else 0) for b in breaks
    )
    return {
        "statement_closing": closing, "ledger": now, "difference": closing - now,
        "before_first_statement": opening - before, "timing_and_tolerance": timing, "breaks": open_,
        "unexplained": closing - now - (opening - before) - timing - open_,
    }  # fmt: skip


def _inside(day: int, period: Period) -> bool:
    return period.first_day <= day <= period.last_day


def _link_columns(both: tuple[Side, Side], links: Links, names: Sequence[str]) -> dict[str, list[Any]]:
    lines, postings = both[0].frame[links.line], both[1].frame[links.posting]
    statements = [n.encode() for n in names]
    passes = [p.encode() for p in PASSES]
    return {
        "number": links.match.tolist(), "pass": [passes[i] for i in links.match_pass.tolist()],
        "statement": [statements[i] for i in lines["statement"].to_list()], "line": lines["number"].to_list(),
        "detail": lines["detail"].to_list(), "shard": postings["partition"].to_list(),
        "sequence": postings["sequence"].to_list(), "leg": postings["leg"].to_list(),
    }  # fmt: skip


def _break_columns(breaks: Sequence[Break], names: Sequence[str], currency: str) -> dict[str, list[Any]]:
    def line(b: Break, name: str) -> Any:
        return b.line[name] if b.line is not None else 0

    def posting(b: Break, name: str) -> Any:
        return b.posting[name] if b.posting is not None else 0

    return {
        "break": [b.id.encode() for b in breaks], "type": [b.type.encode() for b in breaks],
        "statement": [names[b.line["statement"]].encode() if b.line is not None else b"" for b in breaks],
        "line": [line(b, "number") for b in breaks], "detail": [line(b, "detail") for b in breaks],
        "shard": [posting(b, "partition") for b in breaks], "sequence": [posting(b, "sequence") for b in breaks],
        "leg": [posting(b, "leg") for b in breaks], "value_day": [b.value_day for b in breaks],
        "currency": [currency.encode()] * len(breaks),
        "statement_amount": [b.statement_amount for b in breaks],
        "ledger_amount": [b.ledger_amount for b in breaks], "difference": [b.difference for b in breaks],
        "age_days": [b.age_days for b in breaks], "candidates": [b.candidates for b in breaks],
        "reference": [b.reference.encode() for b in breaks],
        "text": [b.line["text"].encode() if b.line is not None else b"" for b in breaks],
    }  # fmt: skip


def _result(*tables: Mapping[str, Sequence[Any]]) -> str:
    """SHA-256 over the rows, column by column: each value as text, with its length before it."""
    digest = sha256()
    for table in tables:
        for name, values in table.items():
            digest.update(f"{name} {len(values)}\n".encode())
            for start in range(0, len(values), 100_000):
                texts = [v if isinstance(v, bytes) else str(v).encode() for v in values[start : start + 100_000]]
                digest.update(b"".join(b"%d:%b" % (len(t), t) for t in texts))
    return digest.hexdigest()
