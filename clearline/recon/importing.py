"""Imports a file of statements: read, checked whole, stored as it came, and only then visible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from clearline.recon.camt import is_camt, read_camt
from clearline.recon.csv_file import amount_pattern, read_csv
from clearline.recon.mapping import Mapping
from clearline.recon.statement import (
    FILE_BYTES_MAX,
    LineError,
    RefusedStatementError,
    Statement,
    minor,
    no_collector,
    shown,
    statement_id,
    to_day,
)
from schemas.errors import BadInputError
from sinks.recon import CHUNK_BYTES, NewStatement, Recon, StatementRow

CSV_BYTES_MAX = 1_000_000_000  # it is decoded whole
Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@dataclass(frozen=True, slots=True)
class Given:
    """What whoever imports knows of the statement: amounts in the currency's own form, such as 1250.00; "" for
    nothing. They are compared with what the file says, and stand for it where it says nothing."""

    opening: str = ""
    closing: str = ""
    entries: int | None = None
    external: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """The statements of one file. `new`: they were not there before. `checked`, `lines`: what was read and not stored,
    when it was only checked."""

    statements: list[StatementRow]
    new: bool
    checked: int = 0
    lines: int = 0


def import_file(
    recon: Recon, path: Path, account: str, mapping: Mapping | None, given: Given, progress: Progress = lambda *_: None,
    *, check_only: bool = False,
) -> Imported:  # fmt: skip
    """Imports a file. The same file again changes nothing. `check_only`: nothing is stored.

    Raises RefusedStatementError with lines and rules, BadInputError, PartUnavailableError.
    """
    _, currency = recon.account(account)
    digest, size = _digest(path)
    rules = mapping.canonical() if mapping else ""
    known = recon.statements(account)
    same = [s for s in known if s.file == digest]
    if same:
        if same[0].mapping != rules:
            raise BadInputError(
                f"{path.name} was imported to {account} before, with another mapping; it is kept as it is"
            )
        return Imported(same, new=False)
    gone = next(
        (s for s in recon.withdrawn(account) if s.statement == statement_id(account, digest, rules, s.place)), None
    )
    if gone is not None:
        raise BadInputError(f"{path.name} was imported to {account} and withdrawn: {gone.mapping}; it stays so")
    with no_collector():
        read = [*_read(path, mapping, progress)]
    statements = [_completed(path.name, s, given, single) for s, single in read]
    for s in statements:
        _check(path.name, s, account, currency, given, known)
    if len({s.external_account for s in statements}) > 1:
        names = ", ".join(sorted({s.external_account for s in statements}))
        raise BadInputError(f"{path.name} has statements of several accounts ({names}); split it by account")
    if check_only:
        return Imported([], new=True, checked=len(statements), lines=sum(s.entries for s in statements))
    return Imported(_store(recon, path, account, digest, size, rules, statements, progress), new=True)


def _digest(path: Path) -> tuple[str, int]:
    digest, size = sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                if size > FILE_BYTES_MAX:
                    raise BadInputError(f"{path} has more than {FILE_BYTES_MAX:,} bytes; split it")
    except OSError as e:
        raise BadInputError(f"{path} cannot be read: {e.strerror}") from None
    if not size:
        raise BadInputError(f"{path} is empty")
    return digest.hexdigest(), size


def _read(path: Path, mapping: Mapping | None, progress: Progress) -> Iterator[tuple[Statement, bool]]:
    """The statements of a file, each with whether it is the only one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if mapping is not None:
            if size > CSV_BYTES_MAX:
                raise BadInputError(f"{path.name} has more than {CSV_BYTES_MAX:,} bytes, the most for a CSV; split it")
            s = read_csv(path.name, file.read(), mapping, lambda done: progress("lines read", done, 0))
            yield replace(s, name=path.stem), True
            return
        start = file.read(64)
        if not is_camt(start):
            raise BadInputError(f"{path.name} is not XML: for a CSV give its --mapping, for a statement camt.053")
        file.seek(0)
        found = read_camt(path.name, file, lambda done: progress("bytes read", done, size))
        for s in found:
            yield s, len(found) == 1


