"""The life of partners: what each state permits, and the two commands that change it.

The table is that of docs/operations.md, written down once more.
"""

from __future__ import annotations

import re

from clearline.audit.figures import Figures
from schemas.identity import BANK, owner_of, root_of
from schemas.records import AdmitPartner, SetPartnerState

PARTNER_PATH = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){0,7}")

# transfer: entry, too; business: hold and exchange; void: refunds, too; sets: blocks, closes, sets limits
PERMITS: dict[str, set[str]] = {
    "applied": set(),
    "inspected": set(),
    "sandbox": {"opens", "sets"},
    "live": {"transfer", "business", "capture", "void", "reversal", "opens", "sets", "paid", "repaid"},
    "suspended": {"void", "repaid"},
    "exiting": {"transfer", "capture", "void", "reversal", "sets", "repaid"},
    "exited": set(),
}
MAY_BECOME: dict[str, set[str]] = {
    "applied": {"inspected", "exited"},
    "inspected": {"sandbox", "exited"},
    "sandbox": {"live", "exited"},
    "live": {"suspended", "exiting"},
    "suspended": {"live", "exiting"},
    "exiting": {"exited"},
    "exited": set(),
}
OF_KIND = {  # what a transaction of this kind needs permitted
    "transfer": "transfer", "entry": "transfer", "hold": "business", "exchange": "business", "adjustment": "business",
    "capture": "capture", "void": "void", "refund": "void", "reversal": "reversal",
}  # fmt: skip


def path_of(partner: str) -> list[str]:
    """The partner and those above it, from the root down."""
    parts = partner.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def is_below(partner: str, other: str) -> bool:
    """Whether `partner` is `other` or one below it."""
    return partner == other or partner.startswith(other + "/")


def between(asker: str, owner: str) -> list[str]:
    """The partners below the asker on the owner's path, from above down; none when the owner is not below the asker."""
    return [p for p in path_of(owner) if p.startswith(asker + "/")]


class Partners(Figures):
    """Who there is and what he may do."""

    def denied(self, partner: str, what: str) -> str:
        """Why the partner may not do this: a reason, or empty. The bank may do anything."""
        if partner == BANK:
            return ""
        known = self.answers.get((partner, what))
        if known is None:
            known = self.answers[partner, what] = self._denied(partner, what)
        return known

    def _denied(self, partner: str, what: str) -> str:
        states = [self.partner_state.get(p) for p in path_of(partner)]
        if None in states:
            return "partner_unknown"
        against = [s for s in states if s is not None and what not in PERMITS[s]]
        if not against:
            return ""
        return "partner_suspended" if against[0] == "suspended" else "partner_state"

    def withheld(self, asker: str, owner: str, kind: str) -> bool:
        """Whether a partner below the asker, the owner or one above it, does not permit that its money is moved so."""
        what = OF_KIND[kind]
        return asker != BANK and any(what not in PERMITS[self.partner_state[p]] for p in between(asker, owner))

    def unknown(self, partner: str) -> bool:
        """Whether the partner, or one above it, was never admitted."""
        return self.denied(partner, "paid") == "partner_unknown"

    def admit(self, offset: int, c: AdmitPartner) -> str:
        """The reason why a partner is not admitted, or empty."""
        parent = c.subject_id.rpartition("/")[0]
        if c.partner_id != BANK:
            return "not_permitted"
        if not PARTNER_PATH.fullmatch(c.subject_id) or root_of(c.subject_id) == BANK:
            return "field_invalid"
        if c.state not in ("applied", "live"):
            return "state_unknown"
        if c.subject_id in self.partner_state:
            return "partner_exists"
        if parent and self.partner_state.get(parent, "exited") == "exited":
            return "parent_unknown"
        self.set_standing(offset, c.subject_id, c.state, c.name)
        return ""

    def set_partner(self, offset: int, c: SetPartnerState) -> str:
        """The reason why a partner's state is not changed, or empty."""
        if c.partner_id != BANK:
            return "not_permitted"
        if not c.requested_by or not c.note or not self._is_approved(c):
            return "field_invalid"
        if c.state not in PERMITS:
            return "state_unknown"
        if c.subject_id not in self.partner_state:
            return "partner_unknown"
        if c.state not in MAY_BECOME[self.partner_state[c.subject_id]]:
            return "state_transition"
        if c.state == "exited" and self._holds_something(c.subject_id):
            return "partner_not_empty"
        self.set_standing(offset, c.subject_id, c.state, self.partner_name[c.subject_id])
        return ""

    def _is_approved(self, c: SetPartnerState) -> bool:
        """Four eyes: whoever approves did not ask, and out of the sandbox goes nobody who was not approved."""
        leaves_sandbox = (self.partner_state.get(c.subject_id), c.state) == ("sandbox", "live")
        return c.approved_by != c.requested_by if c.approved_by else not leaves_sandbox

    def _holds_something(self, partner: str) -> bool:
        """Whether an account of the subtree is not empty, or a partner below has not left."""
        for a in self.type:
            if is_below(owner_of(a), partner):
                debits_pending, debits, credits_pending, credits = self.counters(a)
                if debits != credits or debits_pending or credits_pending:
                    return True
        return any(p != partner and is_below(p, partner) and s != "exited" for p, s in self.partner_state.items())

    def set_standing(self, offset: int, partner: str, state: str, name: str) -> None:
        """Remembers a partner as of this offset."""
        self.answers = {}
        self.partner_state[partner], self.partner_name[partner], self.partner_offset[partner] = state, name, offset
