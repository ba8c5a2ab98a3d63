"""What the model keeps: accounts, holds, entries, flights; and what it answers. Plain tuples, never changed in place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from schemas.records import Crossing, Posting

# Those that the tests use, with their decimals; every other currency is unknown to the model.
EXPONENTS = {"CNY": 2, "JPY": 0, "KWD": 3, "EUR": 2, "USD": 2}
LONG_MAX = 9_223_372_036_854_775_807
COUNTER_MAX = int("9" * 38)
DAY_MAX = 120_529  # 2299-12-31
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
PARTNER = rf"{NAME}(/{NAME}){{0,7}}"
LOCAL = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
TYPES = ("asset", "liability", "equity", "income", "expense")
WITH_ORIGINAL = ("capture", "void", "refund", "reversal")
OPERATIONS = ("transfer", "hold", *WITH_ORIGINAL, "exchange", "adjustment")
NEW_BUSINESS = ("transfer", "entry", "hold", "exchange")
TRANSIT = "bank:crossing:"

Key = tuple[str, str]
Against = tuple[str, dict[str, str]]  # a reason, and what its detail must name at least


def against(reason: str, **detail: object) -> Against:
    return reason, {k: str(v) for k, v in detail.items()}


def owner(account_id: str) -> str:
    return account_id.split(":")[0]


def root(partner: str) -> str:
    return partner.split("/")[0]


@cache
def path(partner: str) -> tuple[str, ...]:
    """`a/b/c` -> a, a/b, a/b/c."""
    parts = partner.split("/")
    return tuple("/".join(parts[:n]) for n in range(1, len(parts) + 1))


def is_below(partner: str, above: str) -> bool:
    """Whether `partner` is `above` or in its subtree."""
    return above in path(partner)


class Known(NamedTuple):
    """One account of the model. `d`, `c`: debits and credits posted; `dp`, `cp`: pending; `limit`: min_available."""

    owner: str
    type: str
    currency: str
    limit: int | None
    d: int = 0
    c: int = 0
    dp: int = 0
    cp: int = 0
    no_debits: bool = False
    no_credits: bool = False
    closed: bool = False
    frozen: bool = False
    credit: int = 0

    def debit_normal(self) -> bool:
        return self.type in ("asset", "expense")

    def available(self) -> int:
        return self.d - self.c - self.cp if self.debit_normal() else self.c - self.d - self.dp

    def floor(self) -> int | None:
        """Below this no command may leave it."""
        return None if self.limit is None else self.limit - self.credit

    def empty(self) -> bool:
        return self.d == self.c and self.dp == 0 and self.cp == 0

    def counters(self) -> tuple[int, int, int, int]:
        """In the order of the records: debits pending, posted, credits pending, posted."""
        return self.dp, self.d, self.cp, self.c

    def post(self, side: str, amount: int) -> Known:
        return self._replace(d=self.d + amount) if side == "debit" else self._replace(c=self.c + amount)

    def set_aside(self, side: str, change: int) -> Known:
        return self._replace(dp=self.dp + change) if side == "debit" else self._replace(cp=self.cp + change)


class Leg(NamedTuple):
    """One leg that is about to be posted. `rule`: owner rule of its role, empty where the operation's own rule holds;
    `open`: how the account is opened on first use, None when it is not; `role`: name of its role."""

    account: str
    side: str
    amount: int
    currency: str
    role: str = ""
    rule: str = ""
    open: Known | None = None

    def posting(self) -> Posting:
        return Posting(self.account, self.side, self.amount, self.currency)


class Hold(NamedTuple):
    """Money set aside. `state`: open, closed or expired; `changed`: offset of the last command that changed it."""

    offset: int
    payer: str
    payee: str
    currency: str
    amount: int
    left: int
    expires_at: int
    changed: int
    state: str = "open"


class Entry(NamedTuple):
    """A settled transfer, exchange or capture, and how much of it was given back. Each leg says its currency."""

    offset: int
    legs: tuple[Posting, ...]
    given_back: int = 0
    product: str = ""

    def debits(self) -> list[Posting]:
        return [leg for leg in self.legs if leg.side == "debit"]

    def credits(self) -> list[Posting]:
        return [leg for leg in self.legs if leg.side == "credit"]


class Other(NamedTuple):
    """A settled transaction that can be nobody's original, or one that crosses partitions."""

    offset: int


class Flight(NamedTuple):
    """A transaction between partitions. `legs`: those set aside here, the transit legs among them; `parts`: what each
    other partition said, at home: waiting, reserved or refused; `asked`: the Crossing it came with, or would send."""

    id: bytes
    home: bool
    key: Key
    legs: tuple[Posting, ...]
    parts: tuple[tuple[int, str], ...]
    offset: int
    asked: Crossing
    changed: int
    reason: str = ""
    detail: tuple[tuple[str, str], ...] = ()


class Product(NamedTuple):
    """One version on the shelf. `document`: as JSON gives it."""

    version: int
    effective_from: int
    document: dict[str, Any]
    text: str


class Answer(NamedTuple):
    """What a command comes to. `postings`: account, side, amount, currency and the four counters after it; `pending`:
    key of the hold (partner, key), account, side, change, currency, expired and the four counters after it.

    `detail`: what the record's detail names at least. `changes`: what its changes are, None when the page leaves more
    open. `speaks_for`: the transaction that a deciding answer gives the outcome of. `sent`: what goes to other partitions.
    """

    outcome: str
    reason: str = ""
    first_offset: int = -1
    postings: tuple[tuple[Any, ...], ...] = ()
    pending: tuple[tuple[Any, ...], ...] = ()
    original_offset: int = -1
    detail: Mapping[str, str] = MappingProxyType({})
    changes: dict[str, str] | None = None
    opened: tuple[tuple[str, str, str, int | None, int], ...] = ()
    value_date: int | None = None
    version: int = 0
    subject: str | None = None
    speaks_for: Key | None = None
    sent: tuple[Crossing, ...] = ()
