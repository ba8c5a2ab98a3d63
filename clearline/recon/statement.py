"""What a statement is, whatever file it came in: its lines as columns, and the checks that it adds up.

Amounts are signed integers in minor units, plus for money that came into the account; days are counted from 1970-01-01.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from typing import NamedTuple

from ledger.money import AMOUNT_MAX, EXPONENTS, format_minor
from schemas.errors import BadInputError

EPOCH = date(1970, 1, 1)
LAST_DAY = date(2299, 12, 31)
FILE_BYTES_MAX = 4_000_000_000
LINES_MAX = 5_000_000
TEXT_MAX = 4_096  # characters that are kept of a text; the file itself is kept whole
ERRORS_MAX = 20

# Digits are ASCII's: Python's own \\d knows hundreds more.
_XML_DECIMAL = re.compile(r"[+-]?([0-9]{1,40})(?:\.([0-9]{0,40}))?|[+-]?\.([0-9]{1,40})")
_ISO_DAY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T[0-9:.]*|Z|[+-][0-9:]+)*")


class LineError(NamedTuple):
    """One broken rule. `line`: of the file, from 1; 0 when it is about the whole."""

    line: int
    field: str
    rule: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.field}: {self.rule}" if self.field else where + self.rule


class RefusedStatementError(BadInputError):
    """The file is refused whole; `errors` says why, at most ERRORS_MAX of `count`."""

    def __init__(self, name: str, errors: Iterable[LineError], count: int = 0) -> None:
        self.errors = tuple(errors)[:ERRORS_MAX]
        self.count = max(count, len(self.errors))
        more = f"; and {self.count - len(self.errors):,} more" if self.count > len(self.errors) else ""
        super().__init__(f"{name} is refused: " + "; ".join(map(str, self.errors)) + more)


@dataclass(slots=True)
class Lines:
    """Lines as columns of equal length. `number`: of the entry, or the line of the file; `detail`: 0: a whole entry."""

    number: list[int] = field(default_factory=list)
    detail: list[int] = field(default_factory=list)
    value_day: list[int] = field(default_factory=list)
    booking_day: list[int] = field(default_factory=list)
    amount: list[int] = field(default_factory=list)
    reference: list[str] = field(default_factory=list)
    bank_reference: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    counterparty: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.number)


@dataclass(slots=True)
class Statement:
    """One statement. `opening`, `closing`: None when the file does not say. `first_day`, `last_day`: what it covers;
    None when it has no line and says no period. `entries`: booked ones, which is fewer than lines when some have
    details. `announced`: entries that are not booked, and so left out."""

    format: str
    name: str
    external_account: str
    currency: str
    lines: Lines
    entries: int
    announced: int = 0
    opening: int | None = None
    closing: int | None = None
    first_day: int | None = None
    last_day: int | None = None

    @property
    def credits(self) -> int:
        """Sum of what came in."""
        return sum(a for a in self.lines.amount if a > 0)

    @property
    def debits(self) -> int:
        """Sum of what went out, as a positive number."""
        return -sum(a for a in self.lines.amount if a < 0)

    def problems(self) -> list[LineError]:
        """What does not add up, and by how much."""
        out = []
        if self.opening is not None and self.closing is not None:
            due = self.opening + self.credits - self.debits
            if due != self.closing:
                out.append(
                    LineError(
                        0,
                        "closing balance",
                        f"opening {self.shown(self.opening)} and {self.entries:,} entries make {self.shown(due)}, the "
                        f"statement says {self.shown(self.closing)}: it is off by {self.shown(self.closing - due)}",
                    )
                )
        return out

    def shown(self, amount: int) -> str:
        """An amount for people."""
        return f"{format_minor(amount, self.currency)} {self.currency}"

    def cover(self) -> None:
        """Sets the days it covers where it says none itself: first and last day of booking."""
        days = self.lines.booking_day
        if self.first_day is None and days:
            self.first_day = min(days)
        if self.last_day is None and days:
            self.last_day = max(days)


@contextmanager
def no_collector() -> Iterator[None]:
    """Without the cycle collector while a file is read: there are millions of small objects and no cycles among them,
    and looking for some takes nearly half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def statement_id(account: str, file_digest: str, mapping: str, place: int) -> str:
    """The name of a statement: SHA-256 in hex over the account, the file, the mapping and its place in the file."""
    return sha256("\n".join((account, file_digest, mapping, str(place))).encode()).hexdigest()


def clean(text: str) -> str:
    """A text as it is stored: in one line, at most TEXT_MAX characters."""
    return " ".join(text.split())[:TEXT_MAX]


def day_number(day: date) -> int:
    """Days since 1970. Raises ValueError outside of 1970 to 2299."""
    if not EPOCH <= day <= LAST_DAY:
        raise ValueError("must be a day from 1970-01-01 to 2299-12-31")
    return (day - EPOCH).days


def to_day(number: int) -> date:
    """The day of that number."""
    return EPOCH + timedelta(days=number)


def iso_day(text: str) -> int:
    """Days since 1970 of an ISO date, or of the date in an ISO moment as it is written. Raises ValueError."""
    found = _ISO_DAY.fullmatch(text.strip())
    try:
        return day_number(date.fromisoformat(found[1] if found else ""))
    except ValueError as e:
        rule = str(e) if str(e).startswith("must be") else f"must be a day as YYYY-MM-DD, not {shown(text)}"
        raise ValueError(rule) from None


def xml_minor(text: str, currency: str) -> int:
    """Minor units of an XML decimal, exactly. Raises ValueError with the rule: more decimals than the currency has
    (zeros at the end are none), more than 2^63 - 1, an unknown currency."""
    if currency not in EXPONENTS:
        raise ValueError(f"{shown(currency)} is not an active ISO 4217 currency code")
    found = _XML_DECIMAL.fullmatch(text.strip())
    if not found:
        raise ValueError(f"must be a decimal number, not {shown(text)}")
    whole, fraction = found[1] or "0", (found[2] or found[3] or "").rstrip("0")
    return minor(whole, fraction, currency, negative=text.strip().startswith("-"))


def minor(whole: str, fraction: str, currency: str, *, negative: bool = False) -> int:
    """Minor units from the digits before and after the point. Raises ValueError with the rule."""
    exponent = EXPONENTS[currency]
    if len(fraction) > exponent:
        raise ValueError(
            f"has {len(fraction)} decimals ({shown(whole + '.' + fraction)}), {currency} has {exponent or 'none'}"
        )
    amount = int(whole + fraction.ljust(exponent, "0"))
    if amount > AMOUNT_MAX:
        raise ValueError(f"must be at most {AMOUNT_MAX} minor units")
    return -amount if negative else amount


def shown(text: str) -> str:
    """A text as a message names it: quoted and short."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
