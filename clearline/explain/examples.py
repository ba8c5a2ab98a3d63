"""One refusal of each reason as the ledger names it, for the pages of the codes and for the tests of the sentences."""

from __future__ import annotations

from ledger.reasons import Reason

_TILL = "acme/shop-17:wallet:till"
_ALICE = "acme:wallet:alice"

DETAILS: dict[Reason, dict[str, str]] = {
    Reason.IDEMPOTENCY_CONFLICT: {"field": "idempotency_key", "rule": "a key names one payload"},
    Reason.PARTNER_UNKNOWN: {"field": "partner_id", "partner": "acme/shop-18"},
    Reason.PRODUCT_UNKNOWN: {"field": "product", "product": "walet", "effective_from": "2026-12-01"},
    Reason.OPERATION_UNKNOWN: {"field": "operation", "operation": "transfr"},
    Reason.PARTNER_SUSPENDED: {"field": "partner_id", "partner": "acme", "state": "suspended"},
    Reason.PARTNER_STATE: {"field": "partner_id", "partner": "acme/shop-17", "state": "sandbox"},
    Reason.WORLD_FROZEN: {"level": "world"},
    Reason.PARTNER_FROZEN: {"field": "partner_id", "partner": "acme"},
    Reason.PRODUCT_FROZEN: {"field": "product", "product": "wallet"},
    Reason.FIELD_INVALID: {"field": "expires_at", "rule": "after the time at which the hold is booked"},
    Reason.ROLE_UNKNOWN: {"field": "accounts", "role": "payeee", "roles": "payee,payer"},
    Reason.ROLE_MISSING: {"field": "accounts", "role": "payee", "roles": "payee,payer"},
    Reason.CURRENCY_UNKNOWN: {"field": "currency", "currency": "RMB"},
    Reason.PRODUCT_CURRENCY: {"field": "currency", "currency": "GBP", "allowed": "CNY,USD"},
    Reason.EXPONENT_MISMATCH: {"field": "exponent", "currency": "JPY", "exponent": "2", "allowed": "0"},
    Reason.AMOUNT_NOT_POSITIVE: {"field": "amount", "amount": "0"},
    Reason.AMOUNT_TOO_LARGE: {"field": "amount", "limit": "9223372036854775807"},
    Reason.RATE_INVALID: {"field": "rate", "rule": "it buys nothing"},
    Reason.POSTINGS_COUNT: {"field": "postings", "count": "1", "limit": "2 to 1000"},
    Reason.POSTINGS_UNBALANCED: {"field": "postings", "currency": "CNY", "debits": "12550", "credits": "12500"},
    Reason.NOT_PERMITTED: {
        "field": "operation", "rule": "adjustments are the bank's", "partner": "acme",
    },
    Reason.ORIGINAL_UNKNOWN: {"field": "original", "original": "o-1001", "partner": "acme"},
    Reason.ORIGINAL_MISMATCH: {"field": "original", "original": "o-1001", "rule": "a capture takes a hold"},
    Reason.HOLD_EXPIRED: {"field": "original", "original": "h-7"},
    Reason.HOLD_CLOSED: {"field": "original", "original": "h-7"},
    Reason.CAPTURE_EXCEEDS_HOLD: {"field": "amount", "amount": "12550", "remaining": "10000"},
    Reason.REFUND_EXCEEDS_PAYMENT: {"field": "amount", "amount": "12550", "remaining": "2550"},
    Reason.ACCOUNT_UNKNOWN: {"field": "accounts.payee", "account": "acme:wallet:alise"},
    Reason.ACCOUNT_NOT_OWNED: {"field": "accounts.payer", "account": "globex:wallet:bob", "partner": "acme"},
    Reason.OWNER_STATE: {
        "field": "accounts.payee", "account": _TILL, "partner": "acme/shop-17", "state": "suspended",
    },
    Reason.OWNER_FROZEN: {"field": "accounts.payee", "account": _TILL, "partner": "acme/shop-17"},
    Reason.ACCOUNT_CLOSED: {"field": "accounts.payee", "account": _TILL},
    Reason.ACCOUNT_FROZEN: {"field": "accounts.payer", "account": _ALICE},
    Reason.ACCOUNT_CURRENCY: {
        "field": "accounts.payee", "account": _TILL, "currency": "USD", "account_currency": "CNY",
    },
    Reason.DEBITS_BLOCKED: {"field": "accounts.payer", "account": _ALICE},
    Reason.CREDITS_BLOCKED: {"field": "accounts.payee", "account": _TILL},
    Reason.SAME_ACCOUNT: {"field": "accounts", "account": _ALICE},
    Reason.SPLIT_EXCEEDS_AMOUNT: {"field": "amount", "amount": "10000", "parts": "10300"},
    Reason.NOTHING_TO_MOVE: {"field": "accounts", "rule": "what the operation moves is zero"},
    Reason.INSUFFICIENT_FUNDS: {
        "account": _ALICE, "limit": "min_available", "level": "account", "allowed": "0", "available": "10000",
        "short": "2550",
    },
    Reason.COUNTER_OVERFLOW: {"field": "postings", "account": _ALICE, "limit": "9" * 38},
    Reason.LIMIT_EXCEEDED: {
        "field": "amount", "limit": "amount per day", "level": "partner", "subject": "acme/shop-17", "used": "990000",
        "asked": "12550", "allowed": "1000000", "currency": "CNY",
    },
    Reason.ACCOUNT_EXISTS: {"field": "account_id", "account": _ALICE},
    Reason.ACCOUNT_NOT_EMPTY: {"field": "account_id", "account": _ALICE, "available": "12550"},
    Reason.PARTNER_EXISTS: {"field": "subject_id", "partner": "acme"},
    Reason.PARENT_UNKNOWN: {"field": "subject_id", "partner": "acme"},
    Reason.STATE_UNKNOWN: {"field": "state", "rule": "applied or live"},
    Reason.STATE_TRANSITION: {"field": "state", "partner": "acme", "state": "live", "rule": "suspended, exiting"},
    Reason.PARTNER_NOT_EMPTY: {"field": "subject_id", "account": _TILL},
    Reason.PRODUCT_VERSION: {"field": "version", "version": "1", "highest": "2"},
    Reason.PRODUCT_INVALID: {"field": "document", "path": "operations.pay.kind", "rule": "a known kind"},
    Reason.TEMPLATE_UNBALANCED: {
        "field": "document", "path": "operations.pay.steps[0]", "rule": "exactly one target takes what remains",
    },
    Reason.DAY_CLOSED: {"field": "day", "day": "2026-11-21", "closed_through": "2026-11-21"},
    Reason.DAY_AHEAD: {"field": "day", "day": "2026-11-23", "today": "2026-11-22"},
    Reason.CROSSING_UNKNOWN: {"field": "transaction_id", "rule": "it is not open here"},
    Reason.DAY_OPEN: {"field": "day", "day": "2026-11-22"},
    Reason.DAY_SEALED: {"field": "day", "day": "2026-11-22", "hash": "9d3f51c2"},
}  # fmt: skip
