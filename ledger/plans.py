"""What a checked transaction is about to do: the Book applies a plan without any further question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.accounts import Account
from ledger.holds import Hold
from ledger.partners import Standing
from schemas.records import Posting

Leg = tuple[Account, str, int]  # an account, `debit` or `credit`, minor units
_NONE: dict[str, Account] = {}


class Moment(NamedTuple):
    """The command's place: its source offset, the event time in milliseconds, its payload's digest, and where it is.

    `standing`: what partners may do; `kind`: what is asked for, as their table names it; `partitions`: how many there
    are; `shelf`: whether products are on the shelf; `openings`: accounts by id that are not there yet, and are opened
    if a leg falls on them.
    """

    offset: int
    now: int
    digest: bytes
    standing: Standing
    kind: str
    partition: int = 0
    partitions: int = 1
    shelf: bool = False
    openings: Mapping[str, Account] = _NONE


@dataclass(slots=True)
class Plan:
    """What a checked operation does, beside posting `legs`. `kind`: what it is remembered as (`ledger.entries`).

    `opens`: a new hold; `releases`: a hold, and how many minor units of it; `original`: source offset of the
    transaction that it points at; `gives_back`: what of that is given back in all, once this is done. `opened`:
    accounts to open with it, in the order of the legs; `away`: credit legs that lie in other partitions: then the
    transaction crosses, and nothing is posted now; `counts`: it counts against limits.
    """

    kind: int
    legs: list[Leg] = field(default_factory=list)
    opens: Hold | None = None
    releases: tuple[Hold, int] | None = None
    original: int = -1
    gives_back: int = 0
    note: str = ""
    opened: list[Account] = field(default_factory=list)
    away: list[Posting] = field(default_factory=list)
    counts: bool = False
