"""The close of a day against the real ClickHouse and the real ledger: one seal, however often it is cut short, whoever
gives it, whatever comes late; and any row that is altered is named."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from typing import Any

import pytest

from clearline.audit.views import JOURNAL
from clearline.control import RejectedError
from clearline.finance import close as closing
from clearline.finance.close import EPOCH, Close, Closed
from clearline.outcomes import Outcome, outcome_of
from schemas import failpoints
from schemas.errors import BadInputError, DifferenceFoundError, PartUnavailableError
from schemas.failpoints import FailPointError
from schemas.identity import command_id
from schemas.records import AdmitPartner, CloseDay, Command, OpenAccount, Posting, Transaction
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import closes, cut
from sinks.ledger_sink import Arrival, LedgerSink
from tests.faults.memory_world import MemoryWorld
from tests.sink_child import TOPIC
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

PARTITIONS = 3
ROOTS = ("acme", "globex", "stark", "zeta")
MS_A_DAY = 86_400_000


@dataclass
class Bank:
    """The ledger in memory, and a sink that brings its journal into ClickHouse when it is told to."""

    config: ClickHouseConfig
    world: MemoryWorld = field(default_factory=lambda: MemoryWorld(PARTITIONS))
    sinking: bool = True
    keys: int = 0
    writer: LedgerSink | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.db = Database(self.config)
        for root in ROOTS:
            self.world.publish(AdmitPartner("bank", f"admit-{root}", root))
            for currency in ("CNY", "JPY"):
                for name in ("a", "b"):
                    self.world.publish(
                        OpenAccount("bank", self.key(), f"{root}:{name}:{currency}", "liability", currency)
                    )
        self.trade()

    @property
    def today(self) -> int:
        return self.world.now_ms // MS_A_DAY

    def key(self) -> str:
        self.keys += 1
        return f"k-{self.keys}"

    def pay(self, root: str, amount: int, day: int, currency: str = "CNY", operation: str = "transfer") -> str:
        key = self.key()
        legs = (Posting(f"{root}:a:{currency}", "debit", amount), Posting(f"{root}:b:{currency}", "credit", amount))
        note, by = ("mistyped", "bank") if operation == "adjustment" else ("", root)
        self.world.publish(Transaction(by, key, "", operation, 0, currency, {}, legs, day, note=note))
        return key

    def trade(self) -> None:
        """Payments of several days, also of days to come."""
        for i, root in enumerate(ROOTS * 5):
            self.pay(root, 100 + i, self.today - i % 3 + (i % 7 == 0), ("CNY", "JPY")[i % 2])
        self.settle()

    def settle(self) -> None:
        self.world.settle()
        if self.sinking:
            self.sink()

    def sink(self) -> None:
        if self.writer is None:
            self.writer = LedgerSink(self.config, TOPIC, self.world.codec)
            self.writer.take_over()
        at = {p: x.next_offset for p, x in self.writer.positions.items()}
        records = [(p, r) for p in range(PARTITIONS) for r in self.world.log.topic(JOURNAL, p)]
        self.writer.write([Arrival(p, r.offset, r.value) for p, r in records if r.offset >= at.get(p, 0)])

    def ask(self, command: Command) -> list[Outcome]:
        """Gives a command, as `clearline.control.ask` does."""
        with self.lock:
            before = [len(self.world.log.topic(JOURNAL, p)) for p in range(PARTITIONS)]
            self.world.publish(command)
            self.settle()
            cid = command_id(command.partner_id, command.idempotency_key)
            return [
                outcome_of(r)
                for p in range(PARTITIONS)
                for r in self.world.records(p)[before[p] :]
                if r.command_id == cid
            ]

    def close(self, day: int, by: str = "li", ask: Callable[[Command], list[Outcome]] | None = None) -> Closed:
        """The day, in days since 1970, closed by somebody."""
        db = Database(self.config, reader=True)
        try:
            command = CloseDay("bank", f"close-{day}-{by}", day, by, "end of day")
            return Close(db, ask or self.ask, PARTITIONS, stall_s=0.2).run(command)
        finally:
            db.close()

    def sequences(self) -> list[int]:
        return [len(self.world.log.topic(JOURNAL, p)) for p in range(PARTITIONS)]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.db.rows(query)

    def by_hand(self, day: int) -> dict[tuple[int, str], tuple[int, int, int]]:
        """Debits, credits and postings from the journal's records until the first close of that day or a later one."""
        out: dict[tuple[int, str], list[int]] = {}
        for p in range(PARTITIONS):
            for r in self.world.records(p):
                for leg in r.postings if r.value_date <= day else ():
                    mine = out.setdefault((p, leg.currency), [0, 0, 0])
                    mine[leg.side == "credit"] += leg.amount
                    mine[2] += 1
                if r.command == "CloseDay" and r.outcome == "applied" and r.subject_id >= iso(day).isoformat():
                    break
        return {k: (v[0], v[1], v[2]) for k, v in out.items()}


