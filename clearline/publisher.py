"""Publishing to the ledger from Python, and hearing what became of it: docs/publishing.md.

    from clearline.publisher import Publisher

    with Publisher() as publisher:
        outcome = publisher.settle(
            partner_id="acme", product="wallet", operation="transfer", amount=12550, currency="CNY",
            accounts={"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"}, idempotency_key="o-1001",
        )
        print(outcome.status, outcome.id)

Documents are those of `clearline publish`: they are checked here, before anything is sent. A key that is left out is
made up, and then only this process can try again under it. Amounts are integers in minor units.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack

from clearline.config import Settings
from clearline.contract import ContractError
from clearline.sending import (
    GIVE_UP_S,
    QUEUE_MAX,
    TIMEOUT_S,
    DeliveryError,
    Engine,
    Outcome,
    OutcomeTimeoutError,
    RejectedError,
    Ticket,
    addresses,
)
from schemas.records import Command
from streams.calls import Place

T = TypeVar("T")

__all__ = [
    "AsyncPublisher",
    "AsyncSent",
    "ContractError",
    "DeliveryError",
    "Many",
    "Outcome",
    "OutcomeTimeoutError",
    "PostingFields",
    "Publisher",
    "RejectedError",
    "Sent",
    "TransactionFields",
]


class PostingFields(TypedDict, total=False):
    """One leg of a transaction. `side`: debit or credit."""

    account_id: str
    side: str
    amount: int
    currency: str


class TransactionFields(TypedDict, total=False):
    """A transaction as keyword arguments. `value_date` and `expires_at`: ISO 8601; docs/operations.md says which of
    them an operation takes."""

    partner_id: str
    idempotency_key: str
    product: str
    operation: str
    currency: str
    amount: int
    accounts: Mapping[str, str]
    postings: list[PostingFields]
    value_date: str
    reference: str
    metadata: Mapping[str, str]
    original: str
    final: bool
    expires_at: str
    note: str
    amounts: Mapping[str, int]
    rate: str
    exponent: int


@dataclass(slots=True)
class Many:
    """What `publish_many` did. `refused`: the first of those that break the contract, with their index; they were not
    sent, and all others are acknowledged."""

    published: int = 0
    refused_count: int = 0
    refused: list[tuple[int, ContractError]] = field(default_factory=list)


class AsyncSent:
    """A command that was handed over."""

    def __init__(self, engine: Engine, ticket: Ticket) -> None:
        self._engine = engine
        self._ticket = ticket

    @property
    def command(self) -> Command:
        """What was sent, with its key."""
        return self._ticket.command

    @property
    def idempotency_key(self) -> str:
        """Its key, given or made up."""
        return self._ticket.command.idempotency_key

    @property
    def id(self) -> str:
        """The command's id, 32 hexadecimal digits; the same for every try under its key."""
        return self._ticket.id

    async def acknowledged(self) -> tuple[Place, ...]:
        """Where the log has it. Raises DeliveryError."""
        return await self._engine.acknowledged(self._ticket)

    async def outcome(self, timeout_s: float = TIMEOUT_S) -> Outcome:
        """What became of it, a rejection too. Raises DeliveryError, and OutcomeTimeoutError when it is not there."""
        return await self._engine.outcome(self._ticket, timeout_s)

    async def settled(self, timeout_s: float = TIMEOUT_S) -> Outcome:
        """The same; raises RejectedError when the ledger rejected it."""
        return (await self.outcome(timeout_s)).or_raise()


class AsyncPublisher:
    """Publishes for an asyncio program. Use it with `async with`, in one event loop.

    Where to: `settings`, or what `clearline.config` finds (environment, file, the stack that runs here), or `kafka`
    (host:port,...) with `registry` (URL) and `world`. At most `queue_max` commands are unacknowledged, then `publish`
    waits. What the broker does not take is tried again, with growing pauses, for `give_up_s`.
    """

    def __init__(
        self, settings: Settings | None = None, *, kafka: str = "", registry: str = "", world: str = "",
        queue_max: int = QUEUE_MAX, give_up_s: float = GIVE_UP_S,
    ) -> None:  # fmt: skip
        self._engine = Engine(addresses(settings, kafka, registry, world), queue_max, give_up_s)

    async def start(self) -> None:
        """Connects. Raises ClearlineError in one sentence when a part does not answer."""
        await self._engine.start()

    async def close(self) -> None:
        """Waits until everything is acknowledged, and ends. Raises DeliveryError for what was lost."""
        await self._engine.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def publish(
        self, document: Mapping[str, Any] | None = None, /, **fields: Unpack[TransactionFields]
    ) -> AsyncSent:
        """Hands one command over: a document, or a transaction's fields. Raises ContractError: nothing was sent."""
        return AsyncSent(self._engine, await self._engine.publish(_document(document, fields)))

    async def settle(
        self, document: Mapping[str, Any] | None = None, /, *, timeout_s: float = TIMEOUT_S,
        **fields: Unpack[TransactionFields],
    ) -> Outcome:  # fmt: skip
        """Publishes one command and waits for its outcome. Raises ContractError, RejectedError, DeliveryError, and
        OutcomeTimeoutError."""
        return await (await self.publish(_document(document, fields))).settled(timeout_s)

    async def publish_many(
        self, documents: Iterable[Mapping[str, Any]], refused: Callable[[int, ContractError], None] | None = None
    ) -> Many:
        """`Publisher.publish_many`, in a thread of its own."""
        return await asyncio.to_thread(_publish_many, self._engine, documents, refused)

    async def dry_run(
        self, document: Mapping[str, Any] | None = None, /, *, foresee: bool = False,
        **fields: Unpack[TransactionFields],
    ) -> Outcome | None:  # fmt: skip
        """`Publisher.dry_run`."""
        return await self._engine.dry_run(_document(document, fields), foresee)

    async def flush(self) -> None:
        """Waits until everything that was handed over is acknowledged. Raises DeliveryError for what was lost."""
        await self._engine.flush()


