"""What stands behind `clearline.publisher`: it sends checked commands, tries again, and knows the outcomes."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any
from uuid import uuid4

from clearline.config import Settings, load_settings
from clearline.connection import Connection, kafka_config, registry_of
from clearline.contract import ContractError, FieldError, read_command
from clearline.quick import QuickCheck
from ledger.reasons import CURE, MEANING, told_of
from processors.finality import is_final, offset_of
from schemas.errors import BadInputError, ClearlineError, PartUnavailableError
from schemas.identity import command_id
from schemas.records import Command, JournalRecord, Reply
from streams import traces
from streams.bulk import Bulk, BulkMessage
from streams.caller import Caller, Sending
from streams.calls import Place
from streams.finder import Finder
from streams.topics import Topics, partition_counts

QUEUE_MAX = 10_000
GIVE_UP_S = 30.0
TIMEOUT_S = 30.0
_ACKNOWLEDGE_S = 5.0  # one try
_FIRST_RETRY_S, _RETRY_S_MAX = 0.1, 5.0
_LOOK_AGAIN_S = 0.05
CHUNK = 250  # of publish_many at a time: what it makes of them stays in the processor's cache, and no GC runs
_SLOTS = 1_000_000


class DeliveryError(PartUnavailableError):
    """The broker did not acknowledge a command in time: nobody knows whether the log has it. Publishing it again under
    the same key is harmless."""


class OutcomeTimeoutError(ClearlineError):
    """The log has the command, and its outcome did not come in time. It will be settled or rejected all the same."""


class RejectedError(BadInputError):
    """The ledger said no. `outcome` has everything; `reason`, `detail` and `cure` are its own."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"{outcome.partner_id} {outcome.idempotency_key} was rejected: {outcome.why()}")
        self.outcome = outcome

    @property
    def reason(self) -> str:
        """The stable code, docs/REASONS.md."""
        return self.outcome.reason

    @property
    def detail(self) -> Mapping[str, str]:
        """What the reason names."""
        return self.outcome.detail

    @property
    def cure(self) -> str:
        """What helps."""
        return self.outcome.cure


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command, for good. `status`: settled, rejected, applied (what moves no money), or foreseen ones
    of a dry run. `repeated`: it was so already when this command came. `id`: 32 hexadecimal digits; `offset` of the
    command in `partition`, `sequence` of the journal record; `booked_at` in UTC."""

    status: str
    partner_id: str
    idempotency_key: str
    reason: str
    detail: Mapping[str, str]
    partition: int
    offset: int
    sequence: int
    booked_at: datetime
    repeated: bool = False

    @property
    def id(self) -> str:
        return command_id(self.partner_id, self.idempotency_key).hex()

    @property
    def rejected(self) -> bool:
        return self.status == "rejected"

    @property
    def meaning(self) -> str:
        """What the reason means; empty without one."""
        return told_of(self.reason, MEANING)

    @property
    def cure(self) -> str:
        """What helps against the reason; empty without one."""
        return told_of(self.reason, CURE)

    def why(self) -> str:
        """The reason with what it names and what helps, for people."""
        named = ", ".join(f"{k}={v}" for k, v in self.detail.items())
        return f"{self.reason}{f' ({named})' if named else ''}. {self.meaning} {self.cure}".strip()

    def or_raise(self) -> Outcome:
        """Itself. Raises RejectedError."""
        if self.rejected:
            raise RejectedError(self)
        return self


class Ticket:
    """One command that was handed over."""

    __slots__ = ("command", "delivered", "error", "outcome", "sending")

    def __init__(self, command: Command, delivered: asyncio.Future[None]) -> None:
        self.command = command
        self.delivered = delivered  # done when it is acknowledged or given up
        self.sending: Sending | None = None
        self.error: ClearlineError | None = None
        self.outcome: Outcome | None = None

    @property
    def id(self) -> str:
        return command_id(self.command.partner_id, self.command.idempotency_key).hex()


def addresses(settings: Settings | None, kafka: str, registry: str, world: str) -> Settings:
    """Settings with the addresses of broker and registry. Raises BadInputError, and ClearlineError when none are given
    and nothing runs here."""
    if settings is None:
        given: dict[str, Any] = {}
        if kafka:
            given["kafka"] = {"bootstrap": kafka}
        if registry:
            given["registry"] = {"url": registry}
        if world:
            given["world"] = world
        settings = load_settings(**given)
    elif kafka or registry or world:
        raise BadInputError("give settings, or addresses, not both")
    if settings.kafka.bootstrap is None or settings.registry.url is None:
        from clearline.stack import resolved_settings  # the embedded stack, for whoever named no address

        return resolved_settings(settings)
    return settings


def _connect(settings: Settings) -> Connection:
    """The system, with as many partitions as its topic has. Raises PartUnavailableError."""
    kafka, topics = kafka_config(settings), Topics(settings.world)
    counts = partition_counts(kafka)
    if topics.submitted not in counts:
        raise PartUnavailableError("Kafka", kafka.bootstrap, f"topic {topics.submitted} does not exist")
    codec = registry_of(settings).codec()
    return Connection(kafka, topics, codec, counts[topics.submitted], settings.settlement.message_bytes_max)


class Engine:
    """Sends commands in one event loop. `publish_many` is for one other thread."""

    def __init__(self, settings: Settings, queue_max: int, give_up_s: float) -> None:
        self._settings = settings
        self._queue_max = queue_max
        self._give_up_s = give_up_s
        self._room = asyncio.Semaphore(queue_max)
        self._system: Connection | None = None
        self._caller: Caller | None = None
        self._finder: Finder | None = None
        self._bulk: Bulk | None = None
        self._check: QuickCheck | None = None
        self._deliveries: set[asyncio.Task[None]] = set()
        self._lost: list[ClearlineError] = []

    async def start(self) -> None:
        """Connects. Raises PartUnavailableError."""
        traces.follow_application()
        system = self._system = await asyncio.to_thread(_connect, self._settings)
        caller = Caller(
            system.kafka, system.topics, system.codec, system.partitions, secrets.randbelow(_SLOTS),
            acknowledge_s=min(_ACKNOWLEDGE_S, self._give_up_s), open_max=max(50_000, 2 * self._queue_max),
        )  # fmt: skip
        await caller.start()
        self._caller = caller

    async def close(self) -> None:
        """Flushes and ends. Raises DeliveryError for what was lost."""
        try:
            if self._caller is not None:
                await self.flush()
        finally:
            for part in (self._caller, self._finder):
                if part is not None:
                    await part.close()
            if self._bulk is not None:
                self._bulk.close()
            self._caller = self._finder = self._bulk = None

    async def flush(self) -> None:
        """Waits until nothing is on its way. Raises DeliveryError for what was lost since the last flush."""
        while self._deliveries:
            await asyncio.wait(tuple(self._deliveries))
        lost, self._lost = self._lost, []
        if lost:
            raise DeliveryError("Kafka", self._address(), f"{len(lost)} commands were not acknowledged: {lost[0]}")

    async def publish(self, document: Mapping[str, Any]) -> Ticket:
        """Hands a command over; waits for room. Raises ContractError."""
        command = self._checked(document)
        await self._room.acquire()
        ticket = Ticket(command, asyncio.get_running_loop().create_future())
        task = asyncio.create_task(self._deliver(ticket))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        return ticket

    def _checked(self, document: Mapping[str, Any]) -> Command:
        system = self._connected()
        command = read_command(with_key(document), today())
        size = len(system.codec.encode(command))
        if size > system.message_bytes_max:
            rule = f"the command takes {size} bytes on the wire, the most is {system.message_bytes_max}"
            raise ContractError([FieldError("", rule)])
        return command

    async def _deliver(self, ticket: Ticket) -> None:
        """Tries until the broker has it, or the time is up."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._give_up_s, _FIRST_RETRY_S
        try:
            while True:
                assert self._caller is not None
                sending = await self._caller.send(ticket.command)
                await sending.acknowledged
                error = sending.call.error
                if error is None:
                    ticket.sending = sending
                    return
                if not isinstance(error, PartUnavailableError) or loop.time() + pause > deadline:
                    ticket.error = DeliveryError("Kafka", self._address(), str(error))
                    self._lost.append(ticket.error)
                    return
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, _RETRY_S_MAX)
        finally:
            self._room.release()
            if not ticket.delivered.done():
                ticket.delivered.set_result(None)

    async def acknowledged(self, ticket: Ticket) -> tuple[Place, ...]:
        """Where the log has it. Raises DeliveryError."""
        await asyncio.wait((ticket.delivered,))
        return self._sending(ticket).call.called.places

    async def outcome(self, ticket: Ticket, timeout_s: float) -> Outcome:
        """The final outcome; of a repeat the first one. Raises DeliveryError and OutcomeTimeoutError."""
        if ticket.outcome is not None:
            return ticket.outcome
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        await asyncio.wait((ticket.delivered,), timeout=timeout_s)
        if not ticket.delivered.done():
            raise OutcomeTimeoutError(f"{_name(ticket)} is not acknowledged after {timeout_s:g} s, and tried on")
        sending = self._sending(ticket)
        await asyncio.wait((sending.answered,), timeout=max(0.0, deadline - loop.time()))
        reply = sending.call.called.reply
        if reply is None:
            raise OutcomeTimeoutError(f"{_name(ticket)} is in the log and has no outcome after {timeout_s:g} s")
        if reply.outcome == "repeated":
            ticket.outcome = await self._first(ticket, reply, deadline)
        else:
            ticket.outcome = _of_reply(reply, sending.call.called.places)
        return ticket.outcome

    async def _first(self, ticket: Ticket, reply: Reply, deadline: float) -> Outcome:
        """What became of the first command under this key, from the journal."""
        if self._finder is None:
            s = self._connected()
            self._finder = Finder(s.kafka, None, s.topics, s.codec.decode, s.partitions, workers=1)
        loop = asyncio.get_running_loop()
        while True:
            found = await self._finder.at(reply.partition, reply.first_offset)
            if found is not None and is_final(found.record):
                return _of_record(found.record, repeated=True)
            if loop.time() > deadline:
                raise OutcomeTimeoutError(f"{_name(ticket)} was sent before, and that is not decided yet")
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _sending(self, ticket: Ticket) -> Sending:
        if ticket.error is not None:
            if ticket.error in self._lost:
                self._lost.remove(ticket.error)  # whoever asked knows it now
            raise ticket.error
        if ticket.sending is None:
            raise DeliveryError("Kafka", self._address(), f"{_name(ticket)} was given up: the publisher was closed")
        return ticket.sending

    async def dry_run(self, document: Mapping[str, Any], foresee: bool) -> Outcome | None:
        """Checks a document; `foresee`: and says what would become of it. Raises ContractError."""
        command = self._checked(document)
        return await asyncio.to_thread(self._foreseen, command) if foresee else None

    def _foreseen(self, command: Command) -> Outcome:
        from clearline.foresight import Foresight  # it brings the whole ledger with it

        found = Foresight(self._connected(), self._settings.settlement.keys_window_ms).outcome(command)
        return Outcome(
            found.outcome, command.partner_id, command.idempotency_key, found.reason, found.detail, found.partition,
            found.offset, found.sequence, _time(found.booked_at), found.outcome == "repeated",
        )  # fmt: skip

    def publish_many(self, documents: Iterable[Mapping[str, Any]], refuse: Callable[[int, ContractError], None]) -> int:
        """Publishes all that keep the contract and waits until the broker has them; how many. Raises DeliveryError."""
        s = self._connected()
        if self._bulk is None or self._check is None:
            self._check = QuickCheck(s.codec, s.partitions, s.message_bytes_max)
            self._bulk = Bulk(s.kafka, s.topics.submitted, give_up_s=self._give_up_s)
        bulk, refused, index = self._bulk, 0, 0
        source = iter(documents)

        def counted(i: int, error: ContractError) -> None:
            nonlocal refused
            refused += 1
            refuse(index + i, error)

        try:
            while chunk := list(islice(source, CHUNK)):
                bulk.send(encode_chunk(self._check, chunk, today(), counted))
                index += len(chunk)
            bulk.flush()
        except PartUnavailableError as e:
            raise DeliveryError("Kafka", self._address(), str(e)) from None
        return index - refused

    def _connected(self) -> Connection:
        if self._system is None:
            raise RuntimeError("the publisher is not started, or closed")
        return self._system

    def _address(self) -> str:
        return str(self._settings.kafka.bootstrap)


