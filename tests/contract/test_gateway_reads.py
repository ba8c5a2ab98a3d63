"""What a gateway reads: the projections over a real ClickHouse and a real Valkey against the twin's Books, to the cent.

The twin settles the commands. Its journal goes through the ledger's sink, its accounts through the balances' script, so
both sides know of exactly the same records, and every answer must be equal.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from clearline.config import Settings
from clearline.fields import EPOCH
from clearline.gateway.parts import Place
from clearline.gateway.projections import PagePool, Projections
from clearline.gateway.reads import Reads, StatementPage
from clearline.gateway.twin import LedgerTwin, codec, ledger_of, make_twin
from clearline.gateway.twin_reads import TwinReads, _Rows
from ledger.calendars import DAY_MS
from schemas.errors import PartUnavailableError
from schemas.records import (
    AccountState,
    BlockAccount,
    CloseAccount,
    JournalRecord,
    Limit,
    PartitionState,
    SetAccountLimit,
    SetCalendar,
    SetLimit,
    Transaction,
)
from sinks import migrate
from sinks.balance_reader import BalanceReader
from sinks.balances import Balances, RedisConfig, encode_shard
from sinks.clickhouse import ClickHouseConfig
from sinks.ledger_sink import Arrival, LedgerSink
from sinks.pages import LineKey, StatementLine
from tests.contract.test_sinks_redis import valkey as valkey  # the fixture
from tests.sink_child import TOPIC, feed
from tests.sink_servers import ClickHouseServer

pytestmark = pytest.mark.stack

T = TypeVar("T")
PARTITIONS = 2
TREE = ("acme", "acme/shop-1", "acme/shop-2", "acme/shop-2/till", "acme0", "globex", "globex/eu")
FIRST = date(2026, 11, 1)
LAST = date(2026, 12, 31)


class Rows(_Rows):
    """Rows of the twin's Books, with what `StateRows` has of accounts: here nothing, or what a test says."""

    def __init__(self, twin: LedgerTwin) -> None:
        super().__init__(twin)
        self.recent: dict[str, AccountState] = {}
        self.away = False

    def account(self, account_id: str) -> AccountState | None:
        if self.away:
            raise PartUnavailableError("Kafka", "test", "still being read")
        return self.recent.get(account_id)

    def head(self, partition: int) -> PartitionState | None:
        return self._ledger.base(partition).head.record()

    def close(self) -> None:
        pass


@dataclass
class Ground:
    """A twin with a month of business, and stores that hold all of it."""

    twin: LedgerTwin
    clickhouse: ClickHouseConfig
    redis: RedisConfig

    @property
    def accounts(self) -> list[str]:
        return list(self.twin.accounts())

    @asynccontextmanager
    async def projections(
        self, rows: Rows | None = None, redis: RedisConfig | None = None
    ) -> AsyncIterator[Projections]:
        reads = Projections(
            rows or Rows(self.twin), BalanceReader(redis or self.redis), PagePool(self.clickhouse), PARTITIONS,
            lambda: self.twin.now_ms,
        )  # fmt: skip
        try:
            yield reads
        finally:
            await reads.close()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, valkey: str) -> Iterator[Ground]:
    folder: Path = tmp_path_factory.mktemp("clickhouse")
    server = ClickHouseServer(folder)
    server.start()
    config = server.config(f"clearline_{uuid.uuid4().hex[:8]}")
    migrate.apply(config)
    twin = ledger_of(make_twin(Settings(world="sandbox", partitions=PARTITIONS), PARTITIONS))
    business(twin)
    redis = RedisConfig(valkey, f"t{uuid.uuid4().hex[:8]}")
    store(twin, config, redis)
    yield Ground(twin, config, redis)
    server.stop()