def iso(day: int) -> date:
    return date.fromordinal(EPOCH.toordinal() + day)


@pytest.fixture
def bank(server: ClickHouseServer) -> Iterator[Bank]:
    config = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    b = Bank(config)
    yield b
    failpoints.arm("")
    b.db.close()


def totals_of(done: Closed) -> dict[tuple[int, str], tuple[int, int, int]]:
    return {(t.partition, t.currency): (t.debits, t.credits, t.postings) for t in done.figures.totals}


def test_a_close_seals_what_the_journal_has_and_both_carry_it(bank: Bank):
    day = bank.today - 1
    done = bank.close(day)
    assert totals_of(done) == bank.by_hand(day)
    assert len({p for p, _ in totals_of(done)}) == PARTITIONS, "the test has something in every partition"
    f = done.figures
    assert f.hash == sha256(f.text.encode()).hexdigest()
    assert json.loads(f.text)["day"] == iso(day).isoformat()
    for p in range(PARTITIONS):
        sealing = bank.world.records(p)[-1]
        assert (sealing.command, sealing.outcome, sealing.subject_id) == ("SealDay", "applied", str(iso(day)))
        assert sealing.changes == {
            "day": str(iso(day)), "hash": f.hash, "cut": f.cut.text, "figures": f.text, "requested_by": "li",
            "note": "end of day",
        }  # fmt: skip
    rows = bank.rows(
        "SELECT partition, currency, debits, credits, postings, lower(hex(hash)), sequence, journal_offset, by "
        f"FROM closes WHERE closed_day = '{iso(day)}' ORDER BY partition, currency"
    )
    places = f.cut.places
    assert rows == [
        (p, c, *sums, f.hash, places[p].sequence, places[p].journal_offset, "li")
        for (p, c), sums in sorted(bank.by_hand(day).items())
    ]
    assert cut.closed(bank.db, iso(day)) == f.cut, "what --closed asks for is this cut"
    bank.world.seal()
    verdict = bank.world.verify()
    assert verdict.ok, verdict.lines()
    assert verdict.check("closes").figures == {"sealed": PARTITIONS}


def test_closing_again_changes_nothing_and_says_the_same(bank: Bank):
    day = bank.today - 1
    first = bank.close(day)
    before = bank.sequences()
    assert bank.close(day) == first
    assert bank.close(day, by="wang").to_dict() == first.to_dict()
    assert bank.sequences() == before


@pytest.mark.parametrize("at", failpoints.CLOSE)
def test_cut_short_anywhere_and_given_again_it_comes_to_the_same_end(bank: Bank, at: str):
    day = bank.today - 1
    failpoints.arm(f"{at}=raise")
    with pytest.raises(FailPointError):
        bank.close(day)
    failpoints.arm("")
    bank.trade()
    done = bank.close(day, by="wang")
    assert totals_of(done) == bank.by_hand(day)
    assert done.first.by == "li", "whoever gave it first closed it"
    assert closing.verify(bank.db, iso(day)) == []
    assert [r.outcome for r in bank.world.records(0) if r.command == "SealDay"].count("applied") == 1
    assert bank.close(day) == done


def test_a_publisher_that_died_between_partitions_is_made_up_for(bank: Bank):
    """Each of the two commands reaches one partition only, then the process is gone."""

    def half(command: Command) -> list[Outcome]:
        value = bank.world.codec.encode(command)
        bank.world.publish_bytes(1, b"bank", value)
        bank.settle()
        raise KeyboardInterrupt

    day = bank.today - 1
    with pytest.raises(KeyboardInterrupt):
        bank.close(day, ask=half)
    calls: list[str] = []

    def second_half(command: Command) -> list[Outcome]:
        calls.append(type(command).__name__)
        return bank.ask(command) if calls == ["CloseDay"] else half(command)

    bank.trade()
    with pytest.raises(KeyboardInterrupt):
        bank.close(day, by="wang", ask=second_half)
    assert closes.seals(bank.db, iso(day))[0].partitions == (1,)
    done = bank.close(day, by="zhou")
    assert totals_of(done) == bank.by_hand(day)
    assert closes.seals(bank.db, iso(day))[0].partitions == (0, 1, 2)
    assert bank.world.verify().check("closes").ok


