"""Commands out, their outcomes back: what a gateway does with the log, for an asyncio program.

One idempotent producer and one reader of the topic `replies`, each with a thread of its own; the event loop is told
once for everything that a thread has at a time, never once per message. `streams/calls.py` brings both together.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import structlog
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from schemas.codec import Codec, UndecodableError
from schemas.errors import BadInputError, PartUnavailableError
from schemas.identity import route_of
from schemas.records import Command, Reply
from streams import traces
from streams.calls import OPEN_MAX, Call, Called, Calls, Kept, Place, Waiting
from streams.clients import KafkaConfig
from streams.publisher import REPLY_HEADER
from streams.reader import end_offsets
from streams.times import Least
from streams.topics import MESSAGE_BYTES_MAX, Topics

log = structlog.get_logger()

ACKNOWLEDGE_S = 5.0
QUEUE_MAX = 100_000
_GUARD_S = 2.0  # the client reports every message by then; if it does not, nobody is kept waiting
_FULL_S = 0.005
_POLL_S = 0.2
_READ_MAX = 2_000


class Sending(NamedTuple):
    """One command on its way. Both futures are done without a result, also when it failed: `call` says."""

    call: Call
    acknowledged: asyncio.Future[None]
    answered: asyncio.Future[None]


Acknowledgement = tuple[Call, int, int, Any]  # the call, partition and offset, the client's error or None


class Caller:
    """Publishes commands and takes their outcomes from partition `slot` modulo the number of partitions of `replies`.

    `partitions`: of `transactions.submitted`. `kept` gets every outcome once, in the event loop, whether or not its
    caller still waits. `acknowledge_s`: how long the broker has for a command. Use it in one event loop: `start` in it
    (or `async with`), and `close` at the end.
    """

    def __init__(
        self, kafka: KafkaConfig, topics: Topics, codec: Codec, partitions: int, slot: int = 0, *,
        kept: Kept = lambda _command, _called: None, acknowledge_s: float = ACKNOWLEDGE_S, open_max: int = OPEN_MAX,
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._topics = topics
        self._codec = codec
        self._partitions = partitions
        self._slot = slot
        self._acknowledge_s = acknowledge_s
        self._calls = Calls(kept, open_max)
        self._acknowledgements: list[Acknowledgement] = []
        self._producers: list[Producer] = []  # the last one is used; those before it still have to report
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._headers: list[tuple[str, str | bytes | None]] = []
        self._spans: dict[bytes, Any] = {}  # of commands that are followed and not acknowledged
        self.skew_ms = Least()  # this machine's clock less the broker's, never less than they differ
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def under_way(self) -> int:
        """Commands without an outcome yet."""
        return len(self._calls)

    @property
    def following(self) -> bool:
        """Whether acknowledgements and replies are still taken."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    async def start(self) -> None:
        """Returns when replies are read. Raises PartUnavailableError."""
        self._loop = asyncio.get_running_loop()
        producer, reader = await asyncio.to_thread(self._connect)
        self._producers = [producer]
        for work in (self._serve_producers, partial(self._follow, reader)):
            self._threads.append(threading.Thread(target=work, name=f"caller {self._topics.world}", daemon=True))
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Waits for acknowledgements, as long as they may take, and ends. What is without one then raises."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._acknowledge_s + _GUARD_S
        while any(len(p) for p in self._producers) and loop.time() < deadline:
            await asyncio.sleep(_FULL_S)
        self._ended.set()
        while any(t.is_alive() for t in self._threads):  # no pool of threads: it may be gone when a program ends
            await asyncio.sleep(_FULL_S)
        self._calls.fail_all(self._unavailable("the caller was closed"))

    async def __aenter__(self) -> Caller:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(self, command: Command, wait_s: float = 0.0) -> Called:
        """Returns when the broker has it, or with its outcome at most `wait_s` after the call began. Raises
        PartUnavailableError when it was not acknowledged: then nobody knows whether the log has it; and BadInputError
        when it is larger than the log takes."""
        (found,) = await self.call_many([command], wait_s)
        if isinstance(found, Exception):
            raise found
        return found

    async def call_many(self, commands: Sequence[Command], wait_s: float = 0.0) -> list[Called | Exception]:
        """The same for many at once, each on its own; in their order."""
        if not commands:
            return []
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting, acknowledged, answered = self._waiting(len(commands))
        calls = [await self._publish(command, waiting, began) for command in commands]
        await asyncio.wait((acknowledged,), timeout=self._acknowledge_s + _GUARD_S)
        if not acknowledged.done():
            for call in calls:
                if not call.acknowledged:
                    self._calls.failed(call, self._unavailable(f"no acknowledgement in {self._acknowledge_s:.0f} s"))
        left = began + wait_s - loop.time()
        if wait_s > 0 and left > 0 and not answered.done():
            await asyncio.wait((answered,), timeout=left)
        return [call.error or call.called for call in calls]

    async def send(self, command: Command) -> Sending:
        """The same in steps, for whoever waits for each by himself. Returns when it is in the client's queue."""
        waiting, acknowledged, answered = self._waiting(1)
        return Sending(await self._publish(command, waiting, asyncio.get_running_loop().time()), acknowledged, answered)

    def _waiting(self, calls: int) -> tuple[Waiting, asyncio.Future[None], asyncio.Future[None]]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop or not self._producers:
            raise RuntimeError("a Caller is used in the event loop in which it was started")
        acknowledged, answered = loop.create_future(), loop.create_future()
        return Waiting(calls, partial(_done, acknowledged), partial(_done, answered)), acknowledged, answered

    # ---- publishing, in the event loop -------------------------------------------------------------------------------

    async def _publish(self, command: Command, waiting: Waiting, began: float) -> Call:
        """Queues one command; waits while the client's queue is full. What goes wrong is in the call."""
        key, partitions = route_of(command, self._partitions)
        call = self._calls.begin(command, len(partitions), waiting)
        try:
            value = self._codec.encode(command)
        except Exception as e:  # a record that fits no schema: nothing was sent
            self._calls.failed(call, BadInputError(f"{type(command).__name__} cannot be encoded: {e}"))
            return call
        headers = self._headers
        if traces.active is not None and (made := traces.active.publishing(self._topics.submitted, call.command_id)):
            self._spans[call.command_id] = made[0]
            headers = [*headers, (traces.HEADER, made[1])]
        for p in partitions:
            while call.error is None and not self._queued(call, value, key, p, headers):
                if asyncio.get_running_loop().time() > began + self._acknowledge_s:
                    self._calls.failed(call, self._unavailable("the queue of the client is full"))
                    break
                await asyncio.sleep(_FULL_S)
        return call

    def _queued(
        self, call: Call, value: bytes, key: bytes, partition: int, headers: list[tuple[str, str | bytes | None]]
    ) -> bool:
        """Whether the client took it; what it will never take is in the call."""
        delivered = partial(self._delivered, call)
        try:
            self._producers[-1].produce(
                self._topics.submitted, value, key, partition, on_delivery=delivered, headers=headers
            )
        except BufferError:
            return False
        except KafkaException as e:
            error = e.args[0]
            if error.fatal():
                self._renew(error.str())
                return False
            self._calls.failed(call, BadInputError(f"the log does not take the command: {error.str()}"))
        return True

    def _delivered(self, call: Call, error: Any, message: Any) -> None:
        """In the producer's thread: notes one report; the loop gets them together."""
        if not self._acknowledgements and error is None:  # the first of those that came together is enough
            self.skew_ms.see(time.time() * 1000 - message.timestamp()[1])
        self._acknowledgements.append((call, message.partition(), message.offset(), error))

    def _renew(self, why: str) -> None:
        """A new producer in place of one that can never send again. Its last reports are still served."""
        log.error("producer_renewed", error=why)
        self._producers = [*self._producers, self._producer()]

    def _take_acknowledgements(self, batch: list[Acknowledgement]) -> None:
        for call, partition, offset, error in batch:
            if self._spans and (span := self._spans.pop(call.command_id, None)) is not None:
                assert traces.active is not None
                traces.active.published(span, partition, offset, error.str() if error is not None else "")
            if error is not None:
                self._calls.failed(call, self._unavailable(error.str()))
                if error.fatal() and len(self._producers) == 1:
                    self._renew(error.str())
            elif offset < 0:  # the broker knows that it has it, and not where
                self._calls.failed(call, self._unavailable("acknowledged without an offset"))
            else:
                self._calls.acknowledged(call, Place(partition, offset))

    def _take_replies(self, batch: list[Reply]) -> None:
        for reply in batch:
            self._calls.replied(reply)

    def _unavailable(self, why: str) -> PartUnavailableError:
        return PartUnavailableError("Kafka", self._kafka.bootstrap, why)

    # ---- the two threads ---------------------------------------------------------------------------------------------

    def _producer(self) -> Producer:
        # Nothing is gained by lingering: what comes while a request is under way goes with the next one.
        return Producer(
            self._kafka.producer(
                message_timeout_ms=int(self._acknowledge_s * 1000), linger_ms=0, message_max_bytes=MESSAGE_BYTES_MAX,
                queue_buffering_max_messages=QUEUE_MAX,
            )
        )  # fmt: skip

    def _connect(self) -> tuple[Producer, Consumer]:
        """A producer that knows the topic, and a reader at the end of our partition of `replies`."""
        ends = end_offsets(self._kafka, self._topics.replies)
        mine = self._slot % len(ends)
        self._headers = [(REPLY_HEADER, str(mine).encode())]
        producer = self._producer()
        try:
            producer.list_topics(self._topics.submitted, timeout=10)
        except KafkaException as e:
            raise self._unavailable(e.args[0].str()) from None
        return producer, self._reader(TopicPartition(self._topics.replies, mine, ends[mine]))

    def _reader(self, place: TopicPartition) -> Consumer:
        consumer = Consumer(self._kafka.consumer("clearline-replies", fetch_wait_max_ms=500, fetch_error_backoff_ms=20))
        consumer.assign([place])
        return consumer

    def _serve_producers(self) -> None:
        """Serves reports, and hands what came together to the loop."""
        while not self._ended.is_set():
            producers = self._producers
            for former in producers[:-1]:
                former.poll(0)
            producers[-1].poll(_POLL_S)
            if self._acknowledgements:
                batch, self._acknowledgements = self._acknowledgements, []
                self._tell(self._take_acknowledgements, batch)
            finished = [p for p in producers[:-1] if not len(p)]
            if finished and producers is self._producers:
                self._tell(self._drop_producers, finished)

    def _drop_producers(self, finished: list[Producer]) -> None:
        self._producers = [p for p in self._producers if p not in finished]

    def _follow(self, reader: Consumer) -> None:
        """Reads replies, and hands those that may be ours to the loop."""
        (place,) = reader.assignment()
        try:
            while not self._ended.is_set():
                try:
                    first = reader.poll(_POLL_S)
                    messages: list[Any] = [first, *reader.consume(_READ_MAX, 0)] if first is not None else []
                except KafkaException as e:
                    if not e.args[0].fatal():
                        continue
                    log.error("reply_reader_renewed", error=e.args[0].str())
                    reader.close()
                    self._ended.wait(0.5)
                    reader = self._reader(place)
                    continue
                replies = [r for m in messages if (r := self._reply(m)) is not None]
                if messages and messages[-1].error() is None:
                    place = TopicPartition(self._topics.replies, place.partition, messages[-1].offset() + 1)
                if replies:
                    self._tell(self._take_replies, replies)
        finally:
            reader.close()

    def _reply(self, m: Any) -> Reply | None:
        """What this record says, if it is about a command of ours; its key is the command's id."""
        if m.error() is not None or not self._calls.knows(m.key() or b""):
            return None
        try:
            found = self._codec.decode(m.value())
        except UndecodableError as e:
            log.warning("reply_undecodable", partition=m.partition(), offset=m.offset(), error=str(e))
            return None
        return found if isinstance(found, Reply) else None

    def _tell(self, what: Callable[[Any], None], batch: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(what, batch)
        except RuntimeError:  # the loop was closed before us
            self._ended.set()


def _done(future: asyncio.Future[None]) -> None:
    """The caller may have gone away."""
    if not future.done():
        future.set_result(None)
