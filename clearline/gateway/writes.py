"""Writing: a command goes out once for each try, and every try under its key is answered with the first outcome.

The ledger decides what is a repeat; this only finds the outcome that a repeat points to (memory, Redis, the journal),
keeps calls of one gateway under one key together, and knows that a retry on a later day is the same payload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson
from fastapi.responses import Response

from clearline.gateway import documents, problems
from clearline.gateway.asking import Wait
from clearline.gateway.documents import APPLIED, PENDING, REJECTED, SETTLED, Document
from clearline.gateway.outcomes import Kept, UnderWay, is_payload
from clearline.gateway.parts import Called, Found, Parts, Place
from clearline.gateway.problems import Problem
from ledger.reasons import Reason
from schemas.codec import Codec
from schemas.errors import BadInputError, PartUnavailableError
from schemas.failpoints import failpoint
from schemas.identity import command_id, payload_digest
from schemas.records import COMMANDS, Command, Transaction

STALE_S = 2.0  # a call without an outcome for so long is asked for again by the next try under its key
CONTEST_S = 5  # two payloads under one key at once: for so long the ledger's word is waited for
LOOK_UP_S = 5.0  # for so long a first outcome is looked for in the journal, whoever wants to wait less
POLL_S = 0.05  # how often the journal is looked at for another gateway's transaction between partitions
_JSON_OVERHEAD = 4_096  # a command's record is never this much longer than its JSON

_codec = Codec({kind.__name__: i for i, kind in enumerate(COMMANDS, 1)})


class Asked(NamedTuple):
    """A command of a caller. `undated`: it named no value date, so a retry on a later day is still the same payload."""

    command: Command
    undated: bool = False


class Written(NamedTuple):
    """What a write is answered with. `detail`: what a rejection names; `replayed`: another try was the first."""

    document: Document
    detail: Mapping[str, str]
    replayed: bool

    @property
    def status(self) -> int:
        """The HTTP status."""
        return {PENDING: 202, SETTLED: 201, APPLIED: 201, REJECTED: 422}[self.document["status"]]

    def body(self, parts: Parts) -> Document:
        """The answer's body: the document, or of a rejection the problem around it."""
        if self.document["status"] != REJECTED:
            return self.document
        return rejection(parts, self.document, self.detail)


class _Try:
    """One try of one command on its way through `write_many`."""

    __slots__ = ("cid", "command", "digest", "entry", "first", "undated")

    def __init__(self, asked: Asked) -> None:
        self.command, self.undated = asked
        self.cid = command_id(self.command.partner_id, self.command.idempotency_key)
        self.digest = payload_digest(self.command)
        self.entry: UnderWay | None = None  # the call under this key that it waits for, or its own
        self.first = False  # whether `entry` is its own

    def pending(self, place: Place | None, *, replayed: bool) -> Written:
        """Acknowledged, and no outcome yet."""
        return Written(documents.document(self.command, self.cid.hex(), place, None), {}, replayed)

    def is_of(self, kept: Kept) -> bool:
        """Whether the key names this payload."""
        return kept.names(self.command, self.digest, undated=self.undated)


async def write(parts: Parts, command: Command, wait: Wait, *, undated: bool = False) -> Written:
    """Publishes a command, or answers what is known of it. Returns when the broker has it, or with its outcome.

    Raises Problem for another payload under the key, PartUnavailableError when it was not acknowledged.
    """
    (found,) = await write_many(parts, [Asked(command, undated)], wait)
    if isinstance(found, Exception):
        raise found
    return found


