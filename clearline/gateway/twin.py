"""A whole ledger in one process, in place of Kafka, Redis and ClickHouse: the real settlement over lists.

For unit tests, for Schemathesis and for the authorization matrix. Logs, journal and replies are what Kafka would hold,
written by the same `Settlement` that a worker runs, one command to a batch; only the time is given from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

from clearline import keys
from clearline.config import Settings
from clearline.fields import EPOCH
from clearline.gateway.memory_gate import MemoryGate
from clearline.gateway.outcomes import Outcomes, keep_ms
from clearline.gateway.parts import Called, Found, Gate, Parts, Place, Rows, Tree, limits_tree
from clearline.gateway.reads import Reads
from clearline.gateway.twin_reads import TwinReads
from clearline.webhooks.ports import WebhookParts
from ledger.accounts import Account
from ledger.keys import KeyIndex
from ledger.state import Draft, PartitionBase, Partner
from processors.finality import decides, is_final, offset_of
from processors.settlement import Batch, Outlets, Part, Settlement, merge
from schemas.codec import Codec
from schemas.errors import BadInputError, PartUnavailableError
from schemas.identity import BANK, command_id, partition_of, root_of, route_of
from schemas.identity import command_id as id_of
from schemas.records import (
    RECORDS,
    AdmitPartner,
    Command,
    JournalRecord,
    LimitState,
    OpenAccount,
    Posting,
    ProductState,
    PublishProduct,
    Record,
    Transaction,
)
from streams.calls import Calls, Later, Unsettled, Waiting
from streams.topics import DAY_MS

START_MS = 1_795_338_000_000  # 2026-11-22 09:00 UTC
SLOT = b"0"
FUNDS = "bank:funds"


@cache
def codec() -> Codec:
    """A codec with ids of our own: nobody else reads these bytes."""
    return Codec({name: i for i, name in enumerate(RECORDS, 1)})


@dataclass(frozen=True, slots=True)
class _Message:
    """A record of `transactions.submitted`, as a Kafka client gives it."""

    place: Place
    raw: bytes
    tree: bytes
    time_ms: int
    head: list[tuple[str, bytes]]

    def partition(self) -> int:
        return self.place.partition

    def offset(self) -> int:
        return self.place.offset

    def value(self) -> bytes:
        return self.raw

    def key(self) -> bytes:
        return self.tree

    def timestamp(self) -> tuple[int, int]:
        return 2, self.time_ms

    def headers(self) -> list[tuple[str, bytes]]:
        return self.head


class TwinLetter(NamedTuple):
    """A dead letter: where its command stood, its bytes and key, why it died and when."""

    place: Place
    value: bytes
    key: bytes
    reason: str
    detail: str
    at_ms: int


@dataclass
class _Side:
    """One partition: what a worker has of it, its log and its journal."""

    base: PartitionBase
    index: KeyIndex
    log: list[_Message] = field(default_factory=list)
    journal: list[JournalRecord] = field(default_factory=list)
    next: int = 0


class LedgerTwin:
    """`Caller` and `Finder` over a ledger in memory, and the ground for tests on it.

    Time stands still but for a millisecond with each command; `advance` moves it. `held`: steps between partitions stay
    where they are until `release`. `paused`: commands are acknowledged and not settled until `resume`; `stopped`: the
    same in these partitions. `down`: nothing is acknowledged. `lossy`: what is published comes into the log, and its
    acknowledgement is lost.
    """

    def __init__(self, settings: Settings, partitions: int = 4) -> None:
        self.now_ms = START_MS
        self.held = self.paused = self.down = self.lossy = False
        self.partitions = partitions
        self.stopped: set[int] = set()
        self.dead: list[tuple[str, str]] = []  # reason and detail of each
        self.letters: list[TwinLetter] = []  # the same ones with their bytes
        self.journal: list[JournalRecord] = []  # of all partitions, in the order in which they were written
        self.published = 0  # records that callers wrote into the logs
        self.calls = Calls()
        window_ms = settings.settlement.keys_window_ms
        self._sides = [_Side(PartitionBase(window_ms), KeyIndex(window_ms)) for _ in range(partitions)]
        outlets = Outlets(
            "submitted", "journal", "state", "dead", "replies", partitions, reply_partitions=1,
            message_bytes_max=settings.settlement.message_bytes_max,
        )  # fmt: skip
        self._settlement = Settlement(codec(), outlets, lambda ids: ids)
        self._numbers = 0

    # ---- Caller ------------------------------------------------------------------------------------------------------

    async def call(self, command: Command, wait_s: float = 0.0) -> Called:
        """As `Caller.call`."""
        (found,) = await self.call_many([command], wait_s)
        if isinstance(found, Exception):
            raise found
        return found

    async def call_many(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Called | Exception]:
        """As `Caller.call_many`."""
        if not commands:
            return []
        answered = asyncio.get_running_loop().create_future()
        waiting = Waiting(len(commands), lambda: None, partial(_done, answered))
        began = []
        for command in commands:
            places = [] if self.down else self._append(command, [("reply_to", SLOT)])
            call = self.calls.begin(command, len(places) or 1, waiting)
            began.append(call)
            if self.down or self.lossy:
                self.calls.failed(call, PartUnavailableError("Kafka", "twin", "not acknowledged"))
            for place in places:
                self.calls.acknowledged(call, place)
        self.run()
        await asyncio.sleep(0)
        if wait_s > 0 and not answered.done():
            await asyncio.wait((answered,), timeout=wait_s)
        if wait_s <= 0:  # the real one returns at the acknowledgement, when nobody has settled anything
            return [call.error or Called(call.called.places, None) for call in began]
        return [call.error or call.called for call in began]

    # ---- Finder ------------------------------------------------------------------------------------------------------

    async def by_id(self, command_id: bytes) -> Found | None:
        """As `Finder.by_id`."""
        records = [r for r in self.journal if r.command_id == command_id and r.first_offset < 0]
        return self._found(min(records, key=lambda r: (r.source_partition, -r.sequence))) if records else None

    async def waiting(self, partition: int, command_id: bytes) -> Unsettled | None:
        """As `Finder.waiting`."""
        side = self._sides[partition]
        for m in side.log[side.next :]:
            command: Any = codec().decode(m.raw)
            if id_of(command.partner_id, command.idempotency_key) == command_id:
                return Unsettled(m.place, command)
        return None

    async def at(self, partition: int, offset: int) -> Found | None:
        """As `Finder.at`."""
        found = next((r for r in self._sides[partition].journal if r.source_offset == offset), None)
        if found is not None and found.outcome == "repeated":
            return await self.at(partition, found.first_offset)
        return self._found(found) if found is not None else None

    async def record(self, partition: int, offset: int) -> JournalRecord | None:
        """As `Finder.record`."""
        return next((r for r in self._sides[partition].journal if r.source_offset == offset), None)

    async def later(self, partition: int, offset: int, name: bytes, most: int) -> Later:
        """As `Finder.later`."""
        after = [r for r in self._sides[partition].journal if r.source_offset > offset]
        return Later([r for r in after[:most] if name in codec().encode(r)], len(after) <= most)

    def _found(self, r: JournalRecord) -> Found:
        side = self._sides[r.source_partition]
        offset = offset_of(r)
        last = next((j for j in side.journal if decides(j) and j.first_offset == offset), None)
        command: Any = codec().decode(side.log[offset].raw)
        return Found(r if is_final(r) or last is None else last, command)

    # ---- the log and its settlement ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Settles what waits, the lowest partition first, unless the twin is paused."""
        while not self.paused and (side := next(self._waiting(), None)) is not None:
            self._settle(side.log[side.next])

    def resume(self) -> None:
        """Settles what was published while the twin was paused."""
        self.paused = False
        self.run()

    def release(self) -> None:
        """Lets the steps between partitions go on."""
        self.held = False
        self.run()

    def advance(self, ms: int) -> None:
        """What is published from here on is appended so many milliseconds later."""
        self.now_ms += ms

    def _waiting(self) -> Iterator[_Side]:
        for p, side in enumerate(self._sides):
            if side.next < len(side.log) and p not in self.stopped:
                step = codec().name_of(side.log[side.next].raw) == "Crossing"
                if not (self.held and step):
                    yield side

    def _append(self, command: Command, headers: list[tuple[str, bytes]]) -> list[Place]:
        key, places = route_of(command, self.partitions)
        raw = codec().encode(command)
        self.published += len(places)
        return [self._write(p, raw, key, headers) for p in places]

    def put_bytes(self, partition: int, raw: bytes, tree: bytes = b"acme") -> Place:
        """Puts any bytes into a partition's log, as a producer that knows no contract does, and settles them."""
        place = self._write(partition, raw, tree, [])
        self.run()
        return place

    def _write(self, partition: int, raw: bytes, tree: bytes, headers: list[tuple[str, bytes]]) -> Place:
        self.now_ms += 1
        log = self._sides[partition].log
        place = Place(partition, len(log))
        log.append(_Message(place, raw, tree, self.now_ms, headers))
        return place

    def _settle(self, m: _Message) -> None:
        """One command as a batch of its own, committed at once."""
        side = self._sides[m.place.partition]
        out: list[tuple[str, Any, Any, int, Any]] = []

        def produce(topic: str, value: Any, key: Any, partition: int, headers: Any = (), **_: Any) -> None:
            out.append((topic, value, key, partition, headers))

        batch = Batch({m.place.partition: Part([m], Draft(side.base), side.index)}, produce)
        self._settlement.settle(batch)
        merge(batch)
        side.next = m.place.offset + 1
        for topic, value, key, partition, headers in out:
            if topic == "journal":
                record: Any = codec().decode(value)
                side.journal.append(record)
                self.journal.append(record)
            elif topic == "replies":
                reply: Any = codec().decode(value)
                self.calls.replied(reply)
            elif topic == "submitted":
                self._write(partition, value, key, list(headers))
            elif topic == "dead":
                named = dict(headers)
                self.dead.append((named["reason"].decode(), named["detail"].decode()))
                self.letters.append(TwinLetter(m.place, value or b"", m.tree, *self.dead[-1], m.time_ms))

    # ---- the ground of a test, and what is looked at -----------------------------------------------------------------

    def key(self) -> str:
        """An idempotency key that no other is."""
        self._numbers += 1
        return f"twin-{self._numbers}"

    def publish_command(self, command: Command) -> None:
        """Publishes a command of somebody else, and settles it unless the twin is paused."""
        self._append(command, [])
        self.run()

    def settle(self, command: Command) -> JournalRecord:
        """Publishes a command of somebody else and returns the first journal record that it led to."""
        at = len(self.journal)
        self._append(command, [])
        self.run()
        return self.journal[at]

    def must(self, *commands: Command) -> None:
        """The same for commands that make the ground. Raises BadInputError when one is rejected anywhere."""
        for command in commands:
            at = len(self.journal)
            self.settle(command)
            refused = next((r for r in self.journal[at:] if r.outcome == "rejected"), None)
            if refused is not None:
                raise BadInputError(f"{type(command).__name__} was rejected: {refused.reason} {refused.detail}")

    def admit(self, *partners: str, state: str = "live") -> None:
        """Admits partners, those above them first."""
        for partner in partners:
            self.must(AdmitPartner(BANK, self.key(), partner, partner, state))

    def open(self, *account_ids: str, currency: str = "CNY", least: int | None = 0, funds: int = 0) -> None:
        """Opens liability accounts and fills each with `funds` minor units."""
        for account_id in account_ids:
            self.must(OpenAccount(BANK, self.key(), account_id, "liability", currency, least))
            if funds:
                self.fund(account_id, funds, currency)

    def fund(self, account_id: str, amount: int, currency: str = "CNY") -> None:
        """Puts money of the bank on an account; `amount` in minor units."""
        source = f"{FUNDS}:{currency}"
        if source not in self._sides[0].base.accounts:
            self.must(OpenAccount(BANK, self.key(), source, "equity", currency, None))
        legs = (Posting(source, "debit", amount), Posting(account_id, "credit", amount))
        day = self.now_ms // DAY_MS
        self.must(Transaction(BANK, self.key(), "wallet", "adjustment", 0, currency, {}, legs, day, note="ground"))

    def publish(self, product: str, version: int, text: str, effective_from: int = 0) -> None:
        """Puts a version of a product on the shelf; `text`: the document as JSON."""
        self.must(PublishProduct(BANK, self.key(), product, version, effective_from, text))

    def publish_shelf(self, *names: str) -> None:
        """Puts the products that come with Clearline on the shelf: those that are named, or all."""
        for product, version, text in _supplied():
            if not names or product in names:
                self.publish(product, version, text)

    def base(self, partition: int) -> PartitionBase:
        """The committed state of one partition."""
        return self._sides[partition].base

    def journal_of(self, partition: int) -> list[JournalRecord]:
        """The journal of one partition; an offset is a place in this list."""
        return self._sides[partition].journal

    def command_at(self, partition: int, offset: int) -> Command:
        """The command at a place of a partition's log."""
        found: Command = codec().decode(self._sides[partition].log[offset].raw)
        return found

    def account(self, account_id: str) -> Account | None:
        """A partner's account as it is now."""
        owner = account_id.partition(":")[0]
        return self._sides[partition_of(owner, self.partitions)].base.accounts.get(account_id)

    def accounts(self) -> dict[str, Account]:
        """Every partner's account, by id; the bank's are left out."""
        found = (a for s in self._sides for a in s.base.accounts.values() if a.owner != BANK)
        return {a.account_id: a for a in sorted(found, key=lambda a: a.account_id)}

    def partners(self) -> dict[str, Partner]:
        """Every partner, by id."""
        found = (p for s in self._sides for p in s.base.partners.values())
        return {p.partner_id: p for p in sorted(found, key=lambda p: p.partner_id)}

    def rows(self, prefix: str) -> dict[str, Record]:
        """Rows of `ledger.state` by key: `l:` limits, `u:` what was used of them, `c:` calendars."""
        return {k: r for s in self._sides for k, r in sorted(s.base.rows.items()) if k.startswith(prefix)}

    async def tree(self, root: str) -> Tree:
        """As `Parts.tree`."""
        base = self._sides[partition_of(root, self.partitions)].base
        holds = [h.state() for _, h in sorted(base.holds.items()) if root_of(h.partner_id) == root]
        accounts = {a.account_id: a.state() for a in base.accounts.values() if root_of(a.owner) == root}
        rows = [r for _, r in sorted(base.rows.items()) if isinstance(r, LimitState) and limits_tree(r, root)]
        return Tree(holds, accounts, rows, base.head.next_offset)

    def products(self) -> dict[str, tuple[ProductState, ...]]:
        """The versions of each product, rising."""
        return dict(sorted(self._sides[0].base.shelf.items()))

    def ends(self) -> dict[int, int]:
        """The next offset of each partition's log."""
        return {p: len(s.log) for p, s in enumerate(self._sides)}

    def outcomes_of(self, partner_id: str, idempotency_key: str) -> list[JournalRecord]:
        """Every journal record of one command, in their order."""
        cid = command_id(partner_id, idempotency_key)
        return [r for r in self.journal if r.command_id == cid]

    def today(self) -> str:
        """The twin's day, ISO."""
        return (EPOCH.fromordinal(EPOCH.toordinal() + self.now_ms // DAY_MS)).isoformat()


class MemoryRows:
    """`Rows` in a dict."""

    def __init__(self, rows: Iterable[tuple[str, Record]] = ()) -> None:
        self._rows = dict(rows)

    def get(self, key: str) -> Record | None:
        """As `Table.get`."""
        return self._rows.get(key)

    def items(self, prefix: str = "") -> Iterator[tuple[str, Record]]:
        """As `Table.items`."""
        return iter(sorted((k, r) for k, r in self._rows.items() if k.startswith(prefix)))

    def put(self, key: str, row: Record | None, timeout_s: float = 15.0) -> None:
        """As `Table.put`."""
        if row is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = codec().decode(codec().encode(row))


def make_twin(
    settings: Settings | None = None, partitions: int = 4, *, gate: Gate | None = None, access: Rows | None = None,
    reads: Reads | None = None, base_url: str = "http://gateway.test",
) -> Parts:  # fmt: skip
    """The parts of a gateway over a ledger in memory; `ledger_of` gives the ledger. The world is empty: admit partners,
    open accounts, publish the shelf."""
    settings = settings or Settings(world="sandbox", partitions=partitions)
    if not settings.gateway.master_key:  # what a twin seals is nobody's secret
        settings = settings.model_copy(
            update={"gateway": settings.gateway.model_copy(update={"master_key": "A" * 43})}
        )  # fmt: skip
    twin = LedgerTwin(settings, partitions)
    gate = gate if gate is not None else MemoryGate(10_000_000, 10_000_000)
    outcomes = Outcomes(gate, lambda: twin.now_ms, keep_ms(settings))
    twin.calls = Calls(outcomes.kept)
    return Parts(
        settings, base_url, partitions, settings.settlement.message_bytes_max, twin, twin,
        access if access is not None else MemoryRows(), gate, reads if reads is not None else TwinReads(twin), outcomes,
        now_ms=lambda: twin.now_ms, webhooks=WebhookParts(resolve=_this_machine), tree=twin.tree,
    )  # fmt: skip


async def _this_machine(host: str, port: int) -> list[str]:
    """A twin's webhooks reach receivers of a test and nothing else."""
    if host in ("localhost", "127.0.0.1"):
        return ["127.0.0.1"]
    raise OSError("a twin has no network")


def give_key(parts: Parts, partner_id: str, *scopes: str) -> dict[str, str]:
    """A key for a partner of the twin's world, with these scopes or all, as the header that shows it."""
    made = keys.make(
        partner_id, scopes or keys.ALL_SCOPES, sandbox=parts.settings.sandbox, now_ms=parts.now_ms(),
        requested_by="the twin",
    )  # fmt: skip
    parts.access.put(keys.row_key(made.key.key_id), made.key)
    return {"Authorization": f"Bearer {made.token}"}


def ledger_of(parts: Parts) -> LedgerTwin:
    """The ledger behind parts that `make_twin` made."""
    assert isinstance(parts.caller, LedgerTwin)
    return parts.caller


@cache
def _supplied() -> list[tuple[str, int, str]]:
    from clearline.product_file import read_product, shelf_files

    found = (read_product(f) for f in shelf_files())
    return [(p.product, p.document["version"], p.text) for p in found]


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
