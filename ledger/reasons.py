"""Why a command is rejected: stable codes, in the order in which they are looked for, with cause and cure.

When several apply, over all postings of an entry, the first in this list is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Each value is part of the contract: it is never renamed, and new ones take a place of their own."""

    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    PARTNER_UNKNOWN = "partner_unknown"
    PRODUCT_UNKNOWN = "product_unknown"
    OPERATION_UNKNOWN = "operation_unknown"
    PARTNER_SUSPENDED = "partner_suspended"
    PARTNER_STATE = "partner_state"
    WORLD_FROZEN = "world_frozen"
    PARTNER_FROZEN = "partner_frozen"
    PRODUCT_FROZEN = "product_frozen"
    FIELD_INVALID = "field_invalid"
    ROLE_UNKNOWN = "role_unknown"
    ROLE_MISSING = "role_missing"
    CURRENCY_UNKNOWN = "currency_unknown"
    PRODUCT_CURRENCY = "product_currency"
    EXPONENT_MISMATCH = "exponent_mismatch"
    AMOUNT_NOT_POSITIVE = "amount_not_positive"
    AMOUNT_TOO_LARGE = "amount_too_large"
    RATE_INVALID = "rate_invalid"
    POSTINGS_COUNT = "postings_count"
    POSTINGS_UNBALANCED = "postings_unbalanced"
    NOT_PERMITTED = "not_permitted"
    ORIGINAL_UNKNOWN = "original_unknown"
    ORIGINAL_MISMATCH = "original_mismatch"
    HOLD_EXPIRED = "hold_expired"
    HOLD_CLOSED = "hold_closed"
    CAPTURE_EXCEEDS_HOLD = "capture_exceeds_hold"
    REFUND_EXCEEDS_PAYMENT = "refund_exceeds_payment"
    ACCOUNT_UNKNOWN = "account_unknown"
    ACCOUNT_NOT_OWNED = "account_not_owned"
    OWNER_STATE = "owner_state"
    OWNER_FROZEN = "owner_frozen"
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_FROZEN = "account_frozen"
    ACCOUNT_CURRENCY = "account_currency"
    DEBITS_BLOCKED = "debits_blocked"
    CREDITS_BLOCKED = "credits_blocked"
    SAME_ACCOUNT = "same_account"
    SPLIT_EXCEEDS_AMOUNT = "split_exceeds_amount"
    NOTHING_TO_MOVE = "nothing_to_move"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    COUNTER_OVERFLOW = "counter_overflow"
    LIMIT_EXCEEDED = "limit_exceeded"
    ACCOUNT_EXISTS = "account_exists"
    ACCOUNT_NOT_EMPTY = "account_not_empty"
    PARTNER_EXISTS = "partner_exists"
    PARENT_UNKNOWN = "parent_unknown"
    STATE_UNKNOWN = "state_unknown"
    STATE_TRANSITION = "state_transition"
    PARTNER_NOT_EMPTY = "partner_not_empty"
    PRODUCT_VERSION = "product_version"
    PRODUCT_INVALID = "product_invalid"
    TEMPLATE_UNBALANCED = "template_unbalanced"
    DAY_CLOSED = "day_closed"
    DAY_AHEAD = "day_ahead"
    CROSSING_UNKNOWN = "crossing_unknown"
    DAY_OPEN = "day_open"
    DAY_SEALED = "day_sealed"