def test_two_operators_at_once_come_to_one_seal(bank: Bank):
    """Their commands reach the partitions in another order: each closes some of them, and both tell one seal."""
    day = bank.today - 1
    done: list[Closed] = []
    meet = threading.Barrier(2, timeout=30)

    def operator(by: str) -> None:
        def ask(command: Command) -> list[Outcome]:
            meet.wait()
            return bank.ask(command)

        done.append(bank.close(day, by, ask))

    threads = [threading.Thread(target=operator, args=(by,)) for by in ("li", "wang")]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(done) == 2
    assert done[0] == done[1]
    assert len(closes.seals(bank.db, iso(day))) == 1
    assert totals_of(done[0]) == bank.by_hand(day)


def test_partitions_that_different_people_closed_are_sealed_together(bank: Bank):
    day = bank.today - 1
    for p, by in ((0, "li"), (2, "wang")):
        bank.world.publish_bytes(p, b"bank", bank.world.codec.encode(CloseDay("bank", f"c-{by}", day, by, "")))
    bank.settle()
    done = bank.close(day, by="zhou")
    assert [c.by for c in done.closings.values()] == ["li", "zhou", "wang"]
    assert totals_of(done) == bank.by_hand(day)


def test_late_entries_and_adjustments_go_to_the_open_day_and_the_seal_holds(bank: Bank):
    day = bank.today - 1
    done = bank.close(day)
    late, fix = bank.pay("acme", 777, day), bank.pay("acme", 5, day - 3, operation="adjustment")
    bank.settle()
    booked = {r.idempotency_key: r for p in range(PARTITIONS) for r in bank.world.records(p)}
    assert (booked[late].value_date, booked[late].changes) == (day + 1, {"late_for": str(iso(day))})
    assert (booked[fix].value_date, booked[fix].changes["late_for"]) == (day + 1, str(iso(day - 3)))
    assert closing.verify(bank.db, iso(day)) == []
    assert bank.close(day) == done
    following = bank.close(day + 1)
    assert totals_of(following) == bank.by_hand(day + 1)
    assert sum(t.debits for t in following.figures.totals) >= sum(t.debits for t in done.figures.totals) + 782
    assert [x.day for x in closes.listed(bank.db)] == [iso(day + 1), iso(day)]


def test_a_day_that_was_closed_with_a_later_one_is_sealed_where_that_was_closed(bank: Bank):
    day = bank.today - 1
    later = bank.close(day)
    earlier = bank.close(day - 1)
    assert earlier.figures.cut == later.figures.cut
    assert totals_of(earlier) == bank.by_hand(day - 1) != totals_of(later)
    assert closing.verify(bank.db, iso(day - 1)) == []
    assert bank.world.verify().check("closes").ok
    assert bank.world.verify().check("state").ok


def test_a_day_that_has_not_begun_is_refused(bank: Bank):
    with pytest.raises(RejectedError, match="day_ahead"):
        bank.close(bank.today + 2)
    with pytest.raises(BadInputError, match="not closed"):
        closing.verify(bank.db, iso(bank.today + 2))


def test_a_day_that_was_asked_for_too_early_is_closed_by_the_same_command_when_it_has_begun(bank: Bank):
    """Though its key is answered with the first refusal for ever; at midnight also in one partition and not in another."""
    day = bank.today + 1
    for _ in range(2):
        with pytest.raises(RejectedError, match="day_ahead"):
            bank.close(day)
    bank.world.pass_time(MS_A_DAY)
    done = bank.close(day)
    assert totals_of(done) == bank.by_hand(day)
    assert bank.close(day).to_dict() == done.to_dict()
    assert closing.verify(bank.db, iso(day)) == []
    assert bank.world.verify().check("closes").ok


