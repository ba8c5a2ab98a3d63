"""Every report against two recomputations that share no code with its view: SQL over raw rows, Python over the journal.

The journal is the real ledger's: five weeks of `tests.finance_history` with a bank calendar, back-dated, reversed and
split entries, fees, holds, exchange, payments between partitions; and the public CDNOW data set, real purchases of real
customers over eighteen months. Written by the sink in random batches. Cuts, moments and parameters are drawn; the seed
is printed, CLEARLINE_PROOF_SEED repeats it. Calls and their times are not in the journal, so those columns of `day` are
not proven here but in test_finance_reports.py; `limits` is of `ledger.state`, not of the journal.
"""

from __future__ import annotations

import itertools
import os
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from clearline.finance import formats
from schemas.records import JournalRecord, PendingLeg, PostedLeg
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import cut as cuts
from sinks.finance.ask import NotKnownError, ask
from sinks.finance.catalogue import CATALOGUE, FIRST_DAY, LAST_DAY
from sinks.ledger_sink import Arrival, LedgerSink
from tests.finance_history import EPOCH, START, History, Shops, Weeks, purchases
from tests.finance_oracle import ORACLE, Held, below, held, owner
from tests.finance_raw_sql import RAW_SQL, Raw
from tests.journals import Line, local_codec
from tests.sink_child import TOPIC
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

SEED = int(os.environ.get("CLEARLINE_PROOF_SEED", random.randrange(1_000_000)))
DAYS = 35
SHOP_ROWS = 1_000  # of 6,919; all of them in the long tier
NOT_OF_THE_JOURNAL = ("limits",)
NAMES = [name for name in CATALOGUE if name not in NOT_OF_THE_JOURNAL]


@dataclass
class World:
    """A history, its journal as read back from the topic's bytes, and a database that holds it."""

    history: History
    journal: list[tuple[int, int, JournalRecord]]
    first: date
    days: int
    db: Database
    plain: Database  # that may set how a statement runs, as readers may not

    def held(self, cut: cuts.Cut) -> Held:
        """The records of a cut."""
        known = None if cut.known_at == cuts.LAST_MOMENT else round(cut.known_at.timestamp() * 1000)
        return held(self.journal, {p: at.sequence for p, at in cut.places.items()}, known)

    def raw(self, cut: cuts.Cut) -> Raw:
        """The raw rows of a cut."""
        known = None if cut.known_at == cuts.LAST_MOMENT else cut.known_at
        return Raw(self.plain, {p: at.sequence for p, at in cut.places.items()}, known)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    print(f"CLEARLINE_PROOF_SEED={SEED}")
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    yield server
    server.stop()


OF_THE_BANK = ("bank:fees:CNY", "bank:clearing:CNY")
OPERATIONS = {
    "transfer", "pay", "hold", "capture", "void", "refund", "reversal", "adjustment", "split", "exchange", "send", "sweep"
}  # fmt: skip


def some_weeks() -> Weeks:
    """Of the first seed from SEED on in which everything happens."""
    for seed in itertools.count(SEED):
        found = Weeks(seed, DAYS, 60, 14, 320)
        records = [x.record for x in found.lines]
        lapsed = any(leg.expired for r in records for leg in r.pending)
        crossed = any("crossing" in r.changes for r in records)
        if lapsed and crossed and {r.operation for r in records if r.outcome == "settled"} >= OPERATIONS:
            break
    return found


@pytest.fixture(scope="module")
def weeks(server: ClickHouseServer) -> Iterator[World]:
    yield from world_of(server, some_weeks(), EPOCH + timedelta(days=START - 2), DAYS + 4)


@pytest.fixture(scope="module")
def shops(server: ClickHouseServer) -> Iterator[World]:
    yield from world_of(server, Shops(SHOP_ROWS), date(1996, 12, 30), 550)


def world_of(server: ClickHouseServer, history: History, first: date, days: int) -> Iterator[World]:
    config = stored(server, history.lines, random.Random(f"batches {SEED}"))
    db, plain = Database(config, reader=True), Database(config)
    read: list[tuple[int, int, Any]] = [(x.partition, x.offset, local_codec().decode(x.value)) for x in history.lines]
    yield World(history, read, first, days, db, plain)
    db.close()
    plain.close()