async def write_many(parts: Parts, asked: Sequence[Asked], wait: Wait) -> list[Written | Exception]:
    """The same for many, published in their order, each answered on its own."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait.seconds
    tries = [_Try(a) for a in asked]
    if not wait.seconds:  # nobody will wait for the ledger to say it, so look where another gateway may have put it
        unknown = [t.cid for t in tries if parts.outcomes.get(t.cid) is None]
        await asyncio.gather(*(parts.outcomes.at_hand(cid) for cid in unknown))
    out: list[Written | Exception | None] = [_known(parts, t) for t in tries]
    for i, t in enumerate(tries):
        out[i] = out[i] or too_large(parts, t.command)
    to_publish = [i for i, t in enumerate(tries) if out[i] is None and _is_to_publish(parts, t, loop.time())]
    if to_publish:
        contested = any(not tries[i].first for i in to_publish)
        until = max(deadline, loop.time() + CONTEST_S) if contested else deadline
        published = await _publish(parts, [tries[i] for i in to_publish], until)
        for i, called in zip(to_publish, published, strict=True):
            out[i] = called if isinstance(called, Exception) else _outcome(parts, tries[i], called)
        repeats = [(tries[i], c) for i, c in zip(to_publish, published, strict=True) if out[i] is None]
        found = iter(await asyncio.gather(*(_repeated(parts, t, c, deadline) for t, c in repeats)))
        for i in to_publish:
            out[i] = out[i] or next(found)
    for i, t in enumerate(tries):
        if out[i] is None:
            out[i] = await _answered(_joined(parts, t, deadline))
    return [o for o in out if o is not None]


async def _answered(answer: Any) -> Written | Exception:
    try:
        found: Written = await answer
    except (Problem, PartUnavailableError, BadInputError) as e:
        return e
    return found


async def _repeated(parts: Parts, t: _Try, called: Called | Exception, deadline: float) -> Written | Exception:
    """The answer of a call that turned out to be a repeat. It is over then: who joined it has the same answer."""
    assert isinstance(called, Called)
    answer = await _answered(_again(parts, t, called, deadline))
    if t.first and t.entry is not None:
        parts.outcomes.end(t.cid, t.entry, answer if isinstance(answer, Exception) else parts.outcomes.get(t.cid))
    return answer


def _known(parts: Parts, t: _Try) -> Written | Exception | None:
    """The answer from memory, if the first outcome is there."""
    kept = parts.outcomes.get(t.cid)
    if kept is None:
        return None
    return Written(kept.document, kept.detail, True) if t.is_of(kept) else conflict()


def too_large(parts: Parts, command: Command) -> Problem | None:
    """Why a command is not published: the workers would bury it. Measured exactly only when it may be too large."""
    rough = sum(map(len, _texts(msgspec.structs.astuple(command)))) * 4
    if rough + _JSON_OVERHEAD <= parts.message_bytes_max:
        return None
    size = len(_codec.encode(command))
    if size <= parts.message_bytes_max:
        return None
    return Problem("body_too_large", f"the command has {size} bytes, at most {parts.message_bytes_max} are taken")


def _texts(value: Any) -> list[str]:
    """Every text in a record, and one for each record in it."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for text in pair]
    if isinstance(value, tuple):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, msgspec.Struct):
        return [" " * 16, *_texts(msgspec.structs.astuple(value))]
    return []


def _is_to_publish(parts: Parts, t: _Try, now_s: float) -> bool:
    """Whether a try is published, or waits for the one under its key that is under way. While the broker is slow to
    acknowledge that one it is not asked again: both would wait for the same, and the caller says when it gives up."""
    entry = parts.outcomes.call_of(t.cid)
    if entry is None or (entry.acknowledged.done() and now_s - entry.since >= STALE_S):
        t.entry, t.first = UnderWay(t.command, t.digest, now_s), True
        parts.outcomes.begin(t.cid, t.entry)
        return True
    if entry.names(t.command, t.digest, undated=t.undated):
        t.entry = entry
        return False
    return True


async def _publish(parts: Parts, tries: Sequence[_Try], until: float) -> list[Called | Exception]:
    """Publishes these tries, notes where the log has them, and waits for their replies until then.

    Whoever else waits under their keys is told at the acknowledgement: he may not want to wait as long.
    """
    loop = asyncio.get_running_loop()
    waits = until > loop.time()
    replies = [parts.outcomes.expect(t.command) for t in tries] if waits else []
    called: list[Called | Exception] = [PartUnavailableError("Kafka", "the caller", "it was interrupted")] * len(tries)
    try:
        try:
            failpoint("gateway.before_publish")
            called = await parts.caller.call_many([t.command for t in tries])
            failpoint("gateway.after_publish")
        finally:
            for t, c in zip(tries, called, strict=True):
                _acknowledged(parts, t, c)
        if not waits:
            return called
        wanted = [r for r, c in zip(replies, called, strict=True) if isinstance(c, Called) and not r.done()]
        if wanted and (left := until - loop.time()) > 0:
            await asyncio.wait(wanted, timeout=left)
        failpoint("gateway.after_outcome")
        return [
            Called(c.places, r.result()) if isinstance(c, Called) and r.done() else c
            for r, c in zip(replies, called, strict=True)
        ]
    finally:
        for t in tries if waits else ():
            parts.outcomes.dismiss(t.command)


def _acknowledged(parts: Parts, t: _Try, called: Called | Exception) -> None:
    """Tells who waits for the call under this key, when it is this try's."""
    if not t.first or t.entry is None:
        return
    if isinstance(called, Exception):
        parts.outcomes.end(t.cid, t.entry, called)
        return
    t.entry.place = called.places[0]
    if not t.entry.acknowledged.done():
        t.entry.acknowledged.set_result(None)


def _outcome(parts: Parts, t: _Try, called: Called) -> Written | None:
    """The answer, when the call needs no further look: its own outcome, or none yet."""
    if called.reply is None:
        return t.pending(called.places[0], replayed=False)
    outcome = documents.of_reply(called.reply)
    if outcome is None:
        return None
    kept = parts.outcomes.keep(t.command, outcome)
    return Written(kept.document, kept.detail, False)


