"""The records that a command is made of; `schemas.records` has what is made of them, and all of these names too.

Amounts are integers in minor units of an ISO 4217 currency; dates are days since 1970-01-01; times are milliseconds
since 1970-01-01 UTC.
"""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False):
    """Base of all records."""


class CommandRecord(Record, frozen=True, gc=False, omit_defaults=True):
    """Base of all commands.

    Fields at their default are left out of the payload's digest, so that it stays the same when a field is added.
    """


class Posting(Record, frozen=True, gc=False):
    """One leg that a transaction asks for. `amount`: minor units; `currency`: empty means the transaction's."""

    account_id: str
    side: str
    amount: int
    currency: str = ""


class NamedAmount(Record, frozen=True, gc=False):
    """An amount that an operation knows by name, in minor units of the transaction's currency."""

    name: str
    amount: int


class Transaction(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """One API call that moves money, now or later: `amount` with `accounts` by role, or `postings`, or an `original`.

    `original`: idempotency key of the transaction that is captured, voided, refunded or reversed. `expires_at`: when a
    hold lapses, milliseconds UTC, 0 never. `amounts`: sorted by name. `rate`: on an exchange, units of the payee's
    currency for one of `currency`, a decimal number. `exponent`: decimals that the caller believes in, -1 when unsaid.
    """

    partner_id: str
    idempotency_key: str
    product: str
    operation: str
    amount: int
    currency: str
    accounts: dict[str, str]
    postings: tuple[Posting, ...]
    value_date: int
    reference: str = ""
    metadata: dict[str, str] = {}
    original: str = ""
    final: bool = False
    expires_at: int = 0
    note: str = ""
    amounts: tuple[NamedAmount, ...] = ()
    rate: str = ""
    exponent: int = -1


class OpenAccount(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Opens an account. `min_available`: minor units, None for no limit; `credit_limit`: how far below it may go."""

    partner_id: str
    idempotency_key: str
    account_id: str
    type: str
    currency: str
    min_available: int | None = None
    requested_by: str = ""
    note: str = ""
    credit_limit: int = 0


class BlockAccount(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Sets or lifts the blocks of an account. `freeze`: nothing but the bank's adjustments may be posted to it."""

    partner_id: str
    idempotency_key: str
    account_id: str
    block_debits: bool
    block_credits: bool
    requested_by: str = ""
    note: str = ""
    freeze: bool = False


class SetAccountLimit(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Changes `min_available`, minor units or None for no limit, and `credit_limit`: how far below it may go."""

    partner_id: str
    idempotency_key: str
    account_id: str
    min_available: int | None = None
    requested_by: str = ""
    note: str = ""
    credit_limit: int = 0


class CloseAccount(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Closes an account whose balance is zero."""

    partner_id: str
    idempotency_key: str
    account_id: str
    requested_by: str = ""
    note: str = ""


class AdmitPartner(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Admits a partner below its parent. `state`: applied or live."""

    partner_id: str
    idempotency_key: str
    subject_id: str
    name: str = ""
    requested_by: str = ""
    note: str = ""
    state: str = "live"


class SetPartnerState(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Takes a partner with its subtree to another state of its life. `approved_by`: the second person, for go-live."""

    partner_id: str
    idempotency_key: str
    subject_id: str
    state: str
    requested_by: str = ""
    note: str = ""
    approved_by: str = ""


class Limit(Record, frozen=True, gc=False):
    """The most that one window may take. `window`: transaction, minute, hour, day or month; `currency`: empty for a
    count over all; None: any number, or any amount in minor units."""

    window: str
    currency: str
    count_max: int | None
    amount_max: int | None


class SetLimit(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Sets all limits of a subject, in place of those it had. `level`: partner, account or product."""

    partner_id: str
    idempotency_key: str
    level: str
    subject_id: str
    limits: tuple[Limit, ...] = ()
    requested_by: str = ""
    note: str = ""


class ZoneOffset(Record, frozen=True, gc=False):
    """What a zone's clocks show from `from_ms` (milliseconds UTC) on, in minutes east of UTC."""

    from_ms: int
    minutes: int


class ClosedDay(Record, frozen=True, gc=False):
    """A day without business, in days since 1970-01-01."""

    day: int


class SetCalendar(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Sets the business-day calendar of a partner's tree, or with `bank` of all without one.

    `offsets` rise in time, none means UTC; `closed_weekdays`: bits, 1 Monday to 64 Sunday; `closed_days` rise.
    """

    partner_id: str
    idempotency_key: str
    subject_id: str
    zone: str
    offsets: tuple[ZoneOffset, ...] = ()
    closed_weekdays: int = 0
    closed_days: tuple[ClosedDay, ...] = ()
    requested_by: str = ""
    note: str = ""


class CloseDay(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Closes a business day, in days since 1970-01-01, and all before it, in one partition."""

    partner_id: str
    idempotency_key: str
    day: int
    requested_by: str = ""
    note: str = ""


class SealedPlace(Record, frozen=True, gc=False):
    """Where a day was closed in one partition. `chain`: of that record, 64 hexadecimal digits."""

    partition: int
    sequence: int
    chain: str


class SealedTotal(Record, frozen=True, gc=False):
    """What one partition had in one currency; sums in minor units as decimal digits, for they may pass 64 bits."""

    partition: int
    currency: str
    debits: str
    credits: str
    postings: int


class SealDay(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Seals a closed day, in days since 1970-01-01: what all partitions had up to `cut` with a value date up to it.

    `hash`: SHA-256 over all of it in the form of docs/operations.md, 64 hexadecimal digits.
    """

    partner_id: str
    idempotency_key: str
    day: int
    hash: str
    cut: tuple[SealedPlace, ...]
    totals: tuple[SealedTotal, ...]
    requested_by: str = ""
    note: str = ""


class Tick(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Lets what is due by event time happen where no other command comes."""

    partner_id: str
    idempotency_key: str


class PublishProduct(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Puts a version of a product on the shelf. `effective_from`: first value date, in days, 0 at once; `document`:
    canonical JSON (docs/products.md)."""

    partner_id: str
    idempotency_key: str
    product: str
    version: int
    effective_from: int
    document: str
    requested_by: str = ""
    note: str = ""


class SetFreeze(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """Freezes a subject of this level, or lifts that. `level`: account, partner (with its subtree), product or world;
    `subject_id`: world for the world. `approved_by`: the second person, needed to lift a partner's or the world's."""

    partner_id: str
    idempotency_key: str
    level: str
    subject_id: str
    frozen: bool
    requested_by: str = ""
    note: str = ""
    approved_by: str = ""


class OperatorAct(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """What an operator did, for the journal; it changes nothing. `digest`: SHA-256 of the document that was acted on,
    64 hexadecimal digits, empty for none."""

    partner_id: str
    idempotency_key: str
    act: str
    subject_id: str
    digest: str
    requested_by: str = ""
    approved_by: str = ""
    note: str = ""


class Crossing(CommandRecord, frozen=True, gc=False, omit_defaults=True):
    """A step of a transaction between partitions: reserve, reserved, refused, commit or void (docs/protocols.md)."""

    partner_id: str
    idempotency_key: str
    step: str
    transaction_id: bytes
    from_partition: int
    to_partition: int
    asker: str
    asker_key: str
    product: str
    product_version: int
    operation: str
    value_date: int
    reference: str = ""
    metadata: dict[str, str] = {}
    legs: tuple[Posting, ...] = ()
    reason: str = ""
    detail: dict[str, str] = {}


Command = (
    Transaction | OpenAccount | BlockAccount | SetAccountLimit | CloseAccount | AdmitPartner | SetPartnerState
    | SetLimit | SetCalendar | CloseDay | SealDay | Tick | PublishProduct | Crossing | SetFreeze | OperatorAct
)  # fmt: skip

COMMANDS: tuple[type[Record], ...] = (
    Transaction, OpenAccount, BlockAccount, SetAccountLimit, CloseAccount, AdmitPartner, SetPartnerState,
    SetLimit, SetCalendar, CloseDay, SealDay, Tick, PublishProduct, Crossing, SetFreeze, OperatorAct,
)  # fmt: skip
