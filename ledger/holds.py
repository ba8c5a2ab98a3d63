"""A hold: money set aside between two accounts, until it is captured, voided, or lapses."""

from __future__ import annotations

import msgspec

from schemas.records import HoldState


class Hold(msgspec.Struct, gc=False, eq=False):
    """One hold; its id and digest are the command's. Amounts are minor units of `currency`; `remaining` 0 means closed.

    `expires_at`: event time in milliseconds UTC at which it lapses, 0 never. `opened_at`: source offset of the command
    that asked for it; `offset`: of the last one that changed it.
    """

    hold_id: bytes
    digest: bytes
    partner_id: str
    payer: str
    payee: str
    currency: str
    amount: int
    remaining: int
    expires_at: int
    opened_at: int
    offset: int

    @property
    def name(self) -> str:
        """Its id in hexadecimal, by which it is kept."""
        return self.hold_id.hex()

    @property
    def due(self) -> tuple[int, int, str]:
        """Its place among the holds that will lapse."""
        return self.expires_at, self.opened_at, self.name

    def copy(self) -> Hold:
        """A copy that can be changed without changing this one."""
        return self.__copy__()  # type: ignore[attr-defined, no-any-return]  # msgspec gives it, without saying so

    def state(self) -> HoldState:
        """The record of this hold for `ledger.state`."""
        return HoldState(
            self.hold_id, self.digest, self.partner_id, self.payer, self.payee, self.currency,
            self.amount, self.remaining, self.expires_at, self.opened_at, self.offset,
        )  # fmt: skip

    @classmethod
    def from_state(cls, s: HoldState) -> Hold:
        """The hold that `state()` described."""
        return cls(
            s.hold_id, s.payload_digest, s.partner_id, s.payer, s.payee, s.currency,
            s.amount, s.remaining, s.expires_at, s.opened_at_offset, s.source_offset,
        )  # fmt: skip