def encode_chunk(
    check: QuickCheck, documents: list[Any], on: date, refuse: Callable[[int, ContractError], None]
) -> dict[int, list[BulkMessage]]:
    """The documents as messages by partition, in their order; those that break the contract go to `refuse` with their
    index. `on`: the value date of whoever named none."""
    quick = check.quick(documents, on)
    if quick is not None:
        return quick
    parts: dict[int, list[BulkMessage]] = {}
    for i, document in enumerate(documents):
        one = check.quick((document,), on)
        try:
            one = one if one is not None else _full(check, document, on)
        except ContractError as e:
            refuse(i, e)
            continue
        for p, messages in one.items():
            parts.setdefault(p, []).extend(messages)
    return parts


def _full(check: QuickCheck, document: Any, on: date) -> dict[int, list[BulkMessage]]:
    """Messages of one document by the full check, with a key when it has none. Raises ContractError."""
    value, (key, partitions) = check.full(with_key(document) if isinstance(document, Mapping) else document, on)
    return {p: [{"value": value, "key": key}] for p in partitions}


def with_key(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as plain JSON would be, with a key of its own when it has none."""
    out = {k: dict(v) if isinstance(v, Mapping) else v for k, v in document.items()}
    out.setdefault("idempotency_key", f"sdk-{uuid4().hex}")
    return out


def today() -> date:
    """The value date of whoever names none: today in UTC."""
    return datetime.now(UTC).date()


def _name(ticket: Ticket) -> str:
    return f"{ticket.command.partner_id} {ticket.command.idempotency_key}"


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _of_reply(r: Reply, places: tuple[Place, ...]) -> Outcome:
    own = next((p.offset for p in places if p.partition == r.partition), r.source_offset)
    return Outcome(
        r.outcome, r.partner_id, r.idempotency_key, r.reason, r.detail, r.partition, own, r.sequence,
        _time(r.booked_at),
    )  # fmt: skip


def _of_record(r: JournalRecord, *, repeated: bool) -> Outcome:
    return Outcome(
        r.outcome, r.partner_id, r.idempotency_key, r.reason, r.detail, r.source_partition, offset_of(r), r.sequence,
        _time(r.booked_at), repeated,
    )  # fmt: skip