def _completed(name: str, s: Statement, given: Given, single: bool) -> Statement:
    """The statement with what was given of it. Raises RefusedStatementError where the two say different things."""
    if not single and (given.opening or given.closing or given.entries is not None):
        raise BadInputError(f"{name} has several statements: --opening, --closing and --entries are of one")
    problems = []
    for field in ("opening", "closing"):
        text, stated = getattr(given, field), getattr(s, field)
        if not text:
            continue
        amount = read_amount(f"--{field}", text, s.currency)
        if stated is None:
            s = replace(s, opening=amount) if field == "opening" else replace(s, closing=amount)
        elif stated != amount:
            rule = f"is given as {s.shown(amount)}, the file says {s.shown(stated)}: off by {s.shown(stated - amount)}"
            problems.append(LineError(0, f"{field} balance", rule))
    if given.entries is not None and given.entries != s.entries:
        off = s.entries - given.entries
        problems.append(
            LineError(0, "entries", f"are given as {given.entries:,}, there are {s.entries:,}: off by {off:,}")
        )
    if given.external and s.external_account and given.external != s.external_account:
        problems.append(LineError(0, "account", f"is {shown(s.external_account)}, not {shown(given.external)}"))
    problems += s.problems()
    if problems:
        raise RefusedStatementError(name, problems)
    return replace(s, external_account=s.external_account or given.external)


def read_amount(name: str, text: str, currency: str) -> int:
    """An amount as people write it, exactly. Raises BadInputError."""
    found = amount_pattern(".", "").fullmatch(text.strip())
    if not found:
        raise BadInputError(f"{name} must be an amount such as 1250.00, not {shown(text)}")
    try:
        return minor(found[2], found[3] or "", currency, negative=found[1] == "-")
    except ValueError as e:
        raise BadInputError(f"{name} {e}") from None


def _check(name: str, s: Statement, account: str, currency: str, given: Given, known: list[StatementRow]) -> None:
    if s.currency != currency:
        raise BadInputError(f"{name} is in {s.currency}, account {account} in {currency}")
    others = {k.external_account for k in known if k.external_account}
    if s.external_account and others and s.external_account not in others and not given.external:
        raise BadInputError(
            f"{name} is a statement of {s.external_account}; those of {account} so far are of "
            f"{', '.join(sorted(others))}. If that is right, say so with --external {s.external_account}"
        )


def _store(
    recon: Recon, path: Path, account: str, digest: str, size: int, mapping: str, statements: list[Statement],
    progress: Progress,
) -> list[StatementRow]:  # fmt: skip
    again = sha256()

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                again.update(chunk)
                yield chunk

    attempt = recon.store_file(digest, chunks())
    if again.hexdigest() != digest:
        raise BadInputError(f"{path} was changed while it was read; import it again")
    total, done, new = sum(len(s.lines) for s in statements), 0, []
    for place, s in enumerate(statements):
        named = statement_id(account, digest, mapping, place)
        facts = _facts(path, size, digest, mapping, place, s)
        new.append(NewStatement(named, _columns(s), facts))
        for stored in recon.store_lines(account, attempt, new[-1]):
            progress("lines stored", done + stored, total)
        done += len(s.lines)
    recon.store_statements(account, attempt, new)
    wanted = {n.statement for n in new}
    return [s for s in recon.statements(account) if s.statement in wanted]


def _facts(path: Path, size: int, digest: str, mapping: str, place: int, s: Statement) -> dict[str, Any]:
    return {
        "file": digest.encode(), "place": place, "file_name": _stored(path.name), "file_bytes": size,
        "format": s.format.encode(), "mapping": mapping.encode(), "name": _stored(s.name),
        "external_account": _stored(s.external_account), "currency": s.currency.encode(), "opening": s.opening,
        "closing": s.closing, "lines": len(s.lines), "entries": s.entries, "announced": s.announced,
        "credits": s.credits, "debits": s.debits, "first_day": to_day(s.first_day or 0),
        "last_day": to_day(s.last_day or 0), "imported_at": datetime.now(UTC),
    }  # fmt: skip


def _columns(s: Statement) -> dict[str, list[Any]]:
    x = s.lines
    return {
        "number": x.number, "detail": x.detail, "value_day": x.value_day, "booking_day": x.booking_day,
        "amount_in": x.amount, "currency": [s.currency.encode()] * len(x),
        **{n: [_stored(t) for t in getattr(x, n)] for n in ("reference", "bank_reference", "text", "counterparty")},
    }  # fmt: skip


def _stored(text: str) -> bytes:
    return text.encode("utf-8", "replace")
