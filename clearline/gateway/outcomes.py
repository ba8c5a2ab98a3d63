"""What this gateway knows of commands: outcomes that are final, and its own calls that are under way.

Memory of a gateway, never the truth: an entry is made from a reply or a journal record, and only what is final is
answered from it. Nothing here survives a kill, and nothing needs to.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import structlog

from clearline.config import Settings
from clearline.gateway import documents
from clearline.gateway.documents import Document, Outcome
from clearline.gateway.parts import Gate
from schemas.errors import PartUnavailableError
from schemas.identity import command_id, payload_digest
from schemas.records import Command, Reply, Transaction
from streams.calls import Called, Place

log = structlog.get_logger()

FINAL_MAX = 50_000  # about 1.5 KB each
UNDER_WAY_MAX = 50_000
_WRITE_MAX = 500  # outcomes that go to Redis together


class Kept(NamedTuple):
    """A final outcome. `digest`: of the payload that the key names; `value_date`: what was asked for, in days since
    1970-01-01, -1 for a command that has none; `booked_at`: milliseconds UTC; `detail`: what a rejection names."""

    digest: bytes
    value_date: int
    booked_at: int
    document: Document
    detail: dict[str, str]

    def names(self, command: Command, digest: bytes, *, undated: bool) -> bool:
        """Whether a command is this payload. `undated`: its caller named no value date, so it is of the first day."""
        return is_payload(command, digest, self.digest, self.value_date, undated=undated)

    @property
    def place(self) -> Place:
        """Where the log has the command."""
        position = self.document["position"]
        return Place(position["partition"], position["offset"])

    def stored(self) -> dict[str, Any]:
        """As it is kept in Redis."""
        return {
            "digest": self.digest.hex(), "value_date": self.value_date, "booked_at": self.booked_at,
            "document": self.document, "detail": self.detail,
        }  # fmt: skip

    @classmethod
    def read(cls, stored: dict[str, Any]) -> Kept | None:
        """What `stored` made; None when it is something else."""
        try:
            return cls(
                bytes.fromhex(stored["digest"]), stored["value_date"], stored["booked_at"], stored["document"],
                dict(stored["detail"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            return None


class UnderWay:
    """A call of this gateway that has no outcome yet. `acknowledged` is set when the broker has it, with the error when
    the call failed. `done` is set when nothing more is to come: the outcome under the key, or why this payload has
    none, or None when others have to find it."""

    __slots__ = ("acknowledged", "command", "digest", "done", "place", "since")

    def __init__(self, command: Command, digest: bytes, now_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.command, self.digest, self.since = command, digest, now_s
        self.place: Place | None = None
        self.acknowledged: asyncio.Future[Exception | None] = loop.create_future()
        self.done: asyncio.Future[Kept | Exception | None] = loop.create_future()

    def names(self, command: Command, digest: bytes, *, undated: bool) -> bool:
        """Whether a command is this payload."""
        own = self.command.value_date if isinstance(self.command, Transaction) else -1
        return is_payload(command, digest, self.digest, own, undated=undated)


def is_payload(command: Command, digest: bytes, wanted: bytes, value_date: int, *, undated: bool) -> bool:
    """Whether the command has the wanted digest, or would have it on the day of the first try when it named none."""
    if digest == wanted:
        return True
    if not undated or not isinstance(command, Transaction) or value_date < 0:
        return False
    return payload_digest(msgspec.structs.replace(command, value_date=value_date)) == wanted


def keep_ms(settings: Settings) -> int:
    """For how long outcomes are kept, in milliseconds: never longer than the ledger keeps the key."""
    hours = min(settings.gateway.outcome_hours, 24 * settings.settlement.idempotency_days)
    return hours * 3_600_000


class Outcomes:
    """Both tables, by command id. Used in the event loop only.

    `now_ms`: the wall clock. An outcome is forgotten `keep_ms` after it was booked, whoever kept it meanwhile: one that
    is remembered for longer than the ledger remembers the key would be given to another transaction under it.
    """

    def __init__(self, gate: Gate, now_ms: Callable[[], int], keep_ms: int, final_max: int = FINAL_MAX) -> None:
        self._gate = gate
        self._now_ms, self._keep_ms = now_ms, keep_ms
        self._final_max = final_max
        self._final: OrderedDict[bytes, Kept] = OrderedDict()
        self._under_way: dict[bytes, UnderWay] = {}
        self._newest: dict[int, int] = {}
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._to_write: list[tuple[bytes, dict[str, Any]]] = []
        self._writing: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._final)

    @property
    def under_way(self) -> int:
        """Calls without an outcome yet."""
        return len(self._under_way)

    def newest(self, partition: int) -> int:
        """The highest offset in a partition of a command whose outcome this gateway has seen; -1 for none."""
        return self._newest.get(partition, -1)

    def get(self, cid: bytes) -> Kept | None:
        """The final outcome of a command, if it is in memory."""
        found = self._final.get(cid)
        if found is None:
            return None
        if self._is_old(found):
            del self._final[cid]
            return None
        self._final.move_to_end(cid)
        return found

    async def at_hand(self, cid: bytes) -> Kept | None:
        """The same from memory or from Redis."""
        found = self.get(cid)
        if found is None:
            stored = await self._gate.outcome(cid)
            found = Kept.read(stored) if stored is not None else None
            if found is None or self._is_old(found):
                return None
            self._put(cid, found)
        return found

    def call_of(self, cid: bytes) -> UnderWay | None:
        """The call of this gateway that is under way under a command id."""
        return self._under_way.get(cid)

    def begin(self, cid: bytes, entry: UnderWay) -> None:
        """A call is about to be published, in place of an older one under its key that nothing was heard of. The oldest
        of all are forgotten when there are too many: others find them, once the broker has them."""
        former = self._under_way.pop(cid, None)
        if former is not None:
            self._forget(cid, former)
        self._under_way[cid] = entry
        if len(self._under_way) > UNDER_WAY_MAX:
            oldest = next(iter(self._under_way))
            self._forget(oldest, self._under_way[oldest])

    def _forget(self, cid: bytes, entry: UnderWay) -> None:
        """Who waits for the acknowledgement is told that there is none: it must not be taken for one."""
        if not entry.acknowledged.done():
            entry.acknowledged.set_result(PartUnavailableError("Kafka", "the caller", "nothing was acknowledged yet"))
        self.end(cid, entry, None)

    def end(self, cid: bytes, entry: UnderWay, with_: Kept | Exception | None) -> None:
        """Nothing more is to come of a call. Who waits is told what there is."""
        if self._under_way.get(cid) is entry:
            del self._under_way[cid]
        if not entry.acknowledged.done():
            entry.acknowledged.set_result(with_ if isinstance(with_, Exception) else None)
        if not entry.done.done():
            entry.done.set_result(with_)

    def expect(self, command: Command) -> asyncio.Future[Reply]:
        """The reply to this very call, when it comes. Give it back with `dismiss`."""
        future = self._replies[id(command)] = asyncio.get_running_loop().create_future()
        return future

    def dismiss(self, command: Command) -> None:
        """Nobody waits for the reply to this call any more."""
        self._replies.pop(id(command), None)

    def kept(self, command: Command, called: Called) -> None:
        """Takes the outcome of a call: what the caller tells whoever keeps them."""
        reply = called.reply
        if reply is None:
            return
        outcome = documents.of_reply(reply)
        waits = self._replies.get(id(command))
        if outcome is not None:
            self.keep(command, outcome)
        elif waits is None:  # a repeat, and nobody who will look up what it repeats
            cid = reply.command_id
            entry = self._under_way.get(cid)
            if entry is not None and entry.command is command:
                self.end(cid, entry, None)
        if waits is not None and not waits.done():
            waits.set_result(reply)

    def keep(self, command: Command, outcome: Outcome) -> Kept:
        """Keeps a final outcome, here and in Redis, and tells who waits for it."""
        cid = command_id(command.partner_id, command.idempotency_key)
        partition, offset = outcome.place
        if offset > self._newest.get(partition, -1):
            self._newest[partition] = offset
        entry = self._under_way.get(cid)
        known = self._final.get(cid)
        if known is not None and known.place == outcome.place:
            self._answered(cid, entry, known)
            return known
        # The entry's own digest, when it is of this very command: hashing a payload costs more than comparing.
        digest = entry.digest if entry is not None and entry.command is command else payload_digest(command)
        kept = Kept(
            digest,
            command.value_date if isinstance(command, Transaction) else -1,
            outcome.booked_at,
            documents.document(command, cid.hex(), None, outcome),
            dict(sorted(outcome.detail.items())),
        )
        self._put(cid, kept)
        self._to_write.append((cid, kept.stored()))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())
        self._answered(cid, entry, kept)
        return kept

    async def flush(self, timeout_s: float = 2.0) -> None:
        """Waits for what is on its way to Redis."""
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=timeout_s)

    async def _write(self) -> None:
        """Brings outcomes to Redis: what comes while some are on their way goes together, the next time."""
        while self._to_write:
            some, self._to_write = self._to_write[:_WRITE_MAX], self._to_write[_WRITE_MAX:]
            try:
                await self._gate.keep_outcomes(some)
            except Exception as e:  # these are not at hand for other gateways; the journal has them
                log.error("outcomes_not_kept", error=f"{type(e).__name__}: {e}")
        self._writing = None

    def _is_old(self, kept: Kept) -> bool:
        return self._now_ms() - kept.booked_at > self._keep_ms

    def _answered(self, cid: bytes, entry: UnderWay | None, kept: Kept) -> None:
        if entry is not None and entry.digest == kept.digest:
            self.end(cid, entry, kept)

    def _put(self, cid: bytes, kept: Kept) -> None:
        self._final[cid] = kept
        self._final.move_to_end(cid)
        if len(self._final) > self._final_max:
            self._final.popitem(last=False)