MEANING: dict[Reason, str] = {
    Reason.IDEMPOTENCY_CONFLICT: "The key was used before with another payload; `first_offset` points to it.",
    Reason.PARTNER_UNKNOWN: "The partner was never admitted in this world.",
    Reason.PRODUCT_UNKNOWN: "No version of this product is on the shelf for that value date.",
    Reason.OPERATION_UNKNOWN: "The product offers no such operation.",
    Reason.PARTNER_SUSPENDED: "The partner, or one above it, is suspended; `partner` names which.",
    Reason.PARTNER_STATE: "The state of the partner, or of one above it, does not permit this; `partner` names which.",
    Reason.WORLD_FROZEN: "The bank has frozen the whole world: nothing but voids is taken.",
    Reason.PARTNER_FROZEN: "The partner, or one above it, is frozen by the bank; `partner` names which.",
    Reason.PRODUCT_FROZEN: "The product is frozen by the bank.",
    Reason.FIELD_INVALID: "A field is missing, malformed or contradicts another; `field` and `rule` name it.",
    Reason.ROLE_UNKNOWN: "The operation has no such role; `roles` names those it has.",
    Reason.ROLE_MISSING: "A role of the operation has no account.",
    Reason.CURRENCY_UNKNOWN: "Not an active ISO 4217 code.",
    Reason.PRODUCT_CURRENCY: "The product is not offered in this currency.",
    Reason.EXPONENT_MISMATCH: "The caller believes the currency to have another number of decimals than it has.",
    Reason.AMOUNT_NOT_POSITIVE: "Amounts are whole minor units of at least 1.",
    Reason.AMOUNT_TOO_LARGE: "More than 9223372036854775807 minor units in one posting.",
    Reason.RATE_INVALID: "The rate is not a decimal number above zero, or buys nothing.",
    Reason.POSTINGS_COUNT: "An entry has 2 to 1,000 postings.",
    Reason.POSTINGS_UNBALANCED: "Debits and credits differ in a currency; the detail says by how much.",
    Reason.NOT_PERMITTED: "This partner may not ask for this.",
    Reason.ORIGINAL_UNKNOWN: "Nothing settled is remembered under this partner and the key in `original`.",
    Reason.ORIGINAL_MISMATCH: "The original is not of the kind, product or currency that this operation takes.",
    Reason.HOLD_EXPIRED: "The hold has lapsed; what it set aside was released.",
    Reason.HOLD_CLOSED: "The hold was captured or voided before.",
    Reason.CAPTURE_EXCEEDS_HOLD: "More than is left of the hold; `remaining` says how much is.",
    Reason.REFUND_EXCEEDS_PAYMENT: "More than was paid less what was given back; `remaining` says how much is left.",
    Reason.ACCOUNT_UNKNOWN: "No such account.",
    Reason.ACCOUNT_NOT_OWNED: "Not an account that this partner may use on this side: see docs/operations.md.",
    Reason.OWNER_STATE: "The state of the account's owner does not permit this; `partner` and `state` name it.",
    Reason.OWNER_FROZEN: "The account's owner, or a partner above it, is frozen by the bank; `partner` names which.",
    Reason.ACCOUNT_CLOSED: "The account is closed for good.",
    Reason.ACCOUNT_FROZEN: "The account is frozen; nothing may be posted to it.",
    Reason.ACCOUNT_CURRENCY: "The posting's currency is not the account's.",
    Reason.DEBITS_BLOCKED: "The account refuses debits.",
    Reason.CREDITS_BLOCKED: "The account refuses credits.",
    Reason.SAME_ACCOUNT: "Payer and payee are one account.",
    Reason.SPLIT_EXCEEDS_AMOUNT: "Fees and parts take more than the amount.",
    Reason.NOTHING_TO_MOVE: "Nothing is left to post: the balances that the operation moves are zero.",
    Reason.INSUFFICIENT_FUNDS: "The entry would leave less than the account may have available.",
    Reason.COUNTER_OVERFLOW: "A counter of the account would pass 10^38 - 1 minor units.",
    Reason.LIMIT_EXCEEDED: "A limit would be passed; `limit`, `level`, `used`, `asked` and `allowed` name it.",
    Reason.ACCOUNT_EXISTS: "The account is open already.",
    Reason.ACCOUNT_NOT_EMPTY: "Only an account with a zero balance and no holds can be closed.",
    Reason.PARTNER_EXISTS: "The partner is admitted already.",
    Reason.PARENT_UNKNOWN: "The partner above it in the path was never admitted, or has left.",
    Reason.STATE_UNKNOWN: "No such state, or not one in which a partner is admitted.",
    Reason.STATE_TRANSITION: "A partner cannot go from its state to this one.",
    Reason.PARTNER_NOT_EMPTY: "A partner leaves only when its accounts are empty and those below it have left.",
    Reason.PRODUCT_VERSION: "A new version must be higher than every version before.",
    Reason.PRODUCT_INVALID: "The product's document breaks a rule; `path` and `rule` name it.",
    Reason.TEMPLATE_UNBALANCED: "A step of the product cannot balance; `path` and `rule` name it.",
    Reason.DAY_CLOSED: "The day is closed already.",
    Reason.DAY_AHEAD: "The day has not begun.",
    Reason.CROSSING_UNKNOWN: "No such transaction between partitions waits for this.",
    Reason.DAY_OPEN: "The day is not closed in this partition.",
    Reason.DAY_SEALED: "The day is sealed already; `hash` says with what.",
}