def business(twin: LedgerTwin) -> None:
    """Payments, holds, refunds, what crosses partitions, late and early dates, over thirty days."""
    rng = random.Random(5)
    twin.admit(*TREE)
    names = [f"{p}:wallet:{n}" for p in TREE for n in ("a", "b")]
    twin.open(*names, funds=1_000_000)
    twin.open("acme:wallet:usd", currency="USD")
    holds: list[tuple[str, str]] = []
    paid: list[tuple[str, str]] = []
    for i in range(300):
        twin.advance(rng.randrange(DAY_MS // 8))
        payer, payee = rng.sample(names, 2)
        asker, key, day = payer.partition(":")[0], f"k{i}", twin.now_ms // DAY_MS + rng.choice((0, 0, 0, -3, 2))
        accounts = {"payer": payer, "payee": payee}
        amount, kind = rng.randrange(1, 5_000), rng.random()
        t = Transaction(asker, key, "wallet", "transfer", amount, "CNY", accounts, (), day, reference=f"order {i}")
        if kind < 0.1:
            t = Transaction(asker, key, "wallet", "hold", amount, "CNY", accounts, (), day)
        elif kind < 0.2 and holds:
            who, original = holds.pop()
            t = Transaction(who, key, "wallet", "capture", 1, "CNY", {}, (), day, original=original, final=i % 2 == 0)
        elif kind < 0.3 and paid:
            who, original = paid.pop()
            t = Transaction(who, key, "wallet", "refund", 1, "CNY", {}, (), day, original=original)
        record = twin.settle(t)
        if record.outcome == "settled":
            {"hold": holds, "transfer": paid}.get(t.operation, []).append((t.partner_id, key))
    twin.must(
        BlockAccount("bank", twin.key(), "acme:wallet:a", True, False, freeze=True),
        SetAccountLimit("bank", twin.key(), "acme:wallet:b", -500, credit_limit=20),
        SetAccountLimit("bank", twin.key(), "acme/shop-1:wallet:a", None),
        CloseAccount("bank", twin.key(), "acme:wallet:usd"),
        SetCalendar("bank", twin.key(), "acme", "Asia/Shanghai", (), 0b1100000),
        SetLimit("bank", twin.key(), "partner", "acme", (Limit("day", "CNY", 90, 10_000_000),)),
        SetLimit("bank", twin.key(), "partner", "acme/shop-1", (Limit("minute", "", 5, None), Limit("month", "CNY", None, 7))),
        SetLimit("bank", twin.key(), "account", "acme/shop-2/till:wallet:a", (Limit("transaction", "CNY", None, 100),)),
        SetLimit("bank", twin.key(), "account", "acme:wallet:b", (Limit("hour", "CNY", 3, None),)),
        SetLimit("bank", twin.key(), "partner", "acme0", (Limit("hour", "CNY", 3, None),)),
    )  # fmt: skip
    accounts = {"payer": "acme:wallet:b", "payee": "acme/shop-1:wallet:a"}
    twin.settle(Transaction("acme", "used", "wallet", "transfer", 77, "CNY", accounts, (), twin.now_ms // DAY_MS))


def store(twin: LedgerTwin, config: ClickHouseConfig, redis: RedisConfig) -> None:
    """Puts everything into both stores, as the sinks do."""
    arrivals = [Arrival(p, i, codec().encode(r)) for p in range(PARTITIONS) for i, r in enumerate(twin.journal_of(p))]
    sink = LedgerSink(config, TOPIC, codec())
    feed(sink, arrivals, 150)
    sink.close()
    balances = Balances(redis)
    for p in range(PARTITIONS):
        base = twin.base(p)
        balances.begin(p, TOPIC, 1)
        values = {a.account_id: encode_shard(a.state()) for a in base.accounts.values()}
        balances.apply(p, TOPIC, 0, 1, base.head.next_offset, values)
    balances.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def test_accounts_and_balances_are_those_of_the_books(ground: Ground) -> None:
    async def same() -> None:
        twin = TwinReads(ground.twin)
        async with ground.projections() as reads:
            for account_id in [*ground.accounts, "acme:wallet:none", "acme:wallet:", "nobody:wallet:a"]:
                assert await reads.account(account_id) == await twin.account(account_id)
                real, books = await reads.balance(account_id), await twin.balance(account_id)
                if real is not None and books is not None:
                    real = real._replace(account=real.account._replace(opened_at=books.account.opened_at))
                assert real == books
            for partner in TREE:
                assert await reads.accounts(partner, "", 1000) == await twin.accounts(partner, "", 1000)
                assert {a.account_id.partition(":")[0] for a in await reads.accounts(partner, "", 1000)} == {
                    p for p in TREE if p == partner or p.startswith(partner + "/")
                }

    run(same())


@pytest.mark.parametrize("size", [2, 9])
def test_pages_of_accounts_miss_and_repeat_nothing(ground: Ground, size: int) -> None:
    async def walk(reads: Reads) -> list[str]:
        out: list[str] = []
        while page := await reads.accounts("acme", out[-1] if out else "", size):
            assert len(page) <= size
            out += [a.account_id for a in page]
        return out

    async def same() -> None:
        async with ground.projections() as reads:
            found = await walk(reads)
        assert found == await walk(TwinReads(ground.twin)) == sorted(set(found)) and len(found) == 9

    run(same())


async def whole(
    reads: Reads, account_id: str, since: date, until: date, on: Any, size: int
) -> tuple[StatementPage, list[StatementLine]]:
    """A statement in pages, and its first page."""
    first = page = await reads.statement(account_id, since, until, on, size, None, -1)
    assert page is not None and first is not None
    lines = list(page.lines)
    while page.next is not None:
        assert page.next == page.lines[-1].key and len(page.lines) == size
        page = await reads.statement(account_id, since, until, on, size, page.next, first.through)
        assert page is not None
        assert page[3:7] == first[3:7], "each page tells the sums of the whole period"
        lines += page.lines
    return first, lines


@pytest.mark.parametrize("on", ["value", "booking"])
def test_statements_are_those_of_the_journal_however_they_are_paged(ground: Ground, on: Any) -> None:
    rng = random.Random(f"{on}")

    async def same() -> None:
        twin = TwinReads(ground.twin)
        async with ground.projections() as reads:
            for account_id in ("acme:wallet:b", "acme/shop-2/till:wallet:a", "globex:wallet:a", "acme:wallet:usd"):
                days = sorted(FIRST + timedelta(days=20 + rng.randrange(40)) for _ in range(2))
                spans: list[tuple[date, date, int]] = [(FIRST, LAST, 1000), (days[0], days[1], rng.randrange(3, 8))]
                for since, until, size in spans:
                    first, lines = await whole(reads, account_id, since, until, on, size)
                    books, must = await whole(twin, account_id, since, until, on, 1000)
                    assert lines == must
                    assert first[:7] == books[:7] and first.through == books.through and first.as_of == books.as_of
                    balance = first.opening
                    for x in lines:
                        balance += x.amount if x.side == "credit" else -x.amount
                        assert x.balance == balance
                    assert balance == first.closing
                full, _ = await whole(reads, account_id, FIRST, LAST, on, 1000)
                row = await reads.balance(account_id)
                assert row is not None and full.closing == row.credits_posted - row.debits_posted
                assert len(lines) <= len(full.lines)

    run(same())


def test_what_is_booked_while_pages_are_turned_moves_no_line(ground: Ground) -> None:
    """Rows that are stored after the first page, on days before and after its last line, are not in the others."""
    account_id = "globex/eu:wallet:b"

    async def same() -> None:
        async with ground.projections() as reads:
            _, before = await whole(reads, account_id, FIRST, LAST, "value", 1000)
            place = reads._place(account_id)
            through = len(ground.twin.journal_of(place)) - 1
            cut = through // 2
            first = await reads.statement(account_id, FIRST, LAST, "value", 9, None, cut)
            assert first is not None and first.through == cut
            lines, page = list(first.lines), first
            while page.next is not None:
                following = await reads.statement(account_id, FIRST, LAST, "value", 9, page.next, cut)
                assert following is not None
                page = following
                assert page[3:7] == first[3:7]
                lines += page.lines
            early = {r.sequence for r in ground.twin.journal_of(place)[: cut + 1]}
            must = [x for x in before if x.key.sequence in early]
            assert [x.key for x in lines] == [x.key for x in must] and 0 < len(must) < len(before)
            assert lines[-1].balance == first.closing
            # A cursor cannot reach beyond what is stored.
            beyond = await reads.statement(account_id, FIRST, LAST, "value", 1000, None, 10**12)
            assert beyond is not None and beyond.through == through

    run(same())


def test_partners_products_and_limits_are_those_of_the_books(ground: Ground) -> None:
    async def same() -> None:
        twin = TwinReads(ground.twin)
        async with ground.projections() as reads:
            assert [p.partner_id for p in await reads.partners("acme", "", 9)] == list(TREE[1:4])
            assert await reads.partners("acme", "acme/shop-1", 1) == await twin.partners("acme", "acme/shop-1", 1)
            assert (await reads.partner("acme/shop-2/till")) is not None and await reads.partner("acme/none") is None
            rows = await reads.limits("acme", ("", ""), 100)
            assert [(r.level, r.subject_id) for r in rows] == [
                ("account", "acme/shop-2/till:wallet:a"), ("account", "acme:wallet:b"), ("partner", "acme"),
                ("partner", "acme/shop-1"),
            ]  # fmt: skip
            used = {u.window: (u.transactions, u.amount) for r in rows for u in r.used if r.subject_id == "acme"}
            assert used == {"day": (1, 77)}
            walked = [r for i in range(4) for r in await reads.limits("acme", rows[i - 1][:2] if i else ("", ""), 1)]
            assert walked == rows
            assert [r.subject_id for r in await reads.limits("acme/shop-1", ("", ""), 9)] == ["acme/shop-1"]
            assert await reads.limit("partner", "acme/none", "acme") is None

    run(same())


def test_a_window_that_is_over_has_used_nothing(ground: Ground) -> None:
    async def same() -> None:
        twin = TwinReads(ground.twin)
        (row,) = [r for r in await twin.limits("acme", ("", ""), 9) if r.subject_id == "acme"]
        now, ends = ground.twin.now_ms, row.used[0].ends_at
        assert now < ends
        try:
            ground.twin.now_ms = ends - 1
            assert await twin.limit("partner", "acme", "") == row
            ground.twin.now_ms = ends
            later = await twin.limit("partner", "acme", "")
            assert later is not None and later.used[0][2:4] == (0, 0) and later.used[0].ends_at > ends
        finally:
            ground.twin.now_ms = now

    run(same())


def test_without_redis_clickhouse_tells_what_is_posted(ground: Ground) -> None:
    async def same() -> None:
        twin = TwinReads(ground.twin)
        nowhere = RedisConfig("redis://127.0.0.1:1/0", "none", 0.5)
        async with ground.projections(redis=nowhere) as reads:
            for account_id in ground.accounts:
                real, books = await reads.balance(account_id), await twin.balance(account_id)
                assert real is not None and books is not None
                assert real.source == "clickhouse" and real.account == books.account
                assert (real.debits_posted, real.credits_posted) == (books.debits_posted, books.credits_posted)
                assert (real.debits_pending, real.credits_pending, real.available) == (None, None, None)
                assert real.as_of == books.as_of
            assert await reads.balance("acme:wallet:none") is None
            assert await reads.accounts("acme", "", 99) == await twin.accounts("acme", "", 99)

    run(same())


def test_a_projection_that_is_built_up_again_proves_nothing(ground: Ground) -> None:
    again = RedisConfig(ground.redis.url, f"t{uuid.uuid4().hex[:8]}")
    balances = Balances(again)
    for p in range(PARTITIONS):
        balances.begin(p, TOPIC, 10)
    balances.close()

    async def same() -> None:
        async with ground.projections(redis=again) as reads:
            found = await reads.balance("acme:wallet:b")
            assert found is not None and found.source == "clickhouse"

    run(same())


def test_what_changed_a_moment_ago_is_told_before_the_stores_have_it(ground: Ground) -> None:
    """An account that was just opened, and one that was just paid."""
    rows = Rows(ground.twin)
    place = 0 if any(a.startswith("globex") for a in ground.twin.base(0).accounts) else 1
    end = ground.twin.base(place).head.next_offset
    new = AccountState("globex:wallet:new", "liability", "CNY", 0, False, False, False, 0, 0, 0, 5, end - 1)
    known = ground.twin.base(place).accounts["globex:wallet:a"].state()
    paid = AccountState(
        **{f: getattr(known, f) for f in known.__struct_fields__} | {"credits_posted": 10**7, "source_offset": end - 1}
    )
    old = AccountState(
        **{f: getattr(known, f) for f in known.__struct_fields__} | {"credits_posted": 1, "source_offset": -1}
    )

    async def same() -> None:
        async with ground.projections(rows) as reads:
            assert await reads.balance(new.account_id) is None
            rows.recent[new.account_id] = new
            found = await reads.balance(new.account_id)
            assert found is not None and (found.source, found.available) == ("state", 5)
            assert found.as_of == (Place(place, end - 1),)
            page = await reads.statement(new.account_id, FIRST, LAST, "value", 9, None, -1)
            assert page is not None and page.lines == () and (page.opening, page.closing) == (0, 0)
            row = await reads.account(new.account_id)
            assert row is not None and row.opened_at == 0
            rows.recent[known.account_id] = paid
            found = await reads.balance(known.account_id)
            assert found is not None and (found.source, found.credits_posted) == ("state", 10**7)
            rows.recent[known.account_id] = old
            found = await reads.balance(known.account_id)
            assert found is not None and (found.source, found.credits_posted) == ("redis", known.credits_posted)
            rows.away = True
            assert (await reads.balance(known.account_id)) == found

    run(same())


def test_a_read_waits_for_what_this_gateway_has_answered(ground: Ground) -> None:
    """And not without end for what does not come."""

    class Behind(Rows):
        """`ledger.state` as it is a few looks later, or never."""

        looks = 0

        def head(self, partition: int) -> PartitionState | None:
            self.looks += 1
            found = super().head(partition)
            assert found is not None
            return found if self.looks > 3 else replace(found, next_offset=1)

    async def same() -> None:
        place = TwinReads(ground.twin)._place("acme")
        end = ground.twin.base(place).head.next_offset
        for answered, looks in ((-1, 1), (0, 1), (end - 1, 4)):
            rows = Behind(ground.twin)
            async with ground.projections(rows) as reads:
                reads._answered = lambda _partition, answered=answered: answered  # type: ignore[misc]
                assert await reads.partner("acme") is not None
                assert rows.looks == looks
        rows = Behind(ground.twin)
        async with ground.projections(rows) as reads:
            reads._answered = lambda _partition: end
            assert await reads.partner("acme") is not None and rows.looks > 10

    run(same())


def test_nobody_is_told_that_an_account_is_not_there_by_stores_that_are_away(ground: Ground) -> None:
    nowhere = RedisConfig("redis://127.0.0.1:1/0", "none", 0.5)

    async def same() -> None:
        reads = Projections(
            Rows(ground.twin), BalanceReader(nowhere), PagePool(ClickHouseConfig("127.0.0.1", 1, "clearline_none")),
            PARTITIONS, lambda: ground.twin.now_ms,
        )  # fmt: skip
        for ask in (reads.account, reads.balance):
            with pytest.raises(PartUnavailableError):
                await ask("acme:wallet:none")
        with pytest.raises(PartUnavailableError):
            await reads.statement("acme:wallet:b", FIRST, LAST, "value", 9, None, -1)
        assert await reads.partner("acme") is not None
        await reads.close()

    run(same())


def test_a_store_that_is_too_slow_is_not_asked_without_end(ground: Ground) -> None:
    async def same() -> None:
        pool = PagePool(ground.clickhouse, threads=1, waiting_max=1)
        questions = [asyncio.ensure_future(pool.ask(lambda pages: pages.point(0))) for _ in range(5)]
        done = await asyncio.gather(*questions, return_exceptions=True)
        assert sum(isinstance(d, PartUnavailableError) for d in done) == 3
        assert not isinstance(await pool.ask(lambda pages: pages.point(0)), Exception)
        pool.close()

    run(same())


def lines_in(journal: list[JournalRecord], account_id: str) -> int:
    return sum(p.account_id == account_id for r in journal for p in r.postings)


def test_the_ground_has_something_of_everything(ground: Ground) -> None:
    """Else these tests would hold what is never looked at."""
    journal = ground.twin.journal
    assert {r.operation for r in journal if r.outcome == "settled"} >= {"transfer", "hold", "capture", "refund"}
    assert any(r.command == "Crossing" and r.postings for r in journal), "something came from another partition"
    assert any(EPOCH + timedelta(days=r.value_date) != EPOCH + timedelta(days=r.booked_at // DAY_MS) for r in journal)
    assert min(lines_in(journal, a) for a in ground.accounts if not a.endswith("usd")) >= 10
    key = LineKey(FIRST, 0, 0, 0, 0)
    assert key < LineKey(FIRST, 0, 0, 0, 1) < LineKey(FIRST, 1, 0, 0, 0)
