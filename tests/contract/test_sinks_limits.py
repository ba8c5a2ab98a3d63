"""Limits and what was used of them in ClickHouse, and the report of it: from the state that a real ledger writes, exact
at the end of each of its batches, whatever dies in between."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from schemas.errors import BadInputError
from schemas.records import Limit, LimitState, PartitionState, UsageState, Used
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import cut as cuts
from sinks.finance.ask import ask_for
from sinks.finance.catalogue import CATALOGUE
from sinks.finance.readers import OWNER, Reader
from sinks.ledger_sink import LedgerSink
from sinks.limit_sink import Gathering, LimitSink
from tests.contract.test_sinks_clickhouse import arrivals
from tests.journals import DAY_MS, START_MS, Line, Maker, local_codec
from tests.sink_child import TOPIC, feed
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

CODEC = local_codec()
STATE = "live.ledger.state@one"
DAY = START_MS // DAY_MS
REPORT = CATALOGUE["limits"]
Sent = tuple[int, int, bytes, bytes | None]


class State:
    """What partitions write to ledger.state, batch by batch: rows, then `meta` for a record of the journal."""

    def __init__(self, lines: list[Line]) -> None:
        self._records = {(x.partition, x.record.sequence): x.record for x in lines}
        self._offsets: dict[int, int] = {}
        self.sent: list[Sent] = []

    def batch(self, partition: int, sequence: int, *rows: LimitState | UsageState | str) -> None:
        """`rows`: records, whose `source_offset` counts back from the batch's last; a text: the key that is deleted."""
        last = self._records[partition, sequence].source_offset
        for row in rows:
            if isinstance(row, str):
                self._send(partition, row.encode(), None)
                continue
            kind = "l" if isinstance(row, LimitState) else "u"
            value = type(row)(row.level, row.subject_id, *row_values(row), last - row.source_offset)
            self._send(partition, f"{kind}:{row.level}:{row.subject_id}".encode(), CODEC.encode(value))
        self._send(partition, b"a:acme:wallet:alice", b"not looked at")
        head = PartitionState(last + 1, sequence, bytes(32), START_MS, 0, 0, 0, 0, 0, 0)
        self._send(partition, b"meta", CODEC.encode(head))

    def _send(self, partition: int, key: bytes, value: bytes | None) -> None:
        offset = self._offsets.get(partition, -1) + 1
        self._offsets[partition] = offset + (key == b"meta")  # a transaction's marker takes an offset
        self.sent.append((partition, offset, key, value))


def row_values(row: LimitState | UsageState) -> tuple[Any]:
    return (row.limits if isinstance(row, LimitState) else row.used,)


def limited(level: str, subject: str, *limits: Limit, back: int = 0) -> LimitState:
    return LimitState(level, subject, limits, back)


def used(level: str, subject: str, *rows: Used, back: int = 0) -> UsageState:
    return UsageState(level, subject, rows, back)


def store(sink: LimitSink, sent: list[Sent]) -> int:
    """One pass of the sink over what is there, from where its table says; as `streams.sink_host` does it."""
    gathering = Gathering(list(sink.positions), CODEC.decode, 0.0, 0.0)
    for p, offset, key, value in sent:
        if offset >= sink.positions.get(p, 0):
            gathering.take(p, offset, START_MS, key, value)
    return sink.write(gathering.due(0.0))


LINES = Maker(11).lines(300)


@pytest.fixture
def config(server: ClickHouseServer) -> ClickHouseConfig:
    c = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(c)
    feed(LedgerSink(c, TOPIC, CODEC), arrivals(LINES), 300)
    return c


def begun(config: ClickHouseConfig) -> LimitSink:
    sink = LimitSink(config, STATE)
    sink.take_over()
    return sink


def said(config: ClickHouseConfig, cut: str = "", **given: str) -> list[dict[str, Any]]:
    db = Database(config, reader=True)
    try:
        return list(ask_for(db, REPORT, given, cut=cut).dicts())
    finally:
        db.close()


