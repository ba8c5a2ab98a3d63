"""Bugs put in on purpose, each in the place of one function of the system. The simulation has to find every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sinks.balances
import streams.core
import streams.reader
import streams.recovery
from ledger.state import Draft
from processors.settlement import Part, Settlement
from sinks.ledger_sink import LedgerSink
from streams.core import TransactionalCore
from streams.sink_host import _Follower

Places = list[tuple[Any, str, Any]]

_core: Any = streams.core
_recovery: Any = streams.recovery
_reader: Any = streams.reader
_commit, _begin, _merge = TransactionalCore._commit, TransactionalCore._begin, _core.merge
_finish, _read = TransactionalCore._finish, _recovery.read_to_end
_recover = _core.recover


def merged_before_the_commit_returned() -> Places:
    """The drafts become the state, and then the commit fails."""

    def finish(core: Any, t: Any) -> None:
        _merge(t.batch)
        if not _commit(core, t):
            core._pending = t.messages + core._pending

    return [(TransactionalCore, "_finish", finish)]


def aborted_batch_is_merged() -> Places:
    """What an aborted transaction did stays in the state; its messages are not settled again."""

    def finish(core: Any, t: Any) -> None:
        _commit(core, t)
        _merge(t.batch)

    return [(TransactionalCore, "_finish", finish)]


def aborted_batch_is_not_tried_again() -> Places:
    """The messages of an aborted batch are forgotten."""

    def finish(core: Any, t: Any) -> None:
        if _commit(core, t):
            _merge(t.batch)

    return [(TransactionalCore, "_finish", finish)]


def following_draft_does_not_stand_on_the_one_before() -> Places:
    """A batch is settled on the committed state while the one before it is being committed."""

    def begin(core: Any, messages: Any, under: Any) -> Any:
        return _begin(core, messages, None)

    return [(TransactionalCore, "_begin", begin)]


def following_batch_is_kept_when_the_one_before_is_aborted() -> Places:
    """What was settled on top of an aborted batch is committed all the same."""

    def commit_and_follow(core: Any, current: Any) -> Any:
        core._open = current
        more = core._gather(wait=False) if len(current.messages) >= streams.core._OVERLAP_RECORDS_MIN else []
        by_rebalance, core._open = core._open is None, None
        if by_rebalance or not more:
            core._pending = more + core._pending
            if not by_rebalance:
                core._finish(current)
            return None
        core._flush(current)
        following = core._begin(more, current)
        committed = core._commit(current)
        core._await_settled(following)
        if committed:
            _merge(current.batch)
        else:
            core._pending = current.messages + core._pending
        return following

    return [(TransactionalCore, "_commit_and_follow", commit_and_follow)]


def records_are_not_flushed_before_the_next_batch() -> Places:
    """Two producers send at the same time, and between them there is no order."""
    return [(TransactionalCore, "_flush", lambda core, t: None)]


def unknown_outcome_taken_for_committed() -> Places:
    """No answer to a commit is taken for a good one."""
    return [(TransactionalCore, "_commit", _with_unknown(True))]


def unknown_outcome_tried_again() -> Places:
    """No answer to a commit: the producer is used again, and the batch settled anew."""
    return [(TransactionalCore, "_commit", _with_unknown(False))]


def _with_unknown(taken_for: bool) -> Callable[[Any, Any], bool]:
    def commit(core: Any, t: Any) -> bool:
        try:
            return _commit(core, t)
        except streams.core.CoreDroppedError:
            t.producer._begun = False
            return taken_for

    return commit


def offsets_not_in_the_transaction() -> Places:
    """The input offsets are not sent with the outputs."""

    def commit(core: Any, t: Any) -> bool:
        t.offsets = []
        return _commit(core, t)

    return [(TransactionalCore, "_commit", commit)]


def not_waited_for_stable_offsets() -> Places:
    """A take-over goes by what it sees, while its predecessor's transaction is still open."""

    def committed(core: Any, consumer: Any, partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, -1001)

    return [(TransactionalCore, "_committed", committed), (streams.reader, "_spans", _stable_spans)]


def _stable_spans(kafka: Any, topic: str, settings: Any) -> dict[int, tuple[int, int]]:
    reader = _reader
    consumer = reader.Consumer(kafka.consumer("clearline-reader"))
    found: dict[int, tuple[int, int]] = {
        p: reader._span(consumer, kafka, topic, p) for p in reader.partitions_of(consumer, kafka, topic)
    }
    consumer.close()
    return found


def every_worker_has_its_own_transactional_id() -> Places:
    """Nobody is fenced, and the last row of the state counts: a zombie's batch stands beside its successor's."""
    count = iter(range(10**9))

    def new_producer(core: Any, i: int) -> Any:
        settings = core.kafka.producer(
            transactional_id=f"fresh-{next(count)}", transaction_timeout_ms=core.options.transaction_timeout_ms
        )
        producer = _core.Producer(settings)
        producer.init_transactions(3.0)
        return producer

    def send(producer: Any, offsets: Any, group: Any, timeout: float) -> None:
        """No generation is looked at, as when offsets are committed without the group's metadata."""
        while producer._broker.busy(producer._id):
            producer._sim.sleep(0.003)
        t = producer._broker.in_transaction(producer._id, producer._epoch, producer._timeout_s)
        if t is not None:
            producer._broker.keep_offsets(t, {tp.partition: tp.offset for tp in offsets})

    from tests.simulation.world.clients import Producer

    return [(TransactionalCore, "_new_producer", new_producer), (Producer, "send_offsets_to_transaction", send)]


