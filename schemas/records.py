"""The records of every contract as frozen, slotted classes: one per Avro record, the fields in the schema's order.

msgspec structs are used because they are built in C in a third of a microsecond; a test holds each class equal to its
schema in `schemas/avro`. Amounts are integers in minor units of an ISO 4217 currency; dates are days since 1970-01-01;
times are milliseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from typing import ClassVar

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
    """Changes `min_available`, minor units, None for no limit, and `credit_limit`, how far below it the account may go."""

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
    """Takes a partner with its subtree to another state of its life."""

    partner_id: str
    idempotency_key: str
    subject_id: str
    state: str
    requested_by: str = ""
    note: str = ""


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


class PostedLeg(Record, frozen=True, gc=False):
    """One posting of a settled entry, with the four counters of its account after it, in minor units."""

    account_id: str
    side: str
    amount: int
    currency: str
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int


class PendingLeg(Record, frozen=True, gc=False):
    """One change of what is pending on an account, and its four counters after it, in minor units.

    `change` is positive when money is set aside and negative when it is released; `expired`: because the hold lapsed.
    """

    hold_id: bytes
    account_id: str
    side: str
    change: int
    currency: str
    expired: bool
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int


class OpenedAccount(Record, frozen=True, gc=False):
    """An account that a command opened on first use; limits in minor units, None for no limit."""

    account_id: str
    type: str
    currency: str
    min_available: int | None
    credit_limit: int


class JournalRecord(Record, frozen=True, gc=False):
    """The outcome of exactly one command. `chain` is empty until the ledger sealed the record."""

    command_id: bytes
    payload_digest: bytes
    binds_key: bool
    outcome: str
    sequence: int
    source_partition: int
    source_offset: int
    booked_at: int
    command: str
    partner_id: str
    idempotency_key: str
    product: str
    product_version: int
    operation: str
    value_date: int
    reference: str
    metadata: dict[str, str]
    reason: str
    detail: dict[str, str]
    first_offset: int
    subject_id: str
    changes: dict[str, str]
    postings: tuple[PostedLeg, ...]
    pending: tuple[PendingLeg, ...] = ()
    original_offset: int = -1
    opened: tuple[OpenedAccount, ...] = ()
    chain: bytes = b""


class AccountState(Record, frozen=True, gc=False):
    """One account as of `source_offset`."""

    account_id: str
    type: str
    currency: str
    min_available: int | None
    debits_blocked: bool
    credits_blocked: bool
    closed: bool
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    source_offset: int
    frozen: bool = False
    credit_limit: int = 0


class HoldState(Record, frozen=True, gc=False):
    """One open hold as of `source_offset`; amounts in minor units, `expires_at` in milliseconds UTC, 0 never."""

    hold_id: bytes
    payload_digest: bytes
    partner_id: str
    payer: str
    payee: str
    currency: str
    amount: int
    remaining: int
    expires_at: int
    opened_at_offset: int
    source_offset: int


class PartnerState(Record, frozen=True, gc=False):
    """One partner as of `source_offset`."""

    partner_id: str
    name: str
    state: str
    source_offset: int


class LimitState(Record, frozen=True, gc=False):
    """The limits of one subject as of `source_offset`."""

    level: str
    subject_id: str
    limits: tuple[Limit, ...]
    source_offset: int


class Used(Record, frozen=True, gc=False):
    """What one window has taken. `start`: number of the window, counted from 1970-01-01 in local time."""

    window: str
    currency: str
    start: int
    count: int
    amount: int


class UsageState(Record, frozen=True, gc=False):
    """What the open windows of one subject have taken, as of `source_offset`."""

    level: str
    subject_id: str
    used: tuple[Used, ...]
    source_offset: int


class CalendarState(Record, frozen=True, gc=False):
    """One business-day calendar as of `source_offset`; the fields are those of SetCalendar."""

    subject_id: str
    zone: str
    offsets: tuple[ZoneOffset, ...]
    closed_weekdays: int
    closed_days: tuple[ClosedDay, ...]
    source_offset: int


class ProductState(Record, frozen=True, gc=False):
    """One version of a product as of `source_offset`; the fields are those of PublishProduct."""

    product: str
    version: int
    effective_from: int
    document: str
    source_offset: int


class CrossingPart(Record, frozen=True, gc=False):
    """What one other partition said of a transaction in flight: waiting, reserved or refused."""

    partition: int
    answer: str


class CrossingState(Record, frozen=True, gc=False):
    """A transaction in flight between partitions, as of `source_offset`. `home`: whether this partition decides."""

    transaction_id: bytes
    payload_digest: bytes
    home: bool
    home_partition: int
    asker: str
    asker_key: str
    product: str
    product_version: int
    operation: str
    value_date: int
    reference: str
    metadata: dict[str, str]
    legs: tuple[Posting, ...]
    parts: tuple[CrossingPart, ...]
    reason: str
    detail: dict[str, str]
    opened_at_offset: int
    source_offset: int


class PartitionState(Record, frozen=True, gc=False):
    """Where a partition stands."""

    next_offset: int
    sequence: int
    chain: bytes
    event_time: int
    received: int
    settled: int
    rejected: int
    repeated: int
    applied: int
    dead: int
    closed_through: int = -1  # the last business day that is closed, in days since 1970-01-01


class DeadLetter(Record, frozen=True, gc=False):
    """A record that could not be taken, as it is kept."""

    source_topic: str
    source_partition: int
    source_offset: int
    received_at: int
    reason: str
    detail: str
    attempts: int
    key: bytes | None
    value: bytes | None


class Reply(Record, frozen=True, gc=False):
    """The outcome of one command, for a caller who waits."""

    command_id: bytes
    partner_id: str
    idempotency_key: str
    outcome: str
    reason: str
    detail: dict[str, str]
    partition: int
    sequence: int
    source_offset: int
    first_offset: int
    booked_at: int


class Seal(Record, frozen=True, gc=False):
    """A stretch of one partition's journal under one Merkle root; `previous` is SHA-256 of the seal before it."""

    partition: int
    first_sequence: int
    last_sequence: int
    first_booked_at: int
    last_booked_at: int
    root: bytes
    chain: bytes
    previous: bytes
    sealed_at: int
    why: str


Command = (
    Transaction | OpenAccount | BlockAccount | SetAccountLimit | CloseAccount | AdmitPartner | SetPartnerState
    | SetLimit | SetCalendar | CloseDay | Tick | PublishProduct | Crossing
)  # fmt: skip

COMMANDS: tuple[type[Record], ...] = (
    Transaction, OpenAccount, BlockAccount, SetAccountLimit, CloseAccount, AdmitPartner, SetPartnerState,
    SetLimit, SetCalendar, CloseDay, Tick, PublishProduct, Crossing,
)  # fmt: skip
_OTHERS: tuple[type[Record], ...] = (
    JournalRecord, AccountState, HoldState, PartnerState, LimitState, UsageState, CalendarState, ProductState,
    CrossingState, PartitionState, DeadLetter, Reply,
)  # fmt: skip
RECORDS: dict[str, type[Record]] = {c.__name__: c for c in (*COMMANDS, *_OTHERS, Seal)}


class Subjects:
    """Registry subject of each record (RecordNameStrategy: the record's full name)."""

    namespace: ClassVar[str] = "clearline"

    @classmethod
    def of(cls, record_name: str) -> str:
        return f"{cls.namespace}.{record_name}"