def stored(server: ClickHouseServer, lines: list[Line], rng: random.Random) -> ClickHouseConfig:
    """A new database that the sink fills in batches of any size."""
    config = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    sink = LedgerSink(config, TOPIC, local_codec())
    assert not sink.take_over()
    rest = [Arrival(x.partition, x.offset, x.value) for x in lines]
    while rest:
        size = rng.choice((rng.randrange(1, 40), rng.randrange(len(lines) // 4, len(lines) // 2)))
        sink.write(rest[:size])
        rest = rest[size:]
    sink.close()
    return config


# ---- what is drawn -------------------------------------------------------------------------------------------------


def draw_cut(world: World, rng: random.Random) -> cuts.Cut:
    """The head, or places anywhere, perhaps without a partition; as known at a moment in every other case."""
    last = Counter[int]()
    for p, _, r in world.journal:
        last[p] = max(last[p], r.sequence)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=rng.choice(world.journal)[2].booked_at)
    known_at = at if rng.random() < 0.4 else cuts.LAST_MOMENT
    if rng.random() < 0.25:
        return cuts.head(world.db, known_at)
    places = {p: rng.randrange(1, n + 1) for p, n in last.items() if rng.random() < 0.93}
    under_way = [(p, r.sequence) for p, _, r in world.journal if r.outcome == "applied" and "crossing" in r.changes]
    if under_way and rng.random() < 0.4:
        places.update([rng.choice(under_way)])
    return cuts.at(world.db, places, known_at)


def draw_asked(world: World, rng: random.Random, name: str) -> dict[str, str]:
    """All parameters of a report, each drawn from what there is."""
    _, _, r = rng.choice([x for x in world.journal if x[2].postings])
    first, last = sorted(world.first + timedelta(days=rng.randrange(world.days)) for _ in "ab")
    drawn = {
        "since": rng.choice((FIRST_DAY, FIRST_DAY, first.isoformat())),
        "until": rng.choice((LAST_DAY, LAST_DAY, last.isoformat())),
        "on": rng.choice(("value", "booking")),
        "by": rng.choice(("currency", "type", "account")),
        "partner": rng.choice(("", "", "", "", r.partner_id, r.partner_id.split("/")[0], "bank")),
        "account": rng.choice((rng.choice(r.postings).account_id, *OF_THE_BANK)),
        "product": rng.choice(("", "", "", "", r.product)),
        "currency": rng.choice(("", "", "", "", r.postings[0].currency)),
        "reason": rng.choice(("", "", "insufficient_funds")),
        "lines_max": rng.choice(("10000", "7")),
    }
    if name in ("balances", "holds"):  # the owner is asked for, not the asker
        drawn["partner"] = rng.choice(("", "", owner(drawn["account"])))
        drawn["account"] = rng.choice(("", "", drawn["account"]))
    return {p.name: drawn[p.name] for p in CATALOGUE[name].parameters}


def agree(world: World, name: str, given: dict[str, str], cut: cuts.Cut) -> int:
    """The view, the raw rows and the journal say the same. How many rows."""
    why = f"{name} {given} at {cut.text} known {cut.known_at} (CLEARLINE_PROOF_SEED={SEED})"
    must = ORACLE[name](world.held(cut), given)
    assert RAW_SQL[name](world.raw(cut), given) == must, f"raw rows: {why}"
    try:
        found = ask(world.db, CATALOGUE[name], given, cut).rows
    except NotKnownError:
        found = []
    assert found == must, why
    return len(must)


# ---- the proofs ----------------------------------------------------------------------------------------------------


def test_the_history_has_what_a_bank_has(weeks: World, shops: World) -> None:
    records = [r for _, _, r in weeks.journal]
    assert sum("late_for" in r.changes for r in records) > 30, SEED
    assert len({r.value_date // 31 for r in records}) > 1
    assert any(b.booked_at < a.booked_at for a, b in itertools.pairwise(records)), SEED
    bought = [r for _, _, r in shops.journal if r.command == "Transaction"]
    assert set(Counter(r.outcome for r in bought)) == {"settled", "rejected"}
    assert sum(p.amount for r in bought for p in r.postings if p.side == "debit") == sum(
        cents for _, _, cents in list(purchases())[:SHOP_ROWS]
    )


@pytest.mark.parametrize("name", NAMES)
def test_views_raw_rows_and_journal_agree(weeks: World, name: str) -> None:
    rng = random.Random(f"{name} {SEED}")
    rows = sum(agree(weeks, name, draw_asked(weeks, rng, name), draw_cut(weeks, rng)) for _ in range(8))
    everything = {p.name: p.default or "" for p in CATALOGUE[name].parameters}
    if name == "statement":
        everything["account"] = "bank:clearing:CNY"
    for on in ("value", "booking"):
        given = {**everything, "on": on} if "on" in everything else everything
        if name != "holds":
            rows += agree(weeks, name, given, cuts.head(weeks.db))
        else:
            rows += sum(agree(weeks, name, given, draw_cut(weeks, rng)) for _ in range(8))
    assert rows, SEED


@pytest.mark.parametrize("name", NAMES)
def test_they_agree_on_real_purchases(shops: World, name: str) -> None:
    rng = random.Random(f"shops {name} {SEED}")
    for _ in range(2):
        agree(shops, name, draw_asked(shops, rng, name), draw_cut(shops, rng))


def check_balances(world: World, rng: random.Random, number: int, single: int) -> None:
    """Balances of all accounts until `number` were compared, and of `single` accounts."""
    compared = 0
    while single or compared < number:
        cut = draw_cut(world, rng)
        given = draw_asked(world, rng, "balances") | {"partner": "", "account": ""}
        held_then = world.held(cut)
        opened = sorted(held_then.opened())
        if compared >= number and opened:
            given["account"] = rng.choice(opened)
            single -= 1
        must = ORACLE["balances"](held_then, given)
        found = ask(world.db, CATALOGUE["balances"], given, cut).rows if must else []
        assert found == must, f"{given} at {cut.text} known {cut.known_at} (CLEARLINE_PROOF_SEED={SEED})"
        compared += len(must)


def test_ten_thousand_balances_are_equal(weeks: World) -> None:
    """Account, until, known_at, cut and axis drawn; ClickHouse and Python say the same."""
    check_balances(weeks, random.Random(f"balances {SEED}"), 10_000, 20)


def test_holds_are_what_accounts_have_pending(weeks: World) -> None:
    """The last counters of each account in the journal, which the ledger itself kept."""
    rng, seen = random.Random(f"pending {SEED}"), Counter[str]()
    for _ in range(12):
        cut = draw_cut(weeks, rng)
        cut = cuts.Cut(cut.places)
        pending: dict[tuple[int, str], int] = {}
        for p, _, r in sorted(weeks.held(cut).records, key=lambda x: x[2].sequence):
            legs: tuple[PostedLeg | PendingLeg, ...] = (*r.postings, *r.pending)
            for leg in legs:
                pending[p, leg.account_id] = leg.debits_pending
        must = Counter[str]()
        for (_, account), amount in pending.items():
            must[account] += amount
        found = Counter[str]()
        for row in ask(weeks.db, CATALOGUE["holds"], {}, cut).dicts():
            found[row["account"]] += row["outstanding"]
            seen[row["kind"]] += 1
        assert +must == +found, (cut.text, SEED)
    assert seen["hold"] and seen["crossing"], (seen, SEED)


def test_replayed_commands_make_the_same_files(weeks: World, server: ClickHouseServer) -> None:
    """The logs settled again by new Books, partition by partition: the same journal, and from a new database the same
    bytes of every report, twice."""
    again = weeks.history.replayed()
    as_values = [sorted((x.partition, x.offset, x.value) for x in lines) for lines in (weeks.history.lines, again)]
    assert as_values[0] == as_values[1]
    db = Database(stored(server, again, random.Random(f"again {SEED}")), reader=True)
    rng = random.Random(f"files {SEED}")
    for cut in (cuts.head(weeks.db), draw_cut(weeks, rng)):
        other = cuts.at(db, {p: at.sequence for p, at in cut.places.items()}, cut.known_at)
        for report in map(CATALOGUE.__getitem__, NAMES):
            given = draw_asked(weeks, rng, report.name)
            if report.name == "statement":
                given["account"] = "bank:clearing:CNY"
            asked = ((weeks.db, report, given, cut),) * 2 + ((db, report, given, other),)
            try:
                made = [ask(*a) for a in asked]
            except NotKnownError:  # an account that was drawn and is opened after the cut: then it is known to neither
                for a in asked:
                    with pytest.raises(NotKnownError):
                        ask(*a)
                continue
            for form in formats.FORMS:
                assert len({formats.to_bytes(x, form) for x in made}) == 1, (report.name, form, given, cut.text, SEED)
    db.close()


def test_subtrees_add_up(weeks: World) -> None:
    """What roots asked for is all that was asked for, and nothing twice."""
    everything = ask(weeks.db, CATALOGUE["totals"], {}, cuts.head(weeks.db)).rows
    roots = sorted({row[1].split("/")[0] for row in everything})
    parts = [
        row for root in roots for row in ask(weeks.db, CATALOGUE["totals"], {"partner": root}, cuts.head(weeks.db)).rows
    ]
    assert sorted(parts) == everything
    assert all(below(row[1], root) for root in roots for row in parts if row[1].split("/")[0] == root)


@pytest.mark.long
def test_a_quarter_of_a_year(server: ClickHouseServer) -> None:
    """A hundred days, 50,000 commands, 250,000 balances; and all purchases of the public data set."""
    for world in world_of(server, Shops(), date(1996, 12, 30), 550):
        bought = [r for _, _, r in world.journal if r.command == "Transaction"]
        assert Counter(r.outcome for r in bought) == {"settled": 6_911, "rejected": 8}
        rng = random.Random(f"long shops {SEED}")
        for name in NAMES:
            for _ in range(30):
                agree(world, name, draw_asked(world, rng, name), draw_cut(world, rng))
    for world in world_of(server, Weeks(SEED + 1, 100, 600, 40, 1500), EPOCH + timedelta(days=START - 2), 104):
        rng = random.Random(f"long {SEED}")
        for name in NAMES:
            for _ in range(60):
                agree(world, name, draw_asked(world, rng, name), draw_cut(world, rng))
        check_balances(world, rng, 250_000, 1000)