def keys_not_remembered_after_a_take_over() -> Places:
    """The idempotency keys are not read back."""

    def recover(*args: Any, **kwargs: Any) -> Any:
        ledgers = _recover(*args, **kwargs)
        for ledger in ledgers:
            ledger.keys = type(ledger.keys)(ledger.base.entries._span_ms * 4)
        return ledgers

    return [(streams.core, "recover", recover)]


def first_row_of_the_state_counts() -> Places:
    """A take-over keeps the oldest row of an account."""

    def read(kafka: Any, topic: str, start: Any = None) -> Iterator[Any]:
        seen: set[Any] = set()
        for r in _read(kafka, topic, start):
            account = r.key is not None and r.key.startswith(b"a:")
            if not account or (r.partition, r.key) not in seen:
                seen.add((r.partition, r.key))
                yield r

    return [(streams.recovery, "read_to_end", read)]


def keys_of_the_draft_below_not_seen() -> Places:
    """A repeat in the next batch is settled twice when the first one is not committed yet."""

    def remember(settlement: Any, part: Part, ids: list[bytes], event_time: int) -> None:
        draft: Draft = part.draft
        draft.keys.clear()
        draft.keys.update(part.index.find(ids, event_time))

    return [(Settlement, "_remember", remember)]


def sink_does_not_read_back() -> Places:
    """What an insert brought is believed."""
    return [(LedgerSink, "_prove", lambda sink, table, expected: None)]


def sink_inserts_torn_batches_again() -> Places:
    """What a torn batch had already brought is not left out."""

    def read_torn(sink: Any, table: str) -> dict[int, Any]:
        return {}

    return [(LedgerSink, "_read_torn", read_torn), (LedgerSink, "_check_totals", lambda sink: None),
            (LedgerSink, "_prove", lambda sink, table, expected: None)]  # fmt: skip


def sink_does_not_fence() -> Places:
    """An insert of a sink that was replaced lands beside its successor's."""
    import sinks.ledger_sink
    from tests.simulation.world.stores import Database

    insert = Database.insert

    def unchecked(db: Any, table: str, columns: Any, data: Any) -> None:
        if table in db._tables.checks:
            db._tables.checks[table].clear()
        insert(db, table, columns, data)

    runs = iter(range(1, 10**9))
    return [(sinks.ledger_sink, "take_over", lambda db, tables: next(runs)), (Database, "insert", unchecked)]


def older_balance_overwrites_newer() -> Places:
    """Redis takes whatever comes."""
    script = sinks.balances._APPLY
    changed = script.replace("<= tonumber(string.match(value, '^%d+'))", ">= 0")
    assert changed != script
    return [(sinks.balances, "_APPLY", changed)]


def redis_sink_does_not_look_at_its_marker() -> Places:
    """What Redis has forgotten is never built up again."""

    def apply(text: str) -> str:
        return text.replace("if m[1] ~= ARGV[1] then return -1 end", "if not m[2] then m = {'', '0', '0'} end").replace(
            "if tonumber(m[2]) < tonumber(ARGV[2]) then return -2 end", ""
        )

    return [(sinks.balances, "_APPLY", apply(sinks.balances._APPLY)), (_Follower, "_markers_stand", lambda f: True)]


BUGS: dict[str, Callable[[], Places]] = {
    bug.__name__: bug
    for bug in (
        merged_before_the_commit_returned, aborted_batch_is_merged, aborted_batch_is_not_tried_again,
        following_draft_does_not_stand_on_the_one_before, following_batch_is_kept_when_the_one_before_is_aborted,
        records_are_not_flushed_before_the_next_batch, unknown_outcome_taken_for_committed,
        unknown_outcome_tried_again, offsets_not_in_the_transaction, not_waited_for_stable_offsets,
        every_worker_has_its_own_transactional_id, keys_not_remembered_after_a_take_over,
        first_row_of_the_state_counts, keys_of_the_draft_below_not_seen, sink_does_not_read_back,
        sink_inserts_torn_batches_again, sink_does_not_fence, older_balance_overwrites_newer,
        redis_sink_does_not_look_at_its_marker,
    )
}  # fmt: skip


@contextmanager
def put_in(name: str) -> Iterator[None]:
    """The system with this bug, until the end of the block."""
    places = BUGS[name]()
    before = [(where, attribute, getattr(where, attribute)) for where, attribute, _ in places]
    try:
        for where, attribute, value in places:
            setattr(where, attribute, value)
        yield
    finally:
        for where, attribute, value in before:
            setattr(where, attribute, value)
