"""The life of a partner: the table of docs/operations.md, and who may do what by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.model.values import Against, against, path


class State(NamedTuple):
    business: tuple[str, ...]  # kinds of new business
    capture: bool
    void_refund: bool
    reversal: bool
    opens: bool
    manages: bool  # blocks, closes, sets limits
    paid: bool
    repaid: bool
    becomes: tuple[str, ...]


NONE: tuple[str, ...] = ()
ALL = ("transfer", "entry", "hold", "exchange", "adjustment")
STATES = {
    #                  business                capture void   reversal opens  manages paid  repaid becomes
    "applied":   State(NONE,                   False,  False, False,   False, False, False, False, ("inspected", "exited")),
    "inspected": State(NONE,                   False,  False, False,   False, False, False, False, ("sandbox", "exited")),
    "sandbox":   State(NONE,                   False,  False, False,   True,  True,  False, False, ("live", "exited")),
    "live":      State(ALL,                    True,   True,  True,    True,  True,  True,  True,  ("suspended", "exiting")),
    "suspended": State(NONE,                   False,  True,  False,   False, False, False, True,  ("live", "exiting")),
    "exiting":   State(("transfer", "entry"),  True,   True,  True,    False, True,  False, True,  ("exited",)),
    "exited":    State(NONE,                   False,  False, False,   False, False, False, False, NONE),
}  # fmt: skip


def permits(state: str, what: str) -> bool:
    """`what`: the kind of a transaction, or opens, manages, paid, repaid."""
    row = STATES[state]
    if what in ("void", "refund"):
        return row.void_refund
    if what in ALL:
        return what in row.business
    return bool(getattr(row, what))


def not_permitting(partners: Mapping[str, str], partner: str, what: str) -> str:
    """The first partner from the root down that does not permit it; empty when all do."""
    return next((p for p in path(partner) if not permits(partners[p], what)), "")


def withholding(partners: Mapping[str, str], asker: str, owner: str, kind: str) -> str:
    """The first partner on the owner's path below the asker that does not permit to take from there; empty: all do.

    `kind`: of the transaction. The bank asks nobody, nor does a correction or what gives up a hold.
    """
    if asker == "bank" or kind in ("adjustment", "void"):
        return ""
    return next((p for p in path(owner) if asker in path(p)[:-1] and not permits(partners[p], kind)), "")


def stands_against(partners: Mapping[str, str], partner: str, what: str) -> Iterator[Against]:
    """Why a partner may not do this: it is unknown, suspended, or in another state that does not permit it."""
    if partner == "bank":
        return
    if partner not in partners:
        yield against("partner_unknown", partner=partner[:256])
        return
    name = not_permitting(partners, partner, what)
    if name:
        suspended = partners[name] == "suspended"
        yield against("partner_suspended" if suspended else "partner_state", partner=name, state=partners[name])
