"""The records of every contract as frozen, slotted classes: one per Avro record, the fields in the schema's order.

msgspec structs are used because they are built in C in a third of a microsecond; a test holds each class equal to its
schema in `schemas/avro`. Amounts are integers in minor units of an ISO 4217 currency; dates are days since 1970-01-01;
times are milliseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from typing import ClassVar

from schemas.access import (
    AccessKey,
    CallCount,
    CallCounts,
    Delivery,
    Notice,
    Onboarding,
    PassedCheck,
    Redelivery,
    SealedSecret,
    Subscription,
    Want,
    WebhookProgress,
)
from schemas.commands import (
    COMMANDS,
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    CloseDay,
    ClosedDay,
    Command,
    CommandRecord,
    Crossing,
    Limit,
    NamedAmount,
    OpenAccount,
    OperatorAct,
    Posting,
    PublishProduct,
    Record,
    SealDay,
    SealedPlace,
    SealedTotal,
    SetAccountLimit,
    SetCalendar,
    SetFreeze,
    SetLimit,
    SetPartnerState,
    Tick,
    Transaction,
    ZoneOffset,
)
from schemas.states import CalendarState, DayState, FreezeState, LimitState, ProductState, UsageState, Used

__all__ = [
    "COMMANDS",
    "CallCount",
    "CallCounts",
    "RECORDS",
    "AccessKey",
    "AccountState",
    "AdmitPartner",
    "BlockAccount",
    "CalendarState",
    "CloseAccount",
    "CloseDay",
    "ClosedDay",
    "Command",
    "CommandRecord",
    "Crossing",
    "CrossingPart",
    "CrossingState",
    "DayState",
    "DeadLetter",
    "Delivery",
    "FreezeState",
    "HoldState",
    "JournalRecord",
    "Limit",
    "LimitState",
    "NamedAmount",
    "Notice",
    "Onboarding",
    "OpenAccount",
    "OpenedAccount",
    "OperatorAct",
    "PartitionState",
    "PartnerState",
    "PassedCheck",
    "PendingLeg",
    "PostedLeg",
    "Posting",
    "ProductState",
    "PublishProduct",
    "Record",
    "Redelivery",
    "Reply",
    "Seal",
    "SealDay",
    "SealedPlace",
    "SealedSecret",
    "SealedTotal",
    "SetAccountLimit",
    "SetCalendar",
    "SetFreeze",
    "SetLimit",
    "SetPartnerState",
    "Subjects",
    "Subscription",
    "Tick",
    "Transaction",
    "Triage",
    "UsageState",
    "Used",
    "Want",
    "WebhookProgress",
    "ZoneOffset",
]


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


class Triage(Record, frozen=True, gc=False):
    """One move of an operator among the dead letters: see its schema. Letters by id, PARTITION:OFFSET."""

    task: str
    move: str
    letter: str = ""
    original: str = ""
    attempts: int = 0
    letter_digest: bytes = b""
    payload_digest: bytes = b""
    edited: bool = False
    command_id: bytes = b""
    partner_id: str = ""
    idempotency_key: str = ""
    to_partition: int = -1
    to_offset: int = -1
    requested_by: str = ""
    note: str = ""
    plan_digest: bytes = b""
    total: int = 0
    done: int = 0
    state: str = ""
    value: bytes | None = None


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
    product_version: int = 0


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


_OTHERS: tuple[type[Record], ...] = (
    JournalRecord, AccountState, HoldState, PartnerState, LimitState, UsageState, CalendarState, ProductState,
    DayState, FreezeState, CrossingState, PartitionState, DeadLetter, Reply, Seal, AccessKey, Subscription, Delivery,
    Notice, WebhookProgress, Redelivery, Onboarding, CallCounts, Triage,
)  # fmt: skip
RECORDS: dict[str, type[Record]] = {c.__name__: c for c in (*COMMANDS, *_OTHERS)}


class Subjects:
    """Registry subject of each record (RecordNameStrategy: the record's full name)."""

    namespace: ClassVar[str] = "clearline"

    @classmethod
    def of(cls, record_name: str) -> str:
        return f"{cls.namespace}.{record_name}"
