"""Every report of the catalogue against sums over the journal's records in Python, at random cuts of both time axes.

The journal is known from its maker alone. A second database is filled from it in other batches, as after a rebuild: its
reports must be the same bytes.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clearline import cli
from clearline.finance import formats
from schemas.errors import BadInputError
from schemas.records import JournalRecord, PostedLeg
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import cut as cuts
from sinks.finance.ask import Result, ask, ask_for, query, values
from sinks.finance.catalogue import CATALOGUE, REPORTS
from sinks.ledger_sink import LedgerSink
from tests.contract.test_sinks_clickhouse import arrivals
from tests.journals import CURRENCIES, DAY_MS, Line, Maker, local_codec
from tests.sink_child import TOPIC, feed
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

EPOCH = date(1970, 1, 1)
KINDS = {"bank:fees": "income", "bank:costs": "expense", "bank:clearing": "asset"}
ACCOUNTS = ("p1:wallet:a-cny", "bank:clearing:CNY", "bank:fees:USD")


class FeeMaker(Maker):
    """A journal in which some entries earn a fee, and some cost the bank something."""

    def _openings(self) -> Iterator[tuple[int, JournalRecord]]:
        yield from super()._openings()
        for p in range(self.partitions):
            for currency in CURRENCIES:
                yield p, self._open(p, f"bank:fees:{currency}", "income", currency)
                yield p, self._open(p, f"bank:costs:{currency}", "expense", currency)

    def _entry(self, p: int, partner: str) -> tuple[PostedLeg, ...]:
        legs = super()._entry(p, partner)
        kind = self._random.random()
        if kind > 0.5:
            return legs
        account = "bank:fees:" if kind < 0.4 else "bank:costs:"
        sides = ("debit", "credit") if kind < 0.37 or kind > 0.4 else ("credit", "debit")
        other = f"bank:clearing:{legs[0].currency}"
        pair = (other, account + legs[0].currency) if kind < 0.4 else (account + legs[0].currency, other)
        return (*legs, *(self._post(p, a, s, 7) for a, s in zip(pair, sides, strict=True)))


@dataclass
class World:
    """One journal in two databases."""

    server: ClickHouseServer
    config: ClickHouseConfig
    again: ClickHouseConfig
    lines: list[Line]
    db: Database


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    configs = [server.config(f"clearline_{uuid.uuid4().hex[:8]}") for _ in range(2)]
    lines = FeeMaker(33, step_ms=DAY_MS // 100).lines(1500)
    for config, batch in zip(configs, (1000, 173), strict=True):
        migrate.apply(config)
        feed(LedgerSink(config, TOPIC, local_codec()), arrivals(lines), batch)
    db = Database(configs[0], reader=True)
    yield World(server, configs[0], configs[1], lines, db)
    db.close()
    server.stop()


@dataclass
class Facts:
    """The records that a cut holds, and what must be reported of them."""

    lines: list[Line]
    on: str = "value"
    since: date = EPOCH
    until: date = date(2299, 12, 31)

    def day(self, x: Line) -> date:
        return EPOCH + timedelta(days=x.record.value_date if self.on == "value" else x.record.booked_at // DAY_MS)

    def legs(self, *, before: bool = False) -> Iterator[tuple[date, Line, int, PostedLeg]]:
        for x in self.lines:
            day = self.day(x)
            if day <= self.until and (before or day >= self.since):
                for i, p in enumerate(x.record.postings):
                    yield day, x, i, p

    def sums(self, key: Any) -> dict[tuple[Any, ...], tuple[int, int, int]]:
        """Debits, credits and number of postings by key."""
        out: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
        for day, x, _, p in self.legs():
            sums = out[key(day, x.record, p)]
            sums[p.side == "credit"] += p.amount
            sums[2] += 1
        return {k: (d, c, n) for k, (d, c, n) in out.items()}


def facts_at(world: World, cut: cuts.Cut, **asked: Any) -> Facts:
    known_ms = int(cut.known_at.timestamp() * 1000)
    ends = {p: at.sequence for p, at in cut.places.items()}
    held = [x for x in world.lines if x.record.sequence <= ends.get(x.partition, 0) and x.record.booked_at <= known_ms]
    return Facts(held, **asked)


def kind_of(account: str) -> str:
    if ":used:" in account:
        return "liability" if account.endswith("a") else "asset"
    return KINDS.get(account.rpartition(":")[0], "liability")


def random_cuts(world: World, seed: int, count: int) -> list[cuts.Cut]:
    """The head, the head as known at a moment, and cuts anywhere, some without a partition."""
    rng = random.Random(seed)
    last = {x.partition: x.record.sequence for x in world.lines}
    moments = [datetime.fromtimestamp(x.record.booked_at / 1000, UTC) for x in rng.sample(world.lines, count)]
    out = [cuts.head(world.db), cuts.head(world.db, moments[0])]
    for i in range(count - 2):
        places = {p: rng.randrange(1, n + 1) for p, n in last.items() if rng.random() < 0.9}
        out.append(cuts.at(world.db, places, *([moments[i]] if i % 3 == 0 else [])))
    return out


def asked(world: World, name: str, cut: cuts.Cut, **given: str) -> list[tuple[Any, ...]]:
    return ask(world.db, CATALOGUE[name], given, cut).rows


@pytest.mark.parametrize("on", ["value", "booking"])
def test_trial_balances_and_totals_at_any_cut(world: World, on: str) -> None:
    since, until = date(2026, 11, 23), date(2026, 11, 26)
    for cut in random_cuts(world, 1, 7):
        period = {"on": on, "since": since.isoformat(), "until": until.isoformat()}
        facts = facts_at(world, cut, on=on, since=since, until=until)
        before: Counter[str] = Counter()
        for day, _, _, p in facts.legs(before=True):
            before[p.account_id] += (p.amount if p.side == "debit" else -p.amount) * (day < since)
        names = {"currency": lambda a, c: c, "type": lambda a, c: kind_of(a), "account": lambda a, c: a}
        for by, name in names.items():
            opening: Counter[tuple[str, str]] = Counter()
            for day, _, _, p in facts.legs(before=True):
                opening[name(p.account_id, p.currency), p.currency] += (
                    (p.amount if p.side == "debit" else -p.amount) if day < since else 0
                )
            moved = facts.sums(lambda _, r, p, name=name: (name(p.account_id, p.currency), p.currency))
            must = [
                (*k, opening[k], d, c, d - c, opening[k] + d - c, n)
                for k in sorted(opening)
                for d, c, n in [moved.get(k, (0, 0, 0))]
            ]
            assert asked(world, "trial-balance", cut, by=by, **period) == must
        totals = facts.sums(lambda day, r, p: (day, r.partner_id, r.product, p.currency))
        assert asked(world, "totals", cut, **period) == [(*k, *n) for k, n in sorted(totals.items())]
        flows = facts.sums(lambda day, r, p: (day, r.product, p.currency))
        assert asked(world, "flows", cut, **period) == [(*k, *n) for k, n in sorted(flows.items())]
        part = asked(world, "totals", cut, partner="p0", product="wallet", currency="JPY", **period)
        assert part == [
            (*k, *n) for k, n in sorted(totals.items())
            if (k[1] == "p0" or k[1].startswith("p0/")) and k[2:] == ("wallet", "JPY")
        ]  # fmt: skip


@pytest.mark.parametrize("on", ["value", "booking"])
def test_balances_and_statements_on_both_time_axes(world: World, on: str) -> None:
    since, until = date(2026, 11, 23), date(2026, 11, 26)
    for cut in random_cuts(world, 2, 7):
        facts = facts_at(world, cut, on=on, until=until)
        moved = facts.sums(lambda _, r, p: (p.account_id,))
        opened = opened_in(facts)
        must = []
        for account, (kind, currency) in sorted(opened.items()):
            d, c, n = moved.get((account,), (0, 0, 0))
            must.append((account, kind, currency, d, c, d - c if kind in ("asset", "expense") else c - d, n))
        assert asked(world, "balances", cut, on=on, until=until.isoformat()) == must
        below = asked(world, "balances", cut, on=on, until=until.isoformat(), partner="p3")
        assert below == [row for row in must if row[0].startswith(("p3:", "p3/"))]
        for account in ACCOUNTS:
            if account in opened:
                check_statement(world, cut, account, facts_at(world, cut, on=on, since=since, until=until))


def opened_in(facts: Facts) -> dict[str, tuple[str, str]]:
    out = {}
    for x in facts.lines:
        r = x.record
        if r.command == "OpenAccount" and r.outcome == "applied":
            out[r.subject_id] = (r.changes["type"], r.changes["currency"])
        out.update({o.account_id: (o.type, o.currency) for o in r.opened})
    return out


def check_statement(world: World, cut: cuts.Cut, account: str, facts: Facts) -> None:
    sign = 1 if kind_of(account) in ("asset", "expense") else -1
    own = [leg for leg in facts.legs(before=True) if leg[3].account_id == account]
    own.sort(key=lambda leg: (leg[0], leg[1].record.booked_at, leg[1].partition, leg[1].record.sequence, leg[2]))
    balance = sum(sign * (p.amount if p.side == "debit" else -p.amount) for d, _, _, p in own if d < facts.since)
    must: list[tuple[Any, ...]] = [("opening", 0, 0, balance)]
    debits = credits_ = 0
    for day, x, i, p in own:
        if day >= facts.since:
            d, c = (p.amount, 0) if p.side == "debit" else (0, p.amount)
            balance += sign * (d - c)
            debits, credits_ = debits + d, credits_ + c
            must.append(("line", d, c, balance, x.partition, x.record.sequence, i, x.record.reference))
    must.append(("closing", debits, credits_, balance))
    given = {"account": account, "on": facts.on, "since": facts.since.isoformat(), "until": facts.until.isoformat()}
    found = ask(world.db, CATALOGUE["statement"], given, cut)
    names = ("kind", "debits", "credits", "balance", "partition", "sequence", "line", "reference")
    rows = [tuple(row[n] for n in names[: 8 if row["kind"] == "line" else 4]) for row in found.dicts()]
    assert rows == must
    assert found.summary()["complete"]
    if len(must) > 5:
        short = ask(world.db, CATALOGUE["statement"], {**given, "lines_max": "2"}, cut)
        assert [row["balance"] for row in short.dicts()] == [m[3] for m in (*must[:3], must[-1])]
        assert not short.summary()["complete"]


def test_fees_profitability_and_rejections_at_any_cut(world: World) -> None:
    since, until = date(2026, 11, 22), date(2026, 11, 27)
    seen = 0
    for cut in random_cuts(world, 3, 7):
        for on in ("value", "booking"):
            period = {"on": on, "since": since.isoformat(), "until": until.isoformat()}
            facts = facts_at(world, cut, on=on, since=since, until=until)
            earned = facts.sums(lambda day, r, p: (day, r.product, p.currency, p.account_id))
            fees = [
                (*k[:3], "bank", c - d, n) for k, (d, c, n) in sorted(earned.items()) if kind_of(k[3]) == "income"
            ]  # fmt: skip
            assert asked(world, "fees", cut, **period) == fees
            seen += len(fees)
            assert asked(world, "profitability", cut, **period) == profits(facts)
        facts = facts_at(world, cut, on="booking", since=since, until=until)
        rejected = Counter(
            (facts.day(x), x.record.reason, x.record.command, x.record.product, x.record.partner_id)
            for x in facts.lines
            if x.record.outcome == "rejected" and since <= facts.day(x) <= until
        )
        del period["on"]
        assert asked(world, "rejections", cut, **period) == [(*k, n) for k, n in sorted(rejected.items())]
    assert seen > 100


def profits(facts: Facts) -> list[tuple[Any, ...]]:
    by = facts.sums(lambda _, r, p: (r.partner_id, r.product, p.currency, kind_of(p.account_id)))
    settled = Counter(
        (x.record.partner_id, x.record.product)
        for x in facts.lines
        if x.record.outcome == "settled" and facts.since <= facts.day(x) <= facts.until
    )
    out = []
    for key in sorted({k[:3] for k in by}):
        volume = sum(d for k, (d, _, _) in by.items() if k[:3] == key)
        d, c, _ = by.get((*key, "income"), (0, 0, 0))
        cost_d, cost_c, _ = by.get((*key, "expense"), (0, 0, 0))
        margin = (c - d) - (cost_d - cost_c)
        points = (abs(margin) * 20_000 + volume) // (2 * volume) * (1 if margin > 0 else -1) if volume else None
        out.append((*key, settled[key[:2]], volume, c - d, cost_d - cost_c, margin, points))
    return out


def test_holds_outstanding_at_any_cut(world: World) -> None:
    seen = 0
    for cut in random_cuts(world, 4, 8):
        facts = facts_at(world, cut)
        opened: dict[bytes, tuple[Any, ...]] = {}
        aside: Counter[bytes] = Counter()
        released: Counter[bytes] = Counter()
        last = max((x.record.booked_at for x in facts.lines), default=0)
        for x in facts.lines:
            legs = x.record.pending
            for debit, credit in zip(legs[::2], legs[1::2], strict=True):
                if debit.change > 0:
                    until = x.record.changes.get("expires_at")
                    moment = datetime.fromtimestamp(int(until) / 1000, UTC) if until else None
                    at = datetime.fromtimestamp(x.record.booked_at / 1000, UTC)
                    opened[debit.hold_id] = debit.account_id, credit.account_id, at, moment, x.record
                    aside[debit.hold_id] += debit.change
                else:
                    released[debit.hold_id] -= debit.change
        must = []
        for hold, (payer, payee, at, moment, record) in opened.items():
            if aside[hold] != released[hold]:
                age = last // DAY_MS - record.booked_at // DAY_MS
                left = aside[hold] - released[hold]
                must.append((
                    hold.hex(), "hold", payer, payee, "CNY", aside[hold], released[hold], left, at, age, moment,
                    record.partner_id, record.product,
                ))  # fmt: skip
        must.sort(key=lambda row: (row[8], row[0]))
        assert asked(world, "holds", cut) == must
        assert asked(world, "holds", cut, partner="p5") == [row for row in must if row[2].startswith(("p5:", "p5/"))]
        seen += len(must)
    assert seen > 20


def test_the_day_of_the_platform_at_any_cut(world: World) -> None:
    for cut in random_cuts(world, 5, 6):
        facts = facts_at(world, cut, on="booking")
        counts: dict[date, Counter[str]] = defaultdict(Counter)
        for x in facts.lines:
            r = x.record
            if r.command == "Transaction":
                counts[facts.day(x)][r.outcome] += 1
            elif r.command not in ("Crossing", "Tick"):
                counts[facts.day(x)]["control"] += 1
            else:
                counts[facts.day(x)]["step"] += 1
        must: list[tuple[Any, ...]] = [
            (d, "", 0, n["settled"], n["rejected"], n["repeated"], n["control"], 0, 0, 0, 0, 0)
            for d, n in counts.items()
        ]
        moved = facts.sums(lambda day, r, p: (day, p.currency))
        must += [(d, c, 0, 0, 0, 0, 0, debits, n, 0, 0, 0) for (d, c), (debits, _, n) in moved.items()]
        assert asked(world, "day", cut) == sorted(must)


def test_calls_and_their_times(world: World) -> None:
    """Percentiles are upper bounds of buckets: 100 calls at most 1 ms but one at 250 ms, in two pieces."""
    db = world.server.database(world.again.database)
    buckets = [f"{[60 if i == 10 else 0 for i in range(61)]}", f"{[39 if i == 10 else i == 34 for i in range(61)]}"]
    for i, (piece, slowest) in enumerate(zip(buckets, (990, 250_000), strict=True)):
        text = piece.replace("False", "0").replace("True", "1")
        db.run(
            "INSERT INTO calls (topic, partition, offset, instance, minute, partner_id, method, route, status, calls, "
            f"micros_sum, micros_max, buckets, run) SELECT 'calls', 0, {i}, 'g', toDateTime('2026-11-24 10:0{i}:00', "
            f"'UTC'), 'p1', 'GET', '/v1/accounts', 200, {60 - 20 * i}, 1, {slowest}, {text}, 0"
        )
    rows = ask_for(db, CATALOGUE["day"], {"since": "2026-11-24", "until": "2026-11-24"}).dicts()
    first = next(iter(rows))
    db.run("ALTER TABLE calls DELETE WHERE 1 SETTINGS mutations_sync = 2")
    db.close()
    figures = first["calls"], first["p50_us"], first["p99_us"], first["max_us"]
    assert figures == (100, 1000, 1000, 250_000)


def test_the_same_cut_is_the_same_bytes_after_a_rebuild_and_later(world: World) -> None:
    given = {"statement": {"account": "bank:clearing:CNY", "until": "2026-11-26"}}
    again = Database(world.again, reader=True)
    places = {p: n // 2 for p, n in {x.partition: x.record.sequence for x in world.lines}.items()}
    moment = datetime(2026, 11, 25, 9, tzinfo=UTC)
    for cut in (cuts.at(world.db, places), cuts.at(world.db, places, moment), cuts.head(world.db)):
        other = cuts.at(again, {p: at.sequence for p, at in cut.places.items()}, cut.known_at)
        assert other == cut
        for report in REPORTS:
            one = ask(world.db, report, given.get(report.name, {}), cut)
            two = ask(again, report, given.get(report.name, {}), other)
            for form in formats.FORMS:
                assert formats.to_bytes(one, form) == formats.to_bytes(two, form), (report.name, form)
    again.close()


def test_projections_say_what_the_rows_say(world: World) -> None:
    """Nothing of any report depends on which days are answered from projections."""
    for cut in random_cuts(world, 6, 4):
        bounds = cuts.bounds(world.db, cut)
        assert bounds.whole_before > date(2026, 11, 1)
        for report in REPORTS:
            given = values(report, {"account": "bank:clearing:CNY"} if report.name == "statement" else {})
            from_rows = bounds._replace(whole_before=EPOCH)
            one, two = (world.db.rows(query(report, given, cut, b, world.db.name)) for b in (bounds, from_rows))
            assert one == two, report.name


def test_rows_of_a_torn_batch_are_in_no_report(world: World) -> None:
    """Postings and holds whose outcomes are not there yet, of a day that is long over."""
    config = world.server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    feed(LedgerSink(config, TOPIC, local_codec()), arrivals(world.lines[:1200]), 1000)
    db = Database(config)
    cut = cuts.head(db)
    before = {r.name: ask(db, r, {"account": ACCOUNTS[0]} if r.name == "statement" else {}, cut).rows for r in REPORTS}
    for table in ("postings", "pending"):
        columns = ", ".join(
            str(name) for (name,) in db.rows(
                "SELECT name FROM system.columns WHERE database = %(d)s AND table = %(t)s "
                "AND default_kind NOT IN ('EPHEMERAL', 'MATERIALIZED')", {"d": db.name, "t": table},
            )
        )  # fmt: skip
        copied = columns.replace("offset", "offset + 1000000", 1).replace("sequence", "sequence + 1000000")
        db.run(f"INSERT INTO {table} ({columns}) SELECT {copied} FROM {table} WHERE booked_date < '2026-11-23'")
    for report in REPORTS:
        given = {"account": ACCOUNTS[0]} if report.name == "statement" else {}
        assert ask(db, report, given, cut).rows == before[report.name], report.name
        assert ask_for(db, report, given).rows == before[report.name], report.name
    db.close()


class Between(Database):
    """Does something after the first statement, once: what comes in while a question is asked."""

    def __init__(self, config: ClickHouseConfig, then: Callable[[], object]) -> None:
        super().__init__(config)
        self.then: Callable[[], object] | None = then

    def rows(self, query: str, params: dict[str, Any] | None = None, *, rows_max: int = 0) -> list[tuple[Any, ...]]:
        found = super().rows(query, params, rows_max=rows_max)
        then, self.then = self.then, None
        if then is not None:
            then()
        return found


def test_a_batch_that_comes_while_bounds_are_read_is_not_missed(world: World) -> None:
    """Of a time that is long over, as when ClickHouse is filled again: its days are not whole in the cut."""
    config = world.server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    sink = LedgerSink(config, TOPIC, local_codec())
    sink.take_over()
    given = arrivals(world.lines[:1200])
    sink.write(given[:600])
    db = Between(config, lambda: sink.write(given[600:]))
    cut = cuts.head(Database(config))
    late = min(x.record.booked_at for x in world.lines[600:1200]) // DAY_MS
    assert cuts.bounds(db, cut).whole_before == EPOCH + timedelta(days=late)
    assert db.then is None
    sink.close()
    db.close()


@pytest.mark.parametrize("known", [True, False])
def test_figures_are_made_again_when_a_batch_came_in_meanwhile(world: World, known: bool) -> None:
    """Of days that were whole in the cut when its bounds were worked out: what the tables' counts are compared for."""
    config = world.server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    sink = LedgerSink(config, TOPIC, local_codec())
    sink.take_over()
    given, report, asked = arrivals(world.lines[:1200]), CATALOGUE["trial-balance"], {"by": "account"}
    sink.write(given[:600])
    plain = Database(config)
    cut = cuts.head(plain)
    found = cuts.bounds(plain, cut, cut.stored)
    assert cuts.again(plain, cut, found) is found, "nothing came in"
    before = ask(plain, report, asked, cut)
    db = Between(config, lambda: sink.write(given[600:]))
    assert ask(db, report, asked, cut if known else replace(cut, stored=None)).rows == before.rows
    assert db.then is None
    again = cuts.again(plain, cut, found)
    assert again.whole_before < found.whole_before
    assert cuts.again(plain, cut, again) is again
    for one in (plain, db, sink):
        one.close()


