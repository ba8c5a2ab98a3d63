"""A whole world in memory: commands settled by the real Book, laid out as the topics, ClickHouse and Redis have them.

The auditor reads it through the same interface as a cluster, so each of its checks is tested in milliseconds. A test
changes one thing in it and looks which check notices.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from clearline.audit.contract import Terms
from clearline.audit.verdict import Verdict
from clearline.audit.verify import verify_world
from clearline.audit.views import (
    DEAD,
    JOURNAL,
    SEALS,
    STATE,
    SUBMITTED,
    StoredBalance,
    StoredChange,
    StoredOutcome,
    StoredPosting,
)
from ledger.book import Book
from ledger.entries import WINDOW_MS
from ledger.keys import KeyIndex
from ledger.seals import MINUTE_MS, Sealing
from ledger.state import Draft, PartitionBase
from schemas.codec import Codec, UndecodableError
from schemas.identity import command_id, partition_of, payload_digest, tree_of
from schemas.records import (
    RECORDS,
    AccountState,
    AdmitPartner,
    BlockAccount,
    CloseAccount,
    Command,
    JournalRecord,
    OpenAccount,
    PartitionState,
    Posting,
    Seal,
    SetAccountLimit,
    SetPartnerState,
    Transaction,
)
from streams.reader import LogRecord

TOPICS = (SUBMITTED, JOURNAL, STATE, DEAD, SEALS)
START_MS = 1_760_000_000_000
STEP_MS = 3
SETTING_UP = 90  # records of the setting up, about


@dataclass
class MemoryLog:
    """Topics as lists of records by partition. `starts`: first kept offset, where it is not 0."""

    partitions: int
    records: dict[tuple[str, int], list[LogRecord]] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    starts: dict[tuple[str, int], int] = field(default_factory=dict)

    def topic(self, topic: str, partition: int) -> list[LogRecord]:
        return self.records.setdefault((topic, partition), [])

    def append(
        self, topic: str, partition: int, record: tuple[int, bytes | None, bytes | None], **headers: str
    ) -> None:
        """Adds (timestamp, key, value) at the next offset, leaving a gap now and then as transaction markers do."""
        have = self.topic(topic, partition)
        offset = have[-1].offset + 1 if have else 0
        if topic != SUBMITTED and len(have) % 7 == 6:
            offset += 1
        at, key, value = record
        have.append(LogRecord(partition, offset, at, key, value, [(k, v.encode()) for k, v in headers.items()]))

    def span(self, topic: str, partition: int) -> tuple[int, int]:
        have = self.topic(topic, partition)
        return self.starts.get((topic, partition), 0), have[-1].offset + 1 if have else 0

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[LogRecord]:
        return iter([r for r in self.topic(topic, partition) if start <= r.offset < end])

    def group_offset(self, partition: int) -> int:
        return self.groups.get(partition, -1001)


@dataclass
class MemoryEntries:
    """ClickHouse's rows by partition."""

    outcome_rows: dict[int, list[StoredOutcome]] = field(default_factory=dict)
    posting_rows: dict[int, list[StoredPosting]] = field(default_factory=dict)
    change_rows: dict[int, list[StoredChange]] = field(default_factory=dict)
    letters: dict[int, int] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)

    def position(self, partition: int) -> int:
        return self.positions.get(partition, 0)

    def changes(self, partition: int, start: int, end: int) -> Iterator[StoredChange]:
        rows = sorted(self.change_rows.get(partition, []), key=lambda r: r.source_offset)
        return iter([r for r in rows if start <= r.source_offset])

    def dead_letters(self, partition: int) -> int:
        return self.letters.get(partition, 0)

    def outcomes(self, partition: int, start: int, end: int) -> Iterator[StoredOutcome]:
        rows = sorted(self.outcome_rows.get(partition, []), key=lambda r: r.source_offset)
        return iter([r for r in rows if start <= r.source_offset])

    def postings(self, partition: int, start: int, end: int) -> Iterator[StoredPosting]:
        rows = sorted(self.posting_rows.get(partition, []), key=lambda r: r[:2])
        return iter([r for r in rows if start <= r.source_offset])

    def records_below(self, partition: int, offset: int) -> int:
        return sum(r.source_offset < offset for r in self.outcome_rows.get(partition, []))

    def totals_below(self, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        return self._sums("currency", partition, offset)

    def accounts_below(self, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        return self._sums("account_id", partition, offset)

    def _sums(self, by: str, partition: int, offset: int) -> dict[str, tuple[int, int]]:
        out: dict[str, tuple[int, int]] = {}
        for r in self.posting_rows.get(partition, []):
            if r.source_offset < offset:
                debits, credits = out.get(getattr(r, by), (0, 0))
                more = (r.amount, 0) if r.side == "debit" else (0, r.amount)
                out[getattr(r, by)] = (debits + more[0], credits + more[1])
        return out

    def postings_of(self, partition: int, account: str, offset: int) -> list[StoredPosting]:
        rows = sorted(self.posting_rows.get(partition, []), key=lambda r: r[:2])
        return [r for r in rows if r.account_id == account and r.source_offset < offset]


@dataclass
class MemoryBalances:
    """Redis' balances by partition."""

    rows: dict[int, dict[str, StoredBalance]] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)

    def position(self, partition: int) -> int:
        return self.positions.get(partition, 0)

    def balances(self, partition: int) -> dict[str, StoredBalance]:
        return dict(self.rows.get(partition, {}))


class MemoryWorld:
    """Publishes, settles in batches like a worker, and projects. `verify` is the auditor's verdict on all of it.

    `step_ms`: event time between two commands.
    """

    def __init__(self, partitions: int = 2, step_ms: int = STEP_MS) -> None:
        self.step_ms = step_ms
        self.codec = Codec({name: i + 1 for i, name in enumerate(RECORDS)})
        self.log = MemoryLog(partitions)
        self.entries = MemoryEntries()
        self.balances = MemoryBalances()
        self._bases = [PartitionBase() for _ in range(partitions)]
        self._keys = [KeyIndex(WINDOW_MS) for _ in range(partitions)]
        self._now = START_MS

    # ---- publishing --------------------------------------------------------------------------------------------------

    def publish(self, command: Command) -> None:
        root = tree_of(command)
        value = self.codec.encode(command)
        if root == "bank" and not isinstance(command, Transaction):
            for p in range(self.log.partitions):
                self.publish_bytes(p, b"bank", value)
        else:
            self.publish_bytes(partition_of(root, self.log.partitions), root.encode(), value)

    @property
    def now_ms(self) -> int:
        """Append time of the last command, ms UTC."""
        return self._now

    def pass_time(self, ms: int) -> None:
        """Lets event time go by without a command."""
        self._now += ms

    def publish_bytes(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        self._now += self.step_ms
        self.log.append(SUBMITTED, partition, (self._now, key, value))

    # ---- settling ----------------------------------------------------------------------------------------------------

    def settle(self, batch: int = 50) -> None:
        """Settles and projects all that is new."""
        for p in range(self.log.partitions):
            base = self._bases[p]
            new = [r for r in self.log.topic(SUBMITTED, p) if r.offset >= base.head.next_offset]
            for i in range(0, len(new), batch):
                self._batch(p, base, new[i : i + batch])
            self.project(p)

    def _batch(self, p: int, base: PartitionBase, records: list[LogRecord]) -> None:
        draft = Draft(base)
        index, book = self._keys[p], Book(p, draft)
        for raw in records:
            try:
                command = self.codec.decode(raw.value)
                Terms(self.log.partitions).refuse(command, p)
            except UndecodableError as e:
                book.dead(raw.offset, raw.timestamp_ms)
                headers = {"reason": e.reason, "detail": e.detail, "source_topic": "live.transactions.submitted",
                           "source_partition": str(p), "source_offset": str(raw.offset),
                           "received_at": str(raw.timestamp_ms), "attempts": "1"}  # fmt: skip
                self.log.append(DEAD, p, (self._now, raw.key, raw.value), **headers)
                continue
            cid = command_id(command.partner_id, command.idempotency_key)
            asked = [cid, command_id(command.partner_id, getattr(command, "original", ""))]
            draft.keys = index.find(asked, max(book.head.event_time, raw.timestamp_ms))
            record = book.settle(command, cid, payload_digest(command), raw.offset, raw.timestamp_ms)
            if record.binds_key:
                index.add([cid], [record.payload_digest], [raw.offset], [raw.timestamp_ms])
            self.journal(p, book, record)
        for a in draft.changed_accounts():
            self.log.append(STATE, p, (self._now, f"a:{a.account_id}".encode(), self.codec.encode(a.state())))
        for hold in draft.changed_holds():
            row = self.codec.encode(hold.state()) if hold.remaining else None
            self.log.append(STATE, p, (self._now, b"h:" + hold.hold_id.hex().encode(), row))
        for partner in draft.changed_partners():
            self.log.append(
                STATE, p, (self._now, f"p:{partner.partner_id}".encode(), self.codec.encode(partner.record()))
            )
        self.log.append(STATE, p, (self._now, b"meta", self.codec.encode(draft.head.record())))
        draft.merge()
        self.log.groups[p] = draft.head.next_offset

    def journal(self, p: int, book: Book, record: JournalRecord) -> None:
        body = self.codec.journal_body(record)
        self.log.append(JOURNAL, p, (self._now, b"k", self.codec.journal_header + body + book.seal(body)))

    def seal(self) -> None:
        """Seals every journal to its end, as a sealer does that looks once, a minute after the last command."""
        for p in range(self.log.partitions):
            sealing = Sealing(p, None, lambda s: self.codec.encode(s)[5:])
            due: list[Seal] = []
            for raw in self.log.topic(JOURNAL, p):
                assert raw.value is not None
                due += sealing.take(self.codec.decode(raw.value), raw.value[5:], self._now)
            for seal in due + sealing.at_end(self._now + MINUTE_MS):
                self.log.append(SEALS, p, (seal.last_booked_at, b"k", self.codec.encode(seal)))

    # ---- projecting --------------------------------------------------------------------------------------------------

    def project(self, p: int, up_to: int | None = None) -> None:
        """Rebuilds both projections of a partition from its journal, up to a journal offset."""
        outcomes: list[StoredOutcome] = []
        postings: list[StoredPosting] = []
        changes: list[StoredChange] = []
        balances: dict[str, StoredBalance] = {}
        _, end = self.log.span(JOURNAL, p)
        up_to = end if up_to is None else up_to
        for raw in self.log.read(JOURNAL, p, 0, up_to):
            r = self.codec.decode(raw.value)
            outcomes.append(StoredOutcome.of(raw.offset, r))
            postings += StoredPosting.all_of(raw.offset, r)
            changes += StoredChange.all_of(raw.offset, r)
        self.entries.outcome_rows[p], self.entries.posting_rows[p] = outcomes, postings
        self.entries.change_rows[p] = changes
        dead_start, dead_end = self.log.span(DEAD, p)
        self.entries.letters[p] = len(list(self.log.read(DEAD, p, dead_start, dead_end)))
        self.balances.rows[p], self.balances.positions[p] = balances, 0
        self.entries.positions[p] = up_to
        _, state_end = self.log.span(STATE, p)
        for raw in self.log.read(STATE, p, 0, state_end if up_to == end else state_end * up_to // end):
            if raw.value is None:
                continue
            row = self.codec.decode(raw.value)
            if isinstance(row, AccountState):
                balances[row.account_id] = stored(row)
            elif isinstance(row, PartitionState):
                self.balances.positions[p] = row.next_offset

    def clone(self) -> MemoryWorld:
        """A copy to change; it shares the records, which nobody changes in place, and cannot settle any further."""
        other = copy.copy(self)
        other.log = MemoryLog(
            self.log.partitions, {k: list(v) for k, v in self.log.records.items()}, dict(self.log.groups)
        )
        other.entries = MemoryEntries(
            {p: list(v) for p, v in self.entries.outcome_rows.items()},
            {p: list(v) for p, v in self.entries.posting_rows.items()},
            {p: list(v) for p, v in self.entries.change_rows.items()},
            dict(self.entries.letters),
            dict(self.entries.positions),
        )
        rows = {p: dict(v) for p, v in self.balances.rows.items()}
        other.balances = MemoryBalances(rows, dict(self.balances.positions))
        return other

    def records(self, p: int) -> list[JournalRecord]:
        """The decoded journal of a partition."""
        return [self.codec.decode(r.value) for r in self.log.topic(JOURNAL, p)]

    def verify(self, *, drained: bool = True) -> Verdict:
        terms = Terms(self.log.partitions)
        return verify_world(
            "live", self.log, self.codec.decode, terms, entries=self.entries, balances=self.balances, drained=drained
        )


def stored(a: AccountState) -> StoredBalance:
    """A row of the state as Redis keeps it."""
    return StoredBalance(
        a.source_offset, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted, a.currency, a.type,
        a.min_available, a.debits_blocked, a.credits_blocked, a.closed,
    )  # fmt: skip


# ---- commands --------------------------------------------------------------------------------------------------------

CURRENCIES = ("CNY", "USD", "JPY")
PARTNERS = ("acme", "acme/shop-1", "acme/shop-1/till-a", "acme/shop-2", "globex", "globex/west", "initech")


def setting_up() -> Iterator[Command]:
    """Partners, bank accounts and two accounts per partner and currency; every wallet starts empty."""
    n = 0
    for partner in PARTNERS:
        yield AdmitPartner("bank", f"admit-{partner}", partner, partner.upper())
    for currency in CURRENCIES:
        yield OpenAccount("bank", f"clearing-{currency}", f"bank:clearing:{currency}", "asset", currency)
        for partner in PARTNERS:
            for name, limit in (("a", 0), ("b", -5_000), ("open", None)):
                n += 1
                kind = "asset" if (name, currency) == ("b", "USD") else "liability"
                account = f"{partner}:{name}:{currency}"
                by = partner if n % 2 and limit == 0 else "bank"  # only the bank lets an account go below zero
                yield OpenAccount(by, f"open-{account}", account, kind, currency, limit)


def hostile_stream(
    seed: int, n: int, start_ms: int = START_MS, step_ms: int = STEP_MS
) -> Iterator[Command | bytes | None]:
    """Commands of every kind, most of them good, some broken in every way that the rules name; bytes are malformed.

    `start_ms` is when the setting up began, ms UTC, with `step_ms` between two commands; holds lapse by it.
    """
    rnd = random.Random(seed)
    sent: list[Transaction] = []
    for i in range(n):
        kind = rnd.random()
        if kind < 0.04 and sent:
            t = rnd.choice(sent)
            yield t if rnd.random() < 0.6 else _changed(t)
        elif kind < 0.06:
            yield rnd.choice((b"", None, b"\x00\x00", b"\x00\x00\x00\x00\x63abc", b"\x00\x00\x00\x00\x01\x02", b"junk"))
        elif kind < 0.16:
            yield _control(rnd, i)
        else:
            t = _any_transaction(rnd, i, sent, start_ms + (SETTING_UP + i) * step_ms, step_ms)
            sent.append(t)
            yield t


def _any_transaction(rnd: random.Random, i: int, sent: list[Transaction], now_ms: int, step_ms: int) -> Transaction:
    """A transfer, a hold, something that names an earlier transaction, or an adjustment; some with a stray field."""
    roll = rnd.random()
    if roll < 0.40 or not sent:
        t = _transaction(rnd, i)
    elif roll < 0.62:
        t = _hold(_transaction(rnd, i), rnd, now_ms, step_ms)
    elif roll < 0.95:
        t = _of_original(rnd, i, sent)
    else:
        t = _adjustment(rnd, i)
    return _misfilled(rnd, t, now_ms) if rnd.random() < 0.03 else t


def _hold(t: Transaction, rnd: random.Random, now_ms: int, step_ms: int) -> Transaction:
    """The transfer as a hold: without end, or lapsing soon, late, at once, or before it was asked for."""
    accounts = t.accounts
    if t.postings and rnd.random() < 0.95:
        accounts = {"payer": t.postings[0].account_id, "payee": t.postings[-1].account_id}
    postings = () if accounts else t.postings
    amount = t.postings[0].amount if t.postings and not postings else t.amount
    ends = rnd.choice((0, 0, *[now_ms + steps * step_ms for steps in (0, 10, 50, 50, 200, 200, 1_000, 10**6)]))
    if rnd.random() < 0.02:
        ends = rnd.choice((-1, 1, now_ms - 400, 2**63 - 1))
    return replace(t, operation="hold", amount=amount, accounts=accounts, postings=postings, expires_at=ends)


def _of_original(rnd: random.Random, i: int, sent: list[Transaction]) -> Transaction:
    """A capture, void, refund or reversal, mostly of what it can be given for, and mostly by the same partner."""
    first = rnd.choice(sent[-60:] if rnd.random() < 0.8 else sent)
    if first.operation == "hold":
        operation = rnd.choice(("capture", "capture", "capture", "void", "refund", "reversal"))
    else:
        operation = rnd.choice(("refund", "refund", "refund", "reversal", "capture", "void"))
    wanted = {"capture": ("hold",), "void": ("hold",)}.get(operation, ("transfer", "capture"))
    fitting = [t for t in sent[-120:] if t.operation in wanted]
    if fitting and rnd.random() < 0.8:
        first = rnd.choice(fitting)
    whole = first.amount or (first.postings[0].amount if first.postings else 300)
    amount = rnd.choice((whole, whole, whole // 2, whole // 3, 1, whole + 1))
    if operation in ("void", "reversal"):
        amount = 0
    elif rnd.random() < 0.02:
        amount = rnd.choice((0, -1, 2**62))
    partner = first.partner_id if rnd.random() > 0.03 else rnd.choice(PARTNERS)
    original = first.idempotency_key if rnd.random() > 0.02 else rnd.choice(("", "never", f"t-{i}", f"c-{i - 1}"))
    currency = first.currency if rnd.random() > 0.03 else rnd.choice((*CURRENCIES, "XXX"))
    final = operation == "capture" and rnd.random() < 0.3
    return Transaction(partner, f"t-{i}", "wallet", operation, amount, currency, {}, (), 20_001, original=original,
                       final=final)  # fmt: skip


def _adjustment(rnd: random.Random, i: int) -> Transaction:
    """The bank's correction between any accounts of one tree; some by others, too long, or without a reason."""
    t = _transaction(rnd, i)
    currency = t.currency
    root = rnd.choice(("acme", "globex", "initech"))
    others = [p for p in PARTNERS if p.partition("/")[0] == root]
    a, b = (f"{rnd.choice(others)}:{rnd.choice(('a', 'b', 'open', 'open', 'new'))}:{currency}" for _ in range(2))
    amount = t.postings[0].amount if t.postings else t.amount
    postings = t.postings or (Posting(a, "debit", amount), Posting(b, "credit", amount))
    if t.postings and rnd.random() < 0.8:
        postings = (Posting(f"bank:clearing:{currency}", "debit", amount), Posting(b, "credit", amount))
    note = "as agreed" if rnd.random() > 0.08 else rnd.choice(("", "x" * 1_024, "x" * 1_025))
    partner = "bank" if rnd.random() > 0.15 else rnd.choice((root, t.partner_id))
    return Transaction(partner, f"t-{i}", "", "adjustment", 0, currency, {}, postings, 20_001, note=note)


def _misfilled(rnd: random.Random, t: Transaction, now_ms: int) -> Transaction:
    """One field that the operation must not have, or has to have."""
    payer = {"payer": "acme:a:CNY", "payee": "acme:b:CNY"}
    two = (Posting("acme:a:CNY", "debit", 5), Posting("acme:b:CNY", "credit", 5))
    changes: tuple[dict[str, object], ...] = (
        {"original": "t-1"}, {"original": ""}, {"final": True}, {"expires_at": now_ms + 5_000}, {"expires_at": -1},
        {"note": "why"}, {"note": ""}, {"note": "x" * 1_024}, {"amount": 5}, {"amount": 0}, {"accounts": payer},
        {"accounts": {}}, {"postings": two}, {"postings": ()}, {"reference": "x" * 1_025}, {"value_date": -1},
        {"accounts": {**t.accounts, "fee": "acme:a:CNY"}}, {"operation": "transfer"}, {"operation": "void"},
        {"operation": "adjustment"}, {"operation": "hold"},
    )  # fmt: skip
    return replace(t, **rnd.choice(changes))


def _changed(t: Transaction) -> Transaction:
    return replace(t, amount=t.amount + 1)


def _account(rnd: random.Random, partner: str, currency: str) -> str:
    roll = rnd.random()
    if roll < 0.10:
        return f"bank:clearing:{currency}"
    if roll < 0.14:
        return f"{rnd.choice(PARTNERS)}:{rnd.choice('ab')}:{currency}"
    if roll < 0.16:
        return f"{partner}:nowhere"
    if roll < 0.18:
        return f"{partner}:a:{rnd.choice(CURRENCIES)}"
    return f"{partner}:{rnd.choice(('a', 'b', 'open'))}:{currency}"


def _transaction(rnd: random.Random, i: int) -> Transaction:
    partner = rnd.choice((*PARTNERS, "nobody")) if rnd.random() < 0.05 else rnd.choice(PARTNERS)
    currency = rnd.choice(CURRENCIES) if rnd.random() > 0.01 else "XXX"
    operation = "transfer" if rnd.random() > 0.01 else "teleport"
    amount = rnd.choice((1, 250, 1_999, rnd.randrange(1, 9_000)))
    if rnd.random() < 0.02:
        amount = rnd.choice((0, -5, 2**62))
    key, day = f"t-{i}", 20_000 + rnd.randrange(3) if rnd.random() > 0.01 else -1
    if rnd.random() < 0.7:
        accounts = {"payer": _account(rnd, partner, currency), "payee": _account(rnd, partner, currency)}
        if accounts["payer"] == accounts["payee"] and rnd.random() < 0.9:
            accounts["payee"] = f"bank:clearing:{currency}"
        if rnd.random() < 0.01:
            accounts["fee"] = accounts["payee"]
        return Transaction(
            partner, key, "wallet", operation, amount, currency, accounts, (), day, f"order {i}", {"n": str(i)}
        )
    postings = [Posting(_account(rnd, partner, currency), "debit", amount)]
    left = amount if rnd.random() > 0.04 else amount + 1
    for _ in range(rnd.randrange(1, 4)):
        part = rnd.randrange(1, left + 1) if left > 0 else left
        postings.append(Posting(_account(rnd, partner, currency), "credit", part, rnd.choice(("", currency))))
        left -= part
    if left > 0:
        postings.append(Posting(_account(rnd, partner, currency), "credit", left))
    if rnd.random() < 0.01:
        postings = postings[:1]
    rnd.shuffle(postings)
    gross = amount if rnd.random() < 0.01 else 0
    return Transaction(partner, key, "wallet", operation, gross, currency, {}, tuple(postings), day)


def _control(rnd: random.Random, i: int) -> Command:
    partner, currency, key = rnd.choice(PARTNERS), rnd.choice(CURRENCIES), f"c-{i}"
    account = f"{partner}:{rnd.choice(('a', 'b', 'open', 'new', 'nowhere'))}:{currency}"
    by = rnd.choice(("bank", "bank", partner, partner.partition("/")[0], rnd.choice(PARTNERS)))
    match rnd.randrange(8):
        case 0 | 1:
            return BlockAccount(by, key, account, rnd.random() < 0.3, rnd.random() < 0.2)
        case 2:
            return SetAccountLimit(by, key, account, rnd.choice((None, 0, -20_000, -(2**63), 100)))
        case 3:
            return CloseAccount(by, key, account.replace(":nowhere:", ":new:"))
        case 4 | 5:
            kind = rnd.choice(("asset", "liability", "income"))
            name = rnd.choice(
                (account, f"{partner}:new-{rnd.randrange(40)}:{currency}", f"{partner}:", f"ghost:x:{currency}")
            )
            return OpenAccount(by, key, name, kind, rnd.choice((currency, currency, "ZZZ")), rnd.choice((None, 0)))
        case 6:
            subject = rnd.choice((partner, f"{partner}/new-{rnd.randrange(9)}", "UPPER", "ghost/child", "bank/x"))
            return AdmitPartner(rnd.choice(("bank", "bank", "acme")), key, subject, "New")
        case _:
            state = rnd.choice(("live", "live", "live", "live", "live", "suspended", "asleep"))
            return SetPartnerState(
                rnd.choice(("bank", "bank", "bank", "globex")), key, rnd.choice((*PARTNERS, "ghost")), state
            )


def build_world(seed: int = 1, n: int = 600, partitions: int = 2, step_ms: int = STEP_MS) -> MemoryWorld:
    """A settled and projected world of `n` hostile commands after the setting up, `step_ms` of event time apart."""
    world = MemoryWorld(partitions, step_ms)
    for command in setting_up():
        world.publish(command)
    rnd = random.Random(seed)
    for item in hostile_stream(seed, n, START_MS, step_ms):
        if isinstance(item, bytes) or item is None:
            world.publish_bytes(rnd.randrange(partitions), b"x", item)
        else:
            world.publish(item)
    world.settle()
    return world
