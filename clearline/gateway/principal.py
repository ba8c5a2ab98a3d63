"""Who asks, and what for: the one place where it is decided what a credential may see and do."""

from __future__ import annotations

from dataclasses import dataclass

from clearline.gateway.problems import Problem
from ledger.names import within
from schemas.identity import BANK, owner_of, root_of


@dataclass(frozen=True, slots=True)
class Principal:
    """A credential that was checked. `partner_id`: whose it is; `acting`: for whom it asks, that partner or one below.

    `scopes`: as docs/gateway.md has them.
    """

    key_id: str
    partner_id: str
    acting: str
    scopes: frozenset[str]

    @property
    def root(self) -> str:
        """The root partner: limits of calls are per tree."""
        return root_of(self.partner_id)

    def sees(self, partner_id: str) -> bool:
        """Whether a partner is the one it acts for, or below it. The bank is nobody's."""
        return root_of(partner_id) != BANK and within(partner_id, self.acting)

    def sees_account(self, account_id: str) -> bool:
        """Whether an account belongs to what it sees."""
        return self.sees(owner_of(account_id))

    @property
    def sees_all_figures(self) -> bool:
        """Whether its reports are of everybody, the bank included: a key of the bank with the scope `reports`. Only the
        routes of reports and data ask this; `sees` stays false for the bank, so no other route shows it anything."""
        return self.partner_id == BANK and "reports" in self.scopes

    def need(self, scope: str) -> None:
        """Raises Problem("scope_missing") unless one of its scopes covers it. `transact:PRODUCT:OPERATION` is covered
        by a `*` in either place; every other scope by itself."""
        if scope not in self.scopes and not any(_covers(have, scope) for have in self.scopes):
            raise Problem("scope_missing", f"the key has no scope {scope}", more={"scope": scope})


def _covers(have: str, wanted: str) -> bool:
    h, w = have.split(":"), wanted.split(":")
    return len(h) == len(w) == 3 and h[0] == w[0] and all(a in ("*", b) for a, b in zip(h[1:], w[1:], strict=True))
