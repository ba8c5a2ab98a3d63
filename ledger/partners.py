"""The life of a partner: one table of states, from which everything follows that a partner may and may not do.

docs/operations.md shows the same table, and a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ledger.reasons import Reason, Rejection
from schemas.identity import BANK

OPENS, SETS, IS_PAID, IS_REPAID = "opens accounts", "blocks, closes, sets limits", "is paid", "is repaid"

# Each column of the table, and what it permits: operations by their kind, or one of the above.
COLUMNS: dict[str, tuple[str, ...]] = {
    "new business": ("transfer", "entry", "hold", "exchange", "adjustment"),
    "capture": ("capture",),
    "void, refund": ("void", "refund"),
    "reversal": ("reversal",),
    OPENS: (OPENS,),
    SETS: (SETS,),
    IS_PAID: (IS_PAID,),
    IS_REPAID: (IS_REPAID,),
}
TRANSFERS = ("transfer", "entry")  # what is left of new business for a partner that leaves


class Life(NamedTuple):
    """What a partner may do in one state of its life, and what it may become."""

    permits: frozenset[str]
    may_become: tuple[str, ...]


def _life(*may_become: str, columns: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> Life:
    return Life(frozenset(more).union(*(COLUMNS[c] for c in columns)), may_become)


STATES: dict[str, Life] = {
    "applied": _life("inspected", "exited"),
    "inspected": _life("sandbox", "exited"),
    "sandbox": _life("live", "exited", columns=(OPENS, SETS)),
    "live": _life("suspended", "exiting", columns=tuple(COLUMNS)),
    "suspended": _life("live", "exiting", columns=("void, refund", IS_REPAID)),
    "exiting": _life("exited", columns=("capture", "void, refund", "reversal", SETS, IS_REPAID), more=TRANSFERS),
    "exited": _life(),
}
ADMITTED_AS = ("applied", "live")


class PartnerLike(Protocol):
    @property
    def state(self) -> str: ...


class Partners(Protocol):
    def find(self, key: str) -> PartnerLike | None: ...


Path = tuple[tuple[str, str], ...]


class Standing:
    """What partners may do now. Answers are kept until `clear`, which every control command must call.

    `live`: partners that were asked about and may do everything, `bank` among them. `is_frozen`: whether this level and
    subject has a row that says so.
    """

    __slots__ = ("_is_frozen", "_partners", "_paths", "live")

    def __init__(self, partners: Partners, is_frozen: Callable[[str, str], bool]) -> None:
        self._partners = partners
        self._is_frozen = is_frozen
        self._paths: dict[str, Path | None] = {}
        self.live: set[str] = {BANK}

    def clear(self) -> None:
        self._paths.clear()
        self.live = {BANK}

    def path(self, partner_id: str) -> Path | None:
        """Its path from the root down, each with its state; None when it was never admitted; empty for `bank`."""
        if partner_id not in self._paths:
            found = self._paths[partner_id] = self._find(partner_id)
            if found is not None and all(state == "live" for _, state in found) and self._is_free(partner_id):
                self.live.add(partner_id)
        return self._paths[partner_id]

    def _find(self, partner_id: str) -> Path | None:
        if partner_id == BANK:
            return ()
        out = []
        parts = partner_id.split("/")
        for i in range(len(parts)):
            name = "/".join(parts[: i + 1])
            partner = self._partners.find(name)
            if partner is None:
                return None
            out.append((name, partner.state))
        return tuple(out)

    def _is_free(self, partner_id: str) -> bool:
        return not self._is_frozen("world", "world") and not self.frozen_by(partner_id)

    def frozen_by(self, partner_id: str) -> str:
        """Who on its path, from the root down, is frozen; empty when nobody is."""
        return next((name for name, _ in self.path(partner_id) or () if self._is_frozen("partner", name)), "")

    def is_live(self, partner_id: str) -> bool:
        """Whether it, and all above it, may do everything."""
        if partner_id not in self.live:
            self.path(partner_id)
        return partner_id in self.live

    def known(self, partner_id: str, field: str = "partner_id") -> Path:
        """Its path. Raises Rejection for a partner that was never admitted."""
        path = self.path(partner_id)
        if path is None:
            raise Rejection(Reason.PARTNER_UNKNOWN, field=field, partner=partner_id[:256])
        return path

    def against(self, partner_id: str, what: str, below: str = "") -> tuple[str, str] | None:
        """Who on its path, from the root down, does not permit `what`, and the state it is in; None when all do.

        `below`: only those below this partner are asked.
        """
        for name, state in self.path(partner_id) or ():
            if what not in STATES[state].permits and name.startswith(below and below + "/"):
                return name, state
        return None

    def require(self, partner_id: str, what: str) -> None:
        """Raises Rejection unless the partner is known and all on its path permit `what`."""
        self.known(partner_id)
        found = self.against(partner_id, what)
        if found is not None:
            name, state = found
            reason = Reason.PARTNER_SUSPENDED if state == "suspended" else Reason.PARTNER_STATE
            raise Rejection(reason, field="partner_id", partner=name, state=state)