async def _again(parts: Parts, t: _Try, called: Called, deadline: float) -> Written:
    """The answer of a repeat, or of what the ledger took for another payload under the key.

    Raises Problem("idempotency_conflict").
    """
    reply = called.reply
    assert reply is not None
    first = Place(reply.partition, reply.first_offset)
    if reply.reason != Reason.IDEMPOTENCY_CONFLICT:
        return await _first(parts, t, first, deadline)
    if not t.undated or not isinstance(t.command, Transaction):
        raise conflict()
    found = await parts.finder.at(*first)
    if found is None or not isinstance(found.command, Transaction):
        raise conflict()
    day = found.command.value_date
    if not is_payload(t.command, t.digest, found.record.payload_digest, day, undated=True):
        raise conflict()
    # The same payload, but for the day of the first try: asked again under that day it is a repeat, and booked as one.
    same = _Try(Asked(msgspec.structs.replace(t.command, value_date=day)))
    loop = asyncio.get_running_loop()
    (again,) = await _publish(parts, [same], max(deadline, loop.time() + CONTEST_S))
    if isinstance(again, Exception):
        raise again
    if again.reply is None:
        return same.pending(first, replayed=True)
    if again.reply.outcome == "repeated":
        return await _first(parts, same, Place(again.reply.partition, again.reply.first_offset), deadline)
    raise conflict()


async def _first(parts: Parts, t: _Try, place: Place, deadline: float) -> Written:
    """The answer that the first try at this place had, or will have."""
    kept = await parts.outcomes.at_hand(t.cid)
    if kept is not None and kept.place == place:
        return Written(kept.document, kept.detail, True)
    loop = asyncio.get_running_loop()
    while True:
        found = await _looked_up(parts, place, max(deadline - loop.time(), LOOK_UP_S))
        written = _replay(parts, found) if found is not None else None
        if written is not None:
            return written
        left = deadline - loop.time()
        if left <= 0:
            return t.pending(place, replayed=True)
        entry = parts.outcomes.call_of(t.cid)
        same = entry is not t.entry and entry is not None and entry.names(t.command, t.digest, undated=t.undated)
        if same and entry is not None:
            kept = await _done(entry, min(left, STALE_S))
            if kept is not None:
                return Written(kept.document, kept.detail, True)
        else:
            await asyncio.sleep(min(left, POLL_S))


async def _looked_up(parts: Parts, place: Place, seconds: float) -> Found | None:
    """What the journal has of the command at this place; None as well when it was not found in this time. A search that
    takes longer goes on in its thread, and nobody hears of it."""
    search = asyncio.ensure_future(parts.finder.at(*place))
    search.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may be nobody's when it fails
    done, _ = await asyncio.wait((search,), timeout=seconds)
    return search.result() if done else None


def _replay(parts: Parts, found: Found) -> Written | None:
    """The answer in what the journal has, when that is final."""
    kept = keep_found(parts, found)
    if kept is not None:
        return Written(kept.document, kept.detail, True)
    outcome = documents.of_record(found.record)
    if outcome is None:
        return None
    return Written(documents.document_of_record(found.record), dict(sorted(outcome.detail.items())), True)


def keep_found(parts: Parts, found: Found) -> Kept | None:
    """Keeps what was looked up, when it is final and the log still has the command."""
    outcome = documents.of_record(found.record)
    return parts.outcomes.keep(found.command, outcome) if outcome is not None and found.command is not None else None


async def _joined(parts: Parts, t: _Try, deadline: float) -> Written:
    """The answer of a try that another one under its key came before, in this gateway."""
    entry = t.entry
    assert entry is not None
    error = await asyncio.shield(entry.acknowledged)
    if error is not None:
        raise error  # nobody knows whether the log has it; the next try asks
    left = deadline - asyncio.get_running_loop().time()
    kept = await _done(entry, left) if left > 0 or entry.done.done() else None
    if kept is not None:
        return Written(kept.document, kept.detail, True)
    return _Try(Asked(entry.command)).pending(entry.place, replayed=True)


async def _done(entry: UnderWay, seconds: float) -> Kept | None:
    await asyncio.wait((entry.done,), timeout=max(0.0, seconds))
    found = entry.done.result() if entry.done.done() else None
    if isinstance(found, Exception):
        raise found
    return found


def conflict() -> Problem:
    """Another payload under the key."""
    return Problem("idempotency_conflict", "Idempotency-Key: a key names one payload, and this one names another")


# ---- answers ---------------------------------------------------------------------------------------------------------


def rejection(parts: Parts, document: Document, detail: Mapping[str, str]) -> Document:
    """The problem of a rejected command. Its `instance` is the command itself, so a repeat has the same body."""
    reason, detail = document["reason"], documents.told(detail, document["partner_id"])
    problem = Problem(
        reason,
        documents.sentence(reason, detail),
        more={"reason_detail": detail, "transaction": document},
    )
    return problems.document(problem, parts.base_url, document["links"]["self"])


def answer(parts: Parts, written: Written, wait: Wait, location: str = "") -> Response:
    """The response to one write. `location`: of what it made; the command's own unless given."""
    status = written.status
    headers = wait.headers
    if status in (201, 202):
        headers["Location"] = location or written.document["links"]["self"]
    if status == 202:
        headers["Retry-After"] = "1"
    if written.replayed:
        headers["Idempotent-Replayed"] = "true"
    media = problems.MEDIA_TYPE if status == 422 else "application/json"
    return Response(orjson.dumps(written.body(parts)), status, headers, media)
