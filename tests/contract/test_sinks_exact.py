"""What is in ClickHouse is exact at once: after every step of the sink, whatever became of the steps before.

A journal is delivered in batches, of which some come twice, some too early, and some are torn by a kill between any two
steps, inside an insert as well. At each step plain SQL, without FINAL, must give the totals, counts, balances and holds
of a prefix of the journal: whole entries, each once.
"""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import sinks.clickhouse
import sinks.ledger_sink
from schemas.errors import InvariantError
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import cut
from sinks.finance.ask import ask
from sinks.finance.catalogue import report
from sinks.ledger_sink import Arrival, LedgerSink
from tests.journals import Line, Maker, local_codec
from tests.sink_child import TOPIC
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

BATCH, BATCHES = 24, 15


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseConfig]:
    s = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    s.start()
    c = s.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(c)
    yield c
    s.stop()


class Killed(BaseException):
    """The process is gone: nothing after it is done, nothing is cleaned up."""


class Observer:
    """Stands at every fail point of the sink: looks at the store, and may kill."""

    def __init__(self, config: ClickHouseConfig, lines: Sequence[Line]) -> None:
        self.db = Database(config)
        self.lines = lines
        self.seen: Counter[str] = Counter()
        self.kill_in = 0
        self.ahead = 0

    def __call__(self, name: str) -> None:
        self.look()
        self.seen[name.partition(".")[2]] += 1
        if self.kill_in:
            self.kill_in -= 1
            if not self.kill_in:
                self.seen[f"killed {name.partition('.')[2]}"] += 1
                raise Killed

    def look(self) -> None:
        """Everything a person may ask in plain SQL is that of a prefix. Inserts that are under way land when they like:
        when one did between two questions, all are asked again."""
        while True:
            ends, wrong = self._prefixes(), None
            try:
                self._check(ends)
            except AssertionError as e:
                wrong = e
            if self._prefixes() == ends:
                break
        if wrong is not None:
            raise wrong

    def _check(self, ends: dict[str, dict[int, int]]) -> None:
        for p, end in ends["outcomes"].items():
            assert ends["postings"].get(p, -1) >= self._last(p, end, "postings")
            assert ends["pending"].get(p, -1) >= self._last(p, end, "pending")
        self.ahead += ends["postings"] != self._only(ends["outcomes"], "postings")
        self._outcomes(ends["outcomes"])
        self._postings(ends["postings"])
        self._pending(ends["pending"])

    def _prefixes(self) -> dict[str, dict[int, int]]:
        """The last offset that each table has of each partition."""
        tables = ("outcomes", "postings", "pending")
        query = " UNION ALL ".join(f"SELECT '{t}', partition, max(offset) FROM {t} GROUP BY partition" for t in tables)
        ends: dict[str, dict[int, int]] = {t: {} for t in tables}
        for table, p, end in self.db.rows(query):
            ends[table][p] = end
        return ends

    def _last(self, p: int, end: int, field: str) -> int:
        return max(
            (x.offset for x in self.lines if x.partition == p and x.offset <= end and getattr(x.record, field)),
            default=-1,
        )

    def _only(self, ends: dict[int, int], field: str) -> dict[int, int]:
        found = {p: self._last(p, end, field) for p, end in ends.items()}
        return {p: last for p, last in found.items() if last >= 0}

    def _in(self, ends: dict[int, int]) -> list[Line]:
        return [x for x in self.lines if x.offset <= ends.get(x.partition, -1)]

    def _outcomes(self, ends: dict[int, int]) -> None:
        wanted = Counter((x.partition, x.record.outcome) for x in self._in(ends))
        rows = self.db.rows("SELECT partition, outcome, count() FROM outcomes GROUP BY partition, outcome")
        assert {(p, o): n for p, o, n in rows} == wanted

    def _postings(self, ends: dict[int, int]) -> None:
        totals: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
        accounts: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
        for x in self._in(ends):
            for leg in x.record.postings:
                for sums in (totals[leg.currency, leg.side], accounts[leg.account_id, leg.side]):
                    sums[0] += leg.amount
                    sums[1] += 1
        rows = self.db.rows(
            "SELECT currency, side, sum(amount), count() FROM postings GROUP BY currency, side UNION ALL "
            "SELECT account_id, side, sum(amount), count() FROM postings GROUP BY account_id, side"
        )
        assert {(name, side): [total, n] for name, side, total, n in rows} == totals | accounts
        assert all(totals[c, "debit"][0] == totals[c, "credit"][0] for c, _ in list(totals)), "whole entries"

    def _pending(self, ends: dict[int, int]) -> None:
        holds: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
        for x in self._in(ends):
            for leg in x.record.pending:
                hold = holds[leg.hold_id.hex().upper(), leg.account_id, leg.side]
                hold[0] += leg.change
                hold[1] += 1
        rows = self.db.rows("SELECT hex(hold_id), account_id, side, sum(change), count() FROM pending GROUP BY 1, 2, 3")
        assert {(h, a, s): [c, n] for h, a, s, c, n in rows} == holds

    def report(self) -> None:
        """A report at the head has exactly what the outcomes count, though a torn batch has brought more."""
        while True:
            at = cut.head(self.db)
            ends = self._prefixes()["outcomes"]
            if ends == {p: place.journal_offset for p, place in at.places.items()}:
                break  # else outcomes that were under way came in between
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for x in self._in(ends):
            for leg in x.record.postings:
                sums[leg.currency][leg.side == "credit"] += leg.amount
        found = ask(self.db, report("trial-balance"), {}, at)
        assert {r["currency"]: [r["debits"], r["credits"]] for r in found.dicts()} == sums