class Sent:
    """A command that was handed over."""

    def __init__(self, publisher: Publisher, sent: AsyncSent) -> None:
        self._publisher = publisher
        self._sent = sent

    @property
    def command(self) -> Command:
        """What was sent, with its key."""
        return self._sent.command

    @property
    def idempotency_key(self) -> str:
        """Its key, given or made up."""
        return self._sent.idempotency_key

    @property
    def id(self) -> str:
        """The command's id, 32 hexadecimal digits; the same for every try under its key."""
        return self._sent.id

    def acknowledged(self) -> tuple[Place, ...]:
        """Where the log has it. Raises DeliveryError."""
        return self._publisher._run(self._sent.acknowledged())

    def outcome(self, timeout_s: float = TIMEOUT_S) -> Outcome:
        """What became of it, a rejection too. Raises DeliveryError, and OutcomeTimeoutError when it is not there."""
        return self._publisher._run(self._sent.outcome(timeout_s))

    def settled(self, timeout_s: float = TIMEOUT_S) -> Outcome:
        """The same; raises RejectedError when the ledger rejected it."""
        return self._publisher._run(self._sent.settled(timeout_s))


class Publisher:
    """Publishes for a program without asyncio; thread-safe but for `publish_many`, which one thread calls at a time.

    The arguments are those of `AsyncPublisher`. Use it with `with`; what is left at the end of the program is flushed.
    """

    def __init__(
        self, settings: Settings | None = None, *, kafka: str = "", registry: str = "", world: str = "",
        queue_max: int = QUEUE_MAX, give_up_s: float = GIVE_UP_S,
    ) -> None:  # fmt: skip
        self._publisher = AsyncPublisher(
            settings, kafka=kafka, registry=registry, world=world, queue_max=queue_max, give_up_s=give_up_s
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="publisher", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self._run(self._publisher.start())
        except BaseException:
            self._end()
            raise
        atexit.register(self.close)

    def publish(self, document: Mapping[str, Any] | None = None, /, **fields: Unpack[TransactionFields]) -> Sent:
        """Hands one command over: a document, or a transaction's fields. Blocks while too many are unacknowledged.
        Raises ContractError; nothing was sent then."""
        return Sent(self, self._run(self._publisher.publish(_document(document, fields))))

    def settle(
        self, document: Mapping[str, Any] | None = None, /, *, timeout_s: float = TIMEOUT_S,
        **fields: Unpack[TransactionFields],
    ) -> Outcome:  # fmt: skip
        """Publishes one command and waits for its outcome. Raises ContractError, RejectedError, DeliveryError, and
        OutcomeTimeoutError."""
        return self.publish(_document(document, fields)).settled(timeout_s)

    def publish_many(
        self, documents: Iterable[Mapping[str, Any]], refused: Callable[[int, ContractError], None] | None = None
    ) -> Many:
        """Publishes as fast as it goes, in order, and returns when the broker has everything; no outcomes.

        What breaks the contract is left out, and goes to `refused` with its index. Raises DeliveryError.
        """
        return _publish_many(self._publisher._engine, documents, refused)

    def dry_run(
        self, document: Mapping[str, Any] | None = None, /, *, foresee: bool = False,
        **fields: Unpack[TransactionFields],
    ) -> Outcome | None:  # fmt: skip
        """Sends nothing. Raises ContractError as `publish` would. `foresee`: asks the ledger's own rules, on what is
        committed now, what the outcome would be; reading that takes seconds."""
        return self._run(self._publisher.dry_run(_document(document, fields), foresee=foresee))

    def flush(self) -> None:
        """Waits until everything that was handed over is acknowledged. Raises DeliveryError for what was lost."""
        self._run(self._publisher.flush())

    def close(self) -> None:
        """Flushes and ends; does nothing the second time. Raises DeliveryError for what was lost."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._run(self._publisher.close())
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


_REFUSED_MAX = 1_000


def _publish_many(
    engine: Engine, documents: Iterable[Mapping[str, Any]], refused: Callable[[int, ContractError], None] | None
) -> Many:
    many = Many()

    def refuse(index: int, error: ContractError) -> None:
        many.refused_count += 1
        if len(many.refused) < _REFUSED_MAX:
            many.refused.append((index, error))
        if refused is not None:
            refused(index, error)

    many.published = engine.publish_many(documents, refuse)
    return many


def _document(document: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """One of both. Raises TypeError for both or none."""
    if (document is None) == (not fields):
        raise TypeError("give a document or a transaction's fields, one of both")
    return document if document is not None else fields