CURE: dict[Reason, str] = {
    Reason.IDEMPOTENCY_CONFLICT: "Use a new key for a new payment; repeat an old one unchanged.",
    Reason.PARTNER_UNKNOWN: "Check the partner's path, or have it admitted.",
    Reason.PRODUCT_UNKNOWN: "`clearline product list` shows what there is, and from when.",
    Reason.OPERATION_UNKNOWN: "`clearline product show PRODUCT` lists its operations.",
    Reason.PARTNER_SUSPENDED: "Voids and refunds go on; for the rest the bank must let it go on.",
    Reason.PARTNER_STATE: "docs/operations.md has the table; the bank changes states.",
    Reason.WORLD_FROZEN: "Wait until the bank lifts the freeze, then send it again under a new key.",
    Reason.PARTNER_FROZEN: "Voids go on; for the rest the bank must lift the freeze.",
    Reason.PRODUCT_FROZEN: "Voids go on; for the rest the bank must lift the freeze, or use another product.",
    Reason.FIELD_INVALID: "Correct the field and send it with a new key.",
    Reason.ROLE_UNKNOWN: "Name only the operation's roles in `accounts`.",
    Reason.ROLE_MISSING: "Name an account for it in `accounts`.",
    Reason.CURRENCY_UNKNOWN: "Use the three capital letters of ISO 4217.",
    Reason.PRODUCT_CURRENCY: "`clearline product show PRODUCT` lists its currencies.",
    Reason.EXPONENT_MISMATCH: "Send the amount in the currency's own minor units.",
    Reason.AMOUNT_NOT_POSITIVE: "To move money the other way, swap payer and payee.",
    Reason.AMOUNT_TOO_LARGE: "Split the payment.",
    Reason.RATE_INVALID: "Send a rate such as 7.1234: units of the payee's currency for one of `currency`.",
    Reason.POSTINGS_COUNT: "Split it into several transactions.",
    Reason.POSTINGS_UNBALANCED: "Correct the postings.",
    Reason.NOT_PERMITTED: "Have the bank, or a partner above, ask for it.",
    Reason.ORIGINAL_UNKNOWN: "Check the key; after 30 days pay back by a transfer.",
    Reason.ORIGINAL_MISMATCH: "The detail's `rule` says which original it takes.",
    Reason.HOLD_EXPIRED: "Place a new hold.",
    Reason.HOLD_CLOSED: "Nothing is left to take; place a new hold.",
    Reason.CAPTURE_EXCEEDS_HOLD: "Capture at most what remains.",
    Reason.REFUND_EXCEEDS_PAYMENT: "Refund at most what remains.",
    Reason.ACCOUNT_UNKNOWN: "Check the id, or open the account first.",
    Reason.ACCOUNT_NOT_OWNED: "Ask in the name of the partner that owns the account.",
    Reason.OWNER_STATE: "docs/operations.md has the table; refunds reach it while it is suspended or leaving.",
    Reason.OWNER_FROZEN: "The bank must lift the freeze.",
    Reason.ACCOUNT_CLOSED: "Use another account.",
    Reason.ACCOUNT_FROZEN: "The bank must lift the freeze.",
    Reason.ACCOUNT_CURRENCY: "Use an account in that currency, or an exchange.",
    Reason.DEBITS_BLOCKED: "The bank must lift the block.",
    Reason.CREDITS_BLOCKED: "The bank must lift the block.",
    Reason.SAME_ACCOUNT: "Name two accounts.",
    Reason.SPLIT_EXCEEDS_AMOUNT: "Raise the amount, or correct the parts.",
    Reason.NOTHING_TO_MOVE: "Nothing to do.",
    Reason.INSUFFICIENT_FUNDS: "`short` says how much is missing.",
    Reason.COUNTER_OVERFLOW: "Use another account.",
    Reason.LIMIT_EXCEEDED: "Wait for the next window, or have the limit raised.",
    Reason.ACCOUNT_EXISTS: "Nothing to do, or choose another name.",
    Reason.ACCOUNT_NOT_EMPTY: "Move the balance away and void its holds first.",
    Reason.PARTNER_EXISTS: "Nothing to do, or choose another name.",
    Reason.PARENT_UNKNOWN: "Admit the partners of a path from the root down.",
    Reason.STATE_UNKNOWN: "docs/operations.md has the table of states.",
    Reason.STATE_TRANSITION: "docs/operations.md has the table of states.",
    Reason.PARTNER_NOT_EMPTY: "Drain holds and balances first; the detail names the next one.",
    Reason.PRODUCT_VERSION: "Raise the version.",
    Reason.PRODUCT_INVALID: "Correct it there; `clearline product test FILE` shows line and rule.",
    Reason.TEMPLATE_UNBALANCED: "Give exactly one target of the step what remains.",
    Reason.DAY_CLOSED: "Nothing to do; what is late is booked to the open day.",
    Reason.DAY_AHEAD: "Close it when it has.",
    Reason.CROSSING_UNKNOWN: "Nothing to do: it was decided before.",
    Reason.DAY_OPEN: "Close it first: `clearline close DATE`.",
    Reason.DAY_SEALED: "Nothing to do; `clearline close --verify DATE` recomputes it.",
}


class Rejection(Exception):  # noqa: N818 - an outcome, not an error; it never leaves the Book
    """Carries a reason out of the checks of one command. `detail` names field, account, limit, in words."""

    def __init__(self, reason: Reason, **detail: object) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = {k: str(v) for k, v in detail.items()}
        self.rank = _ORDER[reason]  # its place in the list

    def once_accounts_are_known(self) -> Rejection:
        """The same, but looked for right after the rules of accounts: it depends on them."""
        self.rank = _ORDER[Reason.NOTHING_TO_MOVE]
        return self


_ORDER = {reason: rank for rank, reason in enumerate(Reason)}


def first(a: Rejection | None, b: Rejection | None) -> Rejection | None:
    """Of two reasons the one that comes first in the list; the earlier leg's when they are equal."""
    if a is None or b is None:
        return a or b
    return b if b.rank < a.rank else a


def told_of(code: str, table: Mapping[Reason, str]) -> str:
    """What MEANING or CURE says of a code; empty for none and for what is no reason of the ledger."""
    return table[Reason(code)] if code in _ORDER else ""