def test_exact_after_every_step(config: ClickHouseConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(os.environ.get("CLEARLINE_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed {seed}")
    dice = random.Random(seed)
    lines = Maker(seed, wide_every=31).lines(BATCH * BATCHES)
    batches = [
        [Arrival(x.partition, x.offset, x.value) for x in lines[i : i + BATCH]] for i in range(0, len(lines), BATCH)
    ]
    observer = Observer(config, lines)
    for module in (sinks.ledger_sink, sinks.clickhouse):
        monkeypatch.setattr(module, "failpoint", observer)
    sink = LedgerSink(config, TOPIC, local_codec())
    plan = ["torn"] * 5 + ["torn ahead"] * 5 + ["twice"] * 3 + ["early"] * 3 + ["once", "ahead"]
    dice.shuffle(plan)
    plan += ["once"] * BATCHES

    def begin() -> LedgerSink:
        sink.close()  # what the kernel does with the sockets of a process that is gone
        again = LedgerSink(config, TOPIC, local_codec())
        try:
            again.take_over()
        except BaseException:
            again.close()
            raise
        return again

    def missing(number: int) -> set[int]:
        """Partitions of which this batch is not stored: a kill after its outcomes had landed leaves none."""
        ends = {p: at.next_offset for p, at in sink.positions.items()}
        return {a.partition for a in batches[number] if a.offset >= ends.get(a.partition, 0)}

    sink = begin()
    number = several = 0
    for how in plan:
        if number == BATCHES:
            break
        ahead = how.endswith("ahead")  # what a backlog does: three batches under way, one waits for the other
        group = batches[number : number + (3 if ahead else 1)]
        if how.startswith("torn"):
            observer.kill_in = dice.randrange(1, 11 * len(group))
        try:
            if how == "early" and number + 1 < BATCHES and missing(number) & {a.partition for a in batches[number + 1]}:
                with pytest.raises(InvariantError, match="comes next"):
                    sink.write(batches[number + 1])
                sink = begin()
            for batch in group:
                sink.write(batch, more=ahead)
                several += sink.under_way
            sink.flush()
            if how == "twice":
                assert sink.write(batches[number]) == 0
                assert sink.write([*batches[max(0, number - 1)], *batches[number]]) == 0
        except Killed:
            observer.look()
            observer.report()
            if dice.random() < 0.3:  # and killed again while it starts
                observer.kill_in = 1
                with pytest.raises(Killed):
                    sink = begin()
            observer.kill_in = 0
            sink = begin()
            continue
        observer.kill_in = 0  # nothing was left to do, as its outcomes had landed before
        observer.look()
        number += len(group)
    observer.report()
    sink.close()
    print(dict(observer.seen), f"ahead {observer.ahead}")
    assert observer._prefixes()["outcomes"] == {
        p: max(x.offset for x in lines if x.partition == p) for p in {x.partition for x in lines}
    }
    assert number == BATCHES
    assert sum(n for name, n in observer.seen.items() if name.startswith("killed")) >= 4
    assert observer.ahead, "no batch was ever seen half way"
    assert several, "no batch was ever under way beside another"
