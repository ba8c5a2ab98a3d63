"""Why a command is rejected: stable codes, in the order in which they are looked for.

When several apply, over all postings of an entry, the first in this list is given.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Each value is part of the contract: it is never renamed, and new ones take a place of their own."""

    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    PARTNER_UNKNOWN = "partner_unknown"
    PARTNER_SUSPENDED = "partner_suspended"
    OPERATION_UNKNOWN = "operation_unknown"
    FIELD_INVALID = "field_invalid"
    CURRENCY_UNKNOWN = "currency_unknown"
    AMOUNT_NOT_POSITIVE = "amount_not_positive"
    AMOUNT_TOO_LARGE = "amount_too_large"
    POSTINGS_COUNT = "postings_count"
    POSTINGS_UNBALANCED = "postings_unbalanced"
    ORIGINAL_UNKNOWN = "original_unknown"
    ORIGINAL_MISMATCH = "original_mismatch"
    HOLD_EXPIRED = "hold_expired"
    HOLD_CLOSED = "hold_closed"
    CAPTURE_EXCEEDS_HOLD = "capture_exceeds_hold"
    REFUND_EXCEEDS_PAYMENT = "refund_exceeds_payment"
    ACCOUNT_UNKNOWN = "account_unknown"
    ACCOUNT_NOT_OWNED = "account_not_owned"
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_CURRENCY = "account_currency"
    DEBITS_BLOCKED = "debits_blocked"
    CREDITS_BLOCKED = "credits_blocked"
    SAME_ACCOUNT = "same_account"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    COUNTER_OVERFLOW = "counter_overflow"
    NOT_PERMITTED = "not_permitted"
    ACCOUNT_EXISTS = "account_exists"
    ACCOUNT_NOT_EMPTY = "account_not_empty"
    PARTNER_EXISTS = "partner_exists"
    PARENT_UNKNOWN = "parent_unknown"
    STATE_UNKNOWN = "state_unknown"


MEANING: dict[Reason, str] = {
    Reason.IDEMPOTENCY_CONFLICT: "The key was used before with another payload; `first_offset` points to it.",
    Reason.PARTNER_UNKNOWN: "The partner was never admitted in this world.",
    Reason.PARTNER_SUSPENDED: "The partner, or one above it, is suspended; `partner` names which.",
    Reason.OPERATION_UNKNOWN: "The product offers no such operation.",
    Reason.FIELD_INVALID: "A field is missing, malformed or contradicts another; `field` and `rule` name it.",
    Reason.CURRENCY_UNKNOWN: "Not an active ISO 4217 code.",
    Reason.AMOUNT_NOT_POSITIVE: "Amounts are whole minor units of at least 1.",
    Reason.AMOUNT_TOO_LARGE: "More than 9223372036854775807 minor units in one posting.",
    Reason.POSTINGS_COUNT: "An entry has 2 to 1,000 postings.",
    Reason.POSTINGS_UNBALANCED: "Debits and credits differ in a currency; the detail says by how much.",
    Reason.ORIGINAL_UNKNOWN: "Nothing settled is remembered under this partner and the key in `original`.",
    Reason.ORIGINAL_MISMATCH: "The original is not of the kind, or not in the currency, that this operation takes.",
    Reason.HOLD_EXPIRED: "The hold has lapsed; what it set aside was released.",
    Reason.HOLD_CLOSED: "The hold was captured or voided before.",
    Reason.CAPTURE_EXCEEDS_HOLD: "More than is left of the hold; `remaining` says how much is.",
    Reason.REFUND_EXCEEDS_PAYMENT: "More than was paid less what was given back; `remaining` says how much is left.",
    Reason.ACCOUNT_UNKNOWN: "No such account in the partner's partition.",
    Reason.ACCOUNT_NOT_OWNED: "It may debit its own subtree's accounts and credit its root's; the bank's are open.",
    Reason.ACCOUNT_CLOSED: "The account is closed for good.",
    Reason.ACCOUNT_CURRENCY: "The posting's currency is not the account's.",
    Reason.DEBITS_BLOCKED: "The account refuses debits.",
    Reason.CREDITS_BLOCKED: "The account refuses credits.",
    Reason.SAME_ACCOUNT: "Payer and payee are one account.",
    Reason.INSUFFICIENT_FUNDS: "The entry would leave less than the account's minimum available balance.",
    Reason.COUNTER_OVERFLOW: "A counter of the account would pass 10^38 - 1 minor units.",
    Reason.NOT_PERMITTED: "This partner may not ask for this.",
    Reason.ACCOUNT_EXISTS: "The account is open already.",
    Reason.ACCOUNT_NOT_EMPTY: "Only an account with a zero balance and no holds can be closed.",
    Reason.PARTNER_EXISTS: "The partner is admitted already.",
    Reason.PARENT_UNKNOWN: "The partner above it in the path was never admitted.",
    Reason.STATE_UNKNOWN: "A partner's state is live or suspended.",
}


class Rejection(Exception):  # noqa: N818 - an outcome, not an error; it never leaves the Book
    """Carries a reason out of the checks of one command. `detail` names field, account, limit, in words."""

    def __init__(self, reason: Reason, **detail: object) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = {k: str(v) for k, v in detail.items()}