def test_a_head_has_every_partition_while_records_come_in(world: World) -> None:
    config = world.server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    sink = LedgerSink(config, TOPIC, local_codec())
    sink.take_over()
    given = arrivals(world.lines[:1200])
    sink.write(given[:600])
    before = cuts.head(Database(config))
    db = Between(config, lambda: sink.write(given[600:]))
    assert cuts.head(db) == before
    assert {p: at.sequence for p, at in cuts.head(db).places.items()} == {
        x.partition: x.record.sequence for x in world.lines[:1200]
    }
    sink.close()
    db.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0:" + "9" * 5000, "must be partition:sequence"),
        ("\u0660:\u0661", "must be partition:sequence"),
        ("0:1,", "must be partition:sequence"),
        ("0:1,00:2", "names a partition twice"),
        (",".join(f"{i}:1" for i in range(1025)), "at most 1024 partitions"),
        ("0:9999999999999999999", "has no record 9999999999999999999"),
        ("99999:1", "has no record 1 "),
    ],
)
def test_a_cut_that_cannot_be_is_refused_in_few_words(world: World, text: str, words: str) -> None:
    with pytest.raises(BadInputError, match=words) as e:
        cuts.at(world.db, cuts.parse(text))
    assert len(str(e.value)) < 200


def test_a_closed_day_is_asked_by_its_date(world: World) -> None:
    """The cut is that of its close, however much was booked since; `until` is the day."""
    maker, codec = FeeMaker(8, step_ms=DAY_MS // 100), local_codec()
    lines = maker.lines(700)
    day = EPOCH + timedelta(days=lines[-1].record.booked_at // DAY_MS - 1)
    sealed = {}
    for p in range(maker.partitions):
        changes = {"day": day.isoformat(), "next_day": (day + timedelta(days=1)).isoformat()}
        record = maker._record(p, "bank", "applied", command="CloseDay", subject_id=day.isoformat(), changes=changes)
        sealed[p] = record.sequence
        lines.append(maker._line(codec, p, record))
    places = [{"partition": p, "sequence": n, "chain": "00" * 32} for p, n in sealed.items()]
    figures = json.dumps({"day": day.isoformat(), "cut": places, "totals": []}, separators=(",", ":"))
    changes = {"hash": "00" * 32, "figures": figures}
    record = maker._record(0, "bank", "applied", command="SealDay", subject_id=day.isoformat(), changes=changes)
    lines += [maker._line(codec, 0, record), *maker.lines(300)]
    config = world.server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    feed(LedgerSink(config, TOPIC, codec), arrivals(lines), 500)
    db = Database(config, reader=True)
    held = [x for x in lines if x.record.sequence <= sealed[x.partition]]
    must = Facts(held, until=day).sums(lambda _, r, p: (p.currency,))
    found = ask_for(db, CATALOGUE["trial-balance"], {}, closed=day.isoformat())
    assert [(r["currency"], r["debits"], r["credits"], r["postings"]) for r in found.dicts()] == [
        (*k, *n) for k, n in sorted(must.items())
    ]
    assert {p: at.sequence for p, at in found.cut.places.items()} == sealed
    assert found.asked["until"] == day.isoformat()
    head = ask_for(db, CATALOGUE["trial-balance"], {"until": day.isoformat()})
    assert head.rows != found.rows, "something came in late for the day"
    holds = ask_for(db, CATALOGUE["holds"], {}, closed=day.isoformat())
    assert holds.cut == found.cut
    for wrong in ({"cut": "0:1"}, {"given": {"until": "2026-11-20"}}):
        with pytest.raises(BadInputError, match="cannot be given with closed"):
            ask_for(db, CATALOGUE["totals"], wrong.get("given", {}), cut=wrong.get("cut", ""), closed=day.isoformat())  # type: ignore[arg-type]
    db.close()


HOSTILE = (
    "' OR 1 = 1 --", "\\' OR 1 = 1 --", "\\", "'", "p1') UNION ALL SELECT * FROM system.users --", "{ends:Array(UInt64)}",
    "p1', partner = '", "%(x)s", "%s", "p1%", "/* */", "\u2019 OR 1=1", "'; DROP TABLE postings; --", "p1\\x27",
)  # fmt: skip


def test_hostile_texts_are_only_texts(world: World) -> None:
    """Each in one parameter after another; all of them in every kind of parameter."""
    texts = itertools.cycle(HOSTILE)
    places = [(report, p) for report in REPORTS for p in report.parameters]
    for (report, p), text in zip(places * 2, texts, strict=False):
        needed = {"account": "p1:wallet:a-cny"} if report.name == "statement" else {}
        if p.asked in ("text", "partner") or (p.name == "account" and report.subject != "account"):
            assert ask_for(world.db, report, {**needed, p.name: text}).rows == [], (report.name, p.name, text)
        else:
            with pytest.raises(BadInputError, match=f"^{p.name}: "):
                ask_for(world.db, report, {**needed, p.name: text})
    for text in HOSTILE:
        assert ask_for(world.db, CATALOGUE["totals"], {"partner": text}).rows == []
        with pytest.raises(BadInputError, match=r"^account: .* is not known"):
            ask_for(world.db, CATALOGUE["statement"], {"account": text})
        for axis in ("cut", "known_at", "closed"):
            with pytest.raises(BadInputError, match=f"^{axis}: "):
                ask_for(world.db, CATALOGUE["totals"], {}, **{axis: text})
    assert world.db.rows("SELECT count() FROM postings")[0][0] == sum(len(x.record.postings) for x in world.lines)


def test_what_is_asked_wrongly_is_named(world: World) -> None:
    def said(name: str, given: dict[str, str], **axes: str) -> str:
        with pytest.raises(BadInputError) as e:
            ask_for(world.db, CATALOGUE[name], given, **axes)
        return str(e.value)

    assert said("statement", {}) == "account: must be given"
    assert said("statement", {"account": "p1:wallet:none"}).startswith("account: p1:wallet:none is not known")
    assert "there are since, until" in said("totals", {"account": "x"})
    assert "holds no day" in said("totals", {"since": "2026-11-02", "until": "2026-11-01"})
    assert "one of value, booking" in said("totals", {"on": "today"})
    assert "whole number" in said("statement", {"account": "p1:wallet:a-cny", "lines_max": "-1"})
    assert "has no record 999999" in said("totals", {}, cut="0:999999")
    assert "names a partition twice" in said("totals", {}, cut="0:1,0:2")
    assert "cannot be given with closed" in said("totals", {}, cut="0:1", closed="2026-11-20")
    assert "is not closed" in said("totals", {}, closed="2026-11-20")
    assert said("totals", {"since": "2300-01-01"}).startswith("since: must be a day from 1970")
    assert said("totals", {}, known_at="9999-12-31T23:59").startswith("known_at: must be a moment")
    assert said("totals", {"partner": "x" * 600}).startswith("partner: must be at most 512")


def test_an_empty_ledger_has_reports(world: World) -> None:
    config = world.server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    db = Database(config, reader=True)
    for report in REPORTS:
        if report.name != "statement":
            found: Result = ask_for(db, report, {})
            assert (found.rows, found.cut.text) == ([], "")
            assert all(formats.to_bytes(found, form) for form in formats.FORMS)
    db.close()


# ---- the same on the command line ----------------------------------------------------------------------------------


@pytest.fixture
def line(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> Any:
    """Runs a command against the world's database: exit code, what it printed, what it said beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEARLINE_DATA_DIR", str(tmp_path / "data"))
    nobody = "127.0.0.1:9"
    for name, value in {
        "KAFKA__BOOTSTRAP": nobody, "REGISTRY__URL": f"http://{nobody}", "REDIS__URL": f"redis://{nobody}/0",
        "CLICKHOUSE__HOST": "127.0.0.1", "CLICKHOUSE__PORT": str(world.config.port),
        "CLICKHOUSE__DATABASE": world.config.database,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CLEARLINE_{name}", value)

    def run(*arguments: str) -> tuple[int, bytes, str]:
        code = cli.main(list(arguments))
        out = capsysbinary.readouterr()
        return code, out.out, out.err.decode()

    return run


def test_every_report_is_a_command_in_every_format(world: World, line: Any, tmp_path: Path) -> None:
    cut = cuts.at(world.db, {p: n // 2 for p, n in {x.partition: x.record.sequence for x in world.lines}.items()})
    for report in REPORTS:
        given = {"account": "bank:clearing:CNY"} if report.name == "statement" else {}
        must = ask(world.db, report, given, cut)
        command = ["report", report.name, *given.values(), "--cut", cut.text]
        for form in formats.FORMS:
            if report.name in ("trial-balance", "statement"):
                code, out, said = line(*command, "--format", form)
                assert (code, out) == (0, formats.to_bytes(must, form)), said
        assert line(*command, "--json")[1] == formats.to_bytes(must, "json")
        code, out, _ = line(*command)
        assert code == 0 and f"as of {cut.text}" in out.decode()
    code, out, said = line(*command, "--format", "csv", "--out", str(tmp_path / "r.csv"))
    assert (code, out) == (0, b"")
    assert (tmp_path / "r.csv").read_bytes() == formats.to_bytes(must, "csv")
    assert f"as of {cut.text}" in said
    code, _, said = line(*command, "--format", "csv", "--out", str(tmp_path / "none" / "r.csv"))
    assert code == 2 and "cannot be written" in said


@pytest.mark.parametrize("form", ["parquet", "xlsx"])
def test_no_terminal_gets_bytes(line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, said = line("report", "trial-balance", "--format", form)
    assert (code, out) == (2, b"") and "--out" in said
    assert line("report", "trial-balance", "--format", form, "--out", str(tmp_path / "file"))[0] == 0
    assert (tmp_path / "file").stat().st_size > 1000


def test_options_are_parameters(world: World, line: Any) -> None:
    code, out, _ = line("report", "statement", "p1:wallet:a-cny", "--since", "2026-11-22", "--until", "2026-11-26",
                        "--on", "booking", "--lines-max", "2", "--known-at", "2026-11-26T12:00", "--json")  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert found["parameters"] == {
        "account": "p1:wallet:a-cny", "since": "2026-11-22", "until": "2026-11-26", "on": "booking", "lines_max": "2",
    }  # fmt: skip
    assert found["as_of"]["known_at"] == "2026-11-26T12:00:00.000Z"
    assert [row["kind"] for row in found["rows"]] == ["opening", "line", "line", "closing"]
    for wrong, word in (
        (["report", "totals", "--since", "x"], "since: must be a day"),
        (["report", "totals", "--on", "x"], "on: must be one of value, booking"),
        (["report", "totals", "--cut", "x"], "cut: must be"),
        (["report", "statement", "p1:wallet:none"], "account: p1:wallet:none is not known"),
        (["report", "totals", "--closed", "2026-11-20"], "2026-11-20 is not closed"),
        (["balance", "p1:wallet:a-cny", "--as-of", "x"], "--as-of: must be a moment"),
        (["balance", "p1:wallet:a-cny", "--value-date", "x"], "--value-date must be a day"),
    ):
        code, _, said = line(*wrong)
        assert code == 2 and word in said, said


def test_a_balance_has_both_time_axes(world: World, line: Any) -> None:
    account, day, moment = "bank:clearing:CNY", date(2026, 11, 24), datetime(2026, 11, 25, 6, 30, tzinfo=UTC)
    for asked_day, asked_at in ((day, None), (None, moment), (day, moment)):
        sums = [0, 0]
        for x in world.lines:
            valued = asked_day is None or EPOCH + timedelta(days=x.record.value_date) <= asked_day
            if valued and (asked_at is None or x.record.booked_at <= asked_at.timestamp() * 1000):
                for p in x.record.postings:
                    if p.account_id == account:
                        sums[p.side == "credit"] += p.amount
        options = ["--value-date", str(asked_day)] * (asked_day is not None)
        options += ["--as-of", "2026-11-25T06:30"] * (asked_at is not None)
        code, out, _ = line("balance", account, *options, "--json")
        found = json.loads(out)
        assert (code, found["debits_posted"], found["credits_posted"]) == (0, *sums)
        assert found["balance"] == sums[0] - sums[1]
    code, out, _ = line("balance", account, "--as-of", "2020-01-01", "--json")
    assert (code, json.loads(out)["balance"]) == (0, 0), "it was opened later"
    assert line("balance", "p1:wallet:none", "--as-of", "2020-01-01")[0] == 2


def test_a_trial_balance_out_of_balance_is_exit_code_1(
    world: World, line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    db = Database(config)
    place = "topic, partition, offset, source_offset, sequence, booked_at"
    db.run(
        f"INSERT INTO postings ({place}, account_id, side_code, amount_in, currency, value_date) "
        "SELECT 't', 0, 1, 1, 1, toDateTime64('2026-11-20', 3, 'UTC'), 'a:b:c', 1, 5, 'CNY', toDate32('2026-11-20')"
    )
    db.run(f"INSERT INTO outcomes ({place}, outcome) SELECT 't', 0, 1, 1, 1, toDateTime64('2026-11-20', 3, 'UTC'), 'x'")
    db.close()
    monkeypatch.setenv("CLEARLINE_CLICKHOUSE__DATABASE", config.database)
    for form in ("table", "json", "csv", "xlsx"):
        assert line("report", "trial-balance", "--format", form)[0] == 1
    code, out, _ = line("report", "trial-balance")
    assert code == 1 and "DIFFERENCES, debits less credits: 0.05 CNY" in out.decode()
    rows = list(csv.DictReader(io.StringIO(line("report", "trial-balance", "--format", "csv")[1].decode())))
    assert [(r["debits"], r["credits"], r["difference"]) for r in rows] == [("5", "0", "5")]