def test_a_sink_that_stands_still_is_named_and_the_close_goes_on_later(bank: Bank):
    day = bank.today - 1
    bank.sinking = False
    with pytest.raises(PartUnavailableError, match=r"partition 0 at record \d+ of \d+.*give the same command again"):
        bank.close(day)
    bank.sinking = True
    bank.sink()
    assert totals_of(bank.close(day)) == bank.by_hand(day)


def test_what_clickhouse_lost_comes_back_with_the_journal(bank: Bank):
    day = bank.today - 1
    done = bank.close(day)
    bank.db.run(f"DROP DATABASE {bank.config.database}")
    migrate.apply(bank.config)
    bank.writer = None
    with pytest.raises(BadInputError, match="not closed"):
        closing.sealed(bank.db, iso(day))
    bank.sink()
    assert closing.sealed(bank.db, iso(day)) == done
    assert closing.verify(bank.db, iso(day)) == []


WAIT = " SETTINGS mutations_sync = 2"
ALTERED = {
    "amount": ("postings UPDATE amount = amount + 1 WHERE {one}", r"(debits|credits) are \d+, sealed are \d+: \+1"),
    "side": ("postings UPDATE side = if(side = 'debit', 'credit', 'debit') WHERE {one}", "of debits and"),
    "gone": ("postings DELETE WHERE {one}", "its outcomes say"),
    "chain": ("outcomes UPDATE chain = reverse(chain) WHERE command = 'CloseDay' AND partition = 1", "has chain"),
    "seal": ("control_changes UPDATE changes = replace(changes, '\\\\\"postings\\\\\":', '\\\\\"postings\\\\\":1') "
             "WHERE command = 'SealDay' AND partition = 2", "is not that of its figures"),
}  # fmt: skip


@pytest.mark.parametrize("what", ALTERED)
def test_a_row_altered_by_hand_is_found(bank: Bank, what: str):
    day = bank.today - 1
    bank.close(day)
    assert closing.verify(bank.db, iso(day)) == []
    statement, said = ALTERED[what]
    p, offset, line = bank.rows(
        f"SELECT partition, offset, line FROM postings WHERE value_date <= '{iso(day)}' ORDER BY offset DESC LIMIT 1"
    )[0]
    one = f"partition = {p} AND offset = {offset} AND line = {line}"
    bank.db.run(f"ALTER TABLE {bank.config.database}.{statement.format(one=one)}{WAIT}")
    found = closing.verify(bank.db, iso(day))
    assert re.search(said, "; ".join(found)), found


def test_a_day_whose_rows_are_wrong_is_not_sealed_and_a_second_seal_is_refused(bank: Bank):
    day = bank.today - 1
    offset = bank.rows(f"SELECT max(offset) FROM postings WHERE partition = 0 AND value_date <= '{iso(day)}'")[0][0]
    where = f"partition = 0 AND offset = {offset} AND line = 0"
    bank.db.run(f"ALTER TABLE {bank.config.database}.postings UPDATE amount = amount + 3 WHERE {where}{WAIT}")
    with pytest.raises(DifferenceFoundError, match="closed and not sealed"):
        bank.close(day)
    assert closes.open_closes(bank.db) == [iso(day)]
    bank.db.run(f"ALTER TABLE {bank.config.database}.postings UPDATE amount = amount - 3 WHERE {where}{WAIT}")
    bank.close(day)
    assert closes.open_closes(bank.db) == []
    bank.db.run(
        f"ALTER TABLE {bank.config.database}.postings UPDATE amount = amount + 3 WHERE partition = 0 AND offset = {offset}{WAIT}"
    )
    bank.db.run(f"ALTER TABLE {bank.config.database}.control_changes DELETE WHERE command = 'SealDay'{WAIT}")
    with pytest.raises(DifferenceFoundError, match="is sealed in partition 0 with"):
        bank.close(day)


def test_a_close_that_was_put_in_by_hand_cuts_no_seal(bank: Bank):
    day = bank.today - 1
    failpoints.arm("close.after_watermark=raise")
    with pytest.raises(FailPointError):
        bank.close(day)
    failpoints.arm("")
    bank.db.run(
        f"INSERT INTO {bank.config.database}.control_changes SELECT * REPLACE (sequence - 1 AS sequence) "
        f"FROM {bank.config.database}.control_changes WHERE command = 'CloseDay' AND partition = 1"
    )
    with pytest.raises(DifferenceFoundError, match="partition 1 is cut at a"):
        bank.close(day)
    assert closes.open_closes(bank.db) == [iso(day)]