def brief(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("subject", "partner", "window", "window_from", "currency", "allowed", "used", "share_bp", "transactions")
    return [tuple(row[n] for n in names) for row in rows]


def source(partition: int, sequence: int) -> int:
    return next(x.record.source_offset for x in LINES if (x.partition, x.record.sequence) == (partition, sequence))


A_DAY = Limit("day", "CNY", None, 1_000_00)
MINUTES = Limit("minute", "", 3, None)


def test_every_batch_is_known_and_nothing_between(config: ClickHouseConfig) -> None:
    """Set, used, set anew, taken away: at each cut what the end of the last batch up to it said."""
    state, sink = State(LINES), begun(config)
    state.batch(0, 5, limited("partner", "acme", A_DAY, MINUTES, back=1))
    state.batch(
        0, 9, used("partner", "acme", Used("day", "CNY", DAY, 2, 333_33), Used("minute", "", DAY * 1440 + 61, 2, 0))
    )
    state.batch(0, 14, limited("partner", "acme", A_DAY), used("partner", "acme", Used("day", "CNY", DAY, 2, 333_33)))
    state.batch(0, 20, "l:partner:acme", "u:partner:acme")
    state.batch(0, 25)
    assert store(sink, state.sent) > 0
    ready = [
        ("acme", "acme", "day", "", "CNY", 1_000_00, 0, 0, 0),
        ("acme", "acme", "minute", "", "", None, None, 0, 0),
    ]
    day = ("acme", "acme", "day", "2026-11-20", "CNY", 1_000_00, 333_33, 3333, 2)
    minute = ("acme", "acme", "minute", "2026-11-20 01:01", "", None, None, 6666, 2)
    wanted = {5: ready, 8: ready, 9: [day, minute], 13: [day, minute], 14: [day], 19: [day], 20: [], 25: []}
    for sequence, rows in wanted.items():
        assert brief(said(config, f"0:{sequence}")) == rows, sequence
    row = said(config, "0:9")[0]
    assert (row["remaining"], row["transactions_allowed"], row["transactions_left"]) == (666_67, None, None)
    assert (row["level"], row["partition"], row["source_offset"]) == ("partner", 0, source(0, 9))
    assert said(config) == []
    for cut, why in (("0:4", "known from 0:5 to 0:25"), ("0:26", "goes to 0:26"), ("1:3", "nowhere in partition 1")):
        with pytest.raises(BadInputError, match=why):
            said(config, cut)


def test_the_head_is_as_far_as_limits_are_in(config: ClickHouseConfig) -> None:
    state = State(LINES)
    assert said(config) == []
    state.batch(0, 5, limited("account", "acme:wallet:alice", Limit("transaction", "CNY", None, 50_00)))
    store(begun(config), state.sent)
    db = Database(config, reader=True)
    found = ask_for(db, REPORT, {})
    assert found.cut.text == "0:5" != cuts.head(db).text
    row = ("acme:wallet:alice", "acme", "transaction", "", "CNY", 50_00, 0, 0, None)
    assert brief(list(found.dicts())) == [row]
    db.close()


def test_at_a_moment_of_booking(config: ClickHouseConfig) -> None:
    """`known_at` takes the state as of the last command that was booked by then."""
    state, sink = State(LINES), begun(config)
    records = {x.record.sequence: x.record for x in LINES if x.partition == 0}
    for sequence in range(1, 31):
        state.batch(0, sequence, limited("partner", "acme", Limit("day", "CNY", None, sequence)))
    store(sink, state.sent)
    db = Database(config, reader=True)
    for sequence in (1, 7, 30):
        at = records[sequence].booked_at
        moment = f"{1970 + 56}-11-20T{at % DAY_MS // 3_600_000:02}:{at // 60_000 % 60:02}:{at % 60_000 / 1000:06.3f}"
        found = [row["allowed"] for row in ask_for(db, REPORT, {}, known_at=moment).dicts()]
        assert found == [max(s for s, r in records.items() if r.booked_at <= at and s <= 30)], moment
    db.close()


def test_whose_limits_a_partner_sees(config: ClickHouseConfig) -> None:
    """Its subtree's, never those above; of a product its own use, with the limits that all have; the document's, too."""
    state = State(LINES)
    month = Limit("month", "CNY", 10, 1_000)
    wallet = limited("product", "wallet", month, A_DAY)
    uses = Used("month", "CNY", 56 * 12 + 10, 9, 500)
    for p in (0, 1):
        state.batch(p, 3, wallet)
    state.batch(0, 6, limited("partner", "acme", A_DAY), limited("partner", "acme/shop-1", A_DAY),
                limited("partner", "acmeother", A_DAY), used("product", "acme wallet", uses))  # fmt: skip
    state.batch(1, 6, used("product", "zeta wallet", uses), used("product", "zeta loan", Used("hour", "USD", 0, 1, 7)))
    store(begun(config), state.sent)

    def seen(**given: str) -> list[tuple[Any, ...]]:
        return [(r["subject"], r["partner"], r["window"], r["share_bp"]) for r in said(config, **given)]

    assert seen(partner="acme/shop-1") == [("acme/shop-1", "acme/shop-1", "day", 0)]
    mine = [("acme", "acme", "day", 0), ("acme/shop-1", "acme/shop-1", "day", 0), ("wallet", "acme", "month", 9000)]
    assert seen(partner="acme") == mine
    loan = ("loan", "zeta", "hour", None)
    assert seen(partner="zeta") == [loan, ("wallet", "zeta", "month", 9000)]
    assert said(config, partner="zeta")[0]["window_from"] == "1970-01-01 00:00"
    assert said(config, partner="zeta")[1]["window_from"] == "2026-11"
    assert seen() == [*mine[:2], ("acmeother", "acmeother", "day", 0), loan, ("wallet", "", "day", 0), mine[2],
                      ("wallet", "zeta", "month", 9000)]  # fmt: skip
    assert seen(subject="wallet", partner="acme") == mine[2:]
    assert OWNER["limit_rows"] == "partner_id"
    db = Database(config)
    own = Reader("r", "acme/shop-1", True).condition("limit_rows")
    assert db.rows(f"SELECT DISTINCT subject_id FROM limit_rows WHERE {own}") == [("acme/shop-1",)]
    db.close()


def test_read_again_from_anywhere_it_is_stored_once(config: ClickHouseConfig, server: ClickHouseServer) -> None:
    """Sinks that end after any record, also in the midst of a batch, come to the rows of one that never did."""
    state = State(LINES)
    for i in range(1, 9):
        for p in range(3):
            spent = used("partner", f"p{p}", Used("day", "CNY", DAY, i, 10 * i))
            state.batch(p, 2 * i, spent if i % 3 else f"u:partner:p{p}", limited("partner", f"p{p}", A_DAY, MINUTES))
    sent = sorted(state.sent, key=lambda x: (x[1], x[0]))
    for end in range(0, len(sent) + 1, 5):
        store(begun(config), sent[:end])
    store(begun(config), sent)
    at_once = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(at_once)
    feed(LedgerSink(at_once, TOPIC, CODEC), arrivals(LINES), 300)
    store(begun(at_once), sent)
    text = (
        "SELECT partition, offset, line, kind, level, subject_id, partner_id, removed, window, currency, start, "
        "transactions, amount, source_offset FROM limit_rows WHERE kind != 'place' ORDER BY partition, offset, line"
    )
    one, two = Database(config), Database(at_once)
    assert one.rows(text) == two.rows(text)
    assert len(one.rows(text)) == 3 * 8 * 2 + 3 * 8
    places = "SELECT partition, min(sequence), max(sequence) FROM limit_rows WHERE kind = 'place' GROUP BY 1 ORDER BY 1"
    assert one.rows(places) == two.rows(places) == [(p, 2, 16) for p in range(3)]
    assert said(config) == said(at_once) != []
    one.close()
    two.close()
    with pytest.raises(BadInputError, match="another world"):
        LimitSink(config, "live.ledger.state@two").take_over()
