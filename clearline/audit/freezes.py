"""What is frozen, what that stops, and the command that freezes; written from docs/operations.md, "Freezes".

A freeze is kept as the row that it must have. What it stops is asked by a set of names: the world, the partners on a
path, the product; the accounts of others are asked one by one.
"""

from __future__ import annotations

import re

from clearline.audit.figures import TRANSIT
from clearline.audit.partners import Partners, path_of
from schemas.identity import BANK, owner_of
from schemas.records import FreezeState, OperatorAct, SetFreeze

CHARS_MAX = 1_024
NEVER_STOPPED = {"void", "adjustment"}
LIFTED_BY_TWO = {"partner", "world"}
WORLD = ("world", "world")
ACT = re.compile(r"[a-z][a-z0-9._-]{0,63}", re.ASCII)
DIGEST = re.compile(r"([0-9a-f]{64})?", re.ASCII)


class Freezes(Partners):
    """Asks who and what is frozen."""

    def frozen_above(self, partner: str) -> bool:
        """Whether the partner or one above it is frozen."""
        return any(("partner", p) in self.freezes for p in path_of(partner))

    def barred(self, partner: str) -> str:
        """Why a partner may give no command of any kind; the bank may."""
        if partner == BANK or not self.freezes:
            return ""
        if WORLD in self.freezes:
            return "world_frozen"
        return "partner_frozen" if self.frozen_above(partner) else ""

    def stopped(self, asker: str, product: str, kind: str) -> str:
        """Why a transaction of this kind may not be, whatever its accounts are."""
        if kind in NEVER_STOPPED or not self.freezes:
            return ""
        if WORLD in self.freezes:
            return "world_frozen"
        if self.frozen_above(asker):
            return "partner_frozen"
        return "product_frozen" if ("product", product) in self.freezes else ""

    def kept_by(self, asker: str, account: str) -> bool:
        """Whether the account is of another partner's that is frozen."""
        owner = owner_of(account)
        return bool(self.freezes) and owner not in (asker, BANK) and self.frozen_above(owner)

    @staticmethod
    def _unsigned(c: SetFreeze | OperatorAct) -> bool:
        return any(not 1 <= len(text) <= CHARS_MAX for text in (c.requested_by, c.note))

    @staticmethod
    def _signed_twice(c: SetFreeze | OperatorAct) -> bool:
        return len(c.approved_by) > CHARS_MAX or c.approved_by == c.requested_by

    def set_freeze(self, offset: int, c: SetFreeze, *, on_shelf: bool) -> str:
        """The reason why it is refused, or empty. `on_shelf`: the product that it may name is published."""
        subject = c.level, c.subject_id
        if c.partner_id != BANK:
            return "not_permitted"
        if self._unsigned(c) or self._signed_twice(c) or c.level not in ("account", "partner", "product", "world"):
            return "field_invalid"
        if (c.level == "world" and subject != WORLD) or (
            not c.frozen and c.level in LIFTED_BY_TWO and not c.approved_by
        ):
            return "field_invalid"
        if c.level == "account" and c.subject_id.startswith(TRANSIT):
            return "account_not_owned"
        there = {
            "account": c.subject_id in self.type,
            "partner": c.subject_id in self.partner_state,
            "product": on_shelf,
            "world": True,
        }
        if not there[c.level]:
            return f"{c.level}_unknown"
        self.put_freeze(offset, *subject, c.frozen, c.requested_by, c.note, c.approved_by)
        return ""

    def put_freeze(self, offset: int, level: str, name: str, frozen: bool, who: str, why: str, second: str) -> None:
        """Freezes or lifts. What is as it is asked for stays as it is."""
        if not frozen:
            self.freezes.pop((level, name), None)
        elif (level, name) not in self.freezes:
            self.freezes[level, name] = FreezeState(level, name, who, why, second, self.event_time, offset)
        if level == "account" and self.frozen[name] != frozen:
            self.frozen[name], self.touched[name] = frozen, offset

    def misact(self, c: OperatorAct) -> str:
        """The reason why an act is not recorded, or empty. It does nothing."""
        if c.partner_id != BANK:
            return "not_permitted"
        right = (
            not self._unsigned(c) and ACT.fullmatch(c.act) and 1 <= len(c.subject_id) <= CHARS_MAX
            and DIGEST.fullmatch(c.digest) and not self._signed_twice(c)
        )  # fmt: skip
        return "" if right else "field_invalid"
