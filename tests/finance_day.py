"""A month of a bank that looks like one, ending on a working day in the afternoon: for the page's tests and pictures.

Shops and platforms with tills, products with amounts of their own, more business on working days and by day than on
Sundays and by night, fees, refusals, and a few references that somebody meant badly. All from one seed.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from clearline.gateway.finance.cells import money
from clearline.recon.importing import Given, import_file
from clearline.recon.mapping import read_mapping
from clearline.recon.match import Rules
from clearline.recon.run import Request, run
from schemas.identity import partition_of
from schemas.records import JournalRecord, PostedLeg
from sinks import migrate
from sinks.clickhouse import ClickHouseConfig, Database
from sinks.finance import closes
from sinks.finance import cut as cuts
from sinks.ledger_sink import Arrival, LedgerSink
from sinks.recon import Recon, Word
from tests.journals import DAY_MS, Line, Maker, local_codec
from tests.sink_child import TOPIC, feed

NOW = datetime(2026, 11, 27, 16, 42, 7, 318_000, UTC)  # a Friday
NOW_MS = int(NOW.timestamp()) * 1000 + 318
CLOSED, CLOSED_MS = date(2026, 11, 25), NOW_MS // DAY_MS * DAY_MS - DAY_MS + 1_200_000  # 00:20 on the day after
CLEARING = "bank:clearing:CNY"
DAYS = 30
RECORDS = 4_200

HOSTILE = (
    "<script>document.title='owned'</script>", '"><img src=x onerror=alert(1)>', "=HYPERLINK(\"http://evil.example\",\"pay\")",
    "{{ 7 * 7 }}", "\u202egnp.eciovni", "a" * 180, "javascript:alert(1)", "' OR 1=1 --",
)  # fmt: skip


@dataclass(frozen=True)
class Product:
    """A product: how often of a hundred, and its least and largest amount in minor units of CNY."""

    name: str
    operation: str
    often: int
    least: int
    most: int


PRODUCTS = (
    Product("scan-to-pay", "collect", 44, 8_00, 9_800_00), Product("wallet", "transfer", 22, 50_00, 16_000_00),
    Product("payment", "pay", 12, 900_00, 48_000_00), Product("escrow", "release", 8, 2_000_00, 40_000_00),
    Product("bill-discounting", "discount", 5, 20_000_00, 90_000_00),
    Product("smart-loan", "repay", 5, 400_00, 60_000_00), Product("deposit", "place", 4, 5_000_00, 70_000_00),
)  # fmt: skip
PARTNERS = (
    "orchard", "orchard/store-01", "orchard/store-02", "orchard/store-03", "lotus-travel", "harbor-pay",
    "harbor-pay/tea-house", "harbor-pay/book-nook", "northwind", "jade-logistics",
)  # fmt: skip
CURRENCIES = {"CNY": 80, "USD": 15, "JPY": 5}
_OFTEN = (3, 2, 1, 1, 1, 2, 4, 7, 11, 14, 15, 15, 16, 14, 13, 14, 14, 13, 12, 14, 13, 10, 7, 4)  # by hour
_WEEK = (100, 96, 98, 104, 118, 72, 55)


@dataclass
class Month(Maker):
    """Journals of such a bank."""

    start_ms: int = NOW_MS // DAY_MS * DAY_MS - (DAYS - 1) * DAY_MS
    gap: int = 0
    wide_every: int = 1 << 30
    product: Product = field(default=PRODUCTS[0])
    closed: bool = False

    @property
    def now_ms(self) -> int:
        """When the last record was booked."""
        return self._now

    def control(self, partition: int, command: str, changes: dict[str, str]) -> Line:
        """A record about the closed day."""
        r = self._record(partition, "bank", "applied", command=command, subject_id=CLOSED.isoformat(), changes=changes)
        return self._line(local_codec(), partition, r)

    @property
    def partners(self) -> list[str]:
        return list(PARTNERS)

    def _openings(self) -> Iterator[tuple[int, JournalRecord]]:
        for partner in self.partners:
            p = partition_of(partner, self.partitions)
            for currency in CURRENCIES:
                for name in ("main", "till", "reserve"):
                    yield p, self._open(p, f"{partner}:wallet:{name}-{currency.lower()}", "liability", currency)
        for p in range(self.partitions):
            for currency in CURRENCIES:
                yield p, self._open(p, f"bank:clearing:{currency}", "asset", currency)
                yield p, self._open(p, f"bank:fees:{currency}", "income", currency)

    def _entry(self, p: int, partner: str) -> tuple[PostedLeg, ...]:
        self.product = self._random.choices(PRODUCTS, [x.often for x in PRODUCTS])[0]
        currency = self._random.choices(list(CURRENCIES), list(CURRENCIES.values()))[0]
        least, most = self.product.least, self.product.most
        amount = min(self._random.randrange(least, most) for _ in range(2))
        amount = amount // 10 * 7 if currency == "USD" else amount // 5 if currency == "JPY" else amount
        own = [a.account_id for a in self._of(p, partner, currency)]
        payer, payee = self._random.sample([*own, f"bank:clearing:{currency}", f"bank:clearing:{currency}"], 2)
        if payer == payee:
            payer = own[0]
        fee = amount * 6 // 1000
        legs = [(payer, "debit", amount), (payee, "credit", amount - fee), (f"bank:fees:{currency}", "credit", fee)]
        return tuple(self._post(p, *leg) for leg in legs if leg[2] > 0)

    def _record(self, p: int, partner: str, outcome: str, **more: Any) -> JournalRecord:
        at = datetime.fromtimestamp(self._now / 1000, UTC)
        pace = _OFTEN[at.hour] * _WEEK[at.weekday()]
        opening = more.get("command") == "OpenAccount"
        self.step_ms = 3 if opening else max(2, 2 * DAYS * DAY_MS * 830 // (RECORDS * pace))
        r = super()._record(p, partner, outcome, **more)
        if r.command != "Transaction":
            return r
        late = r.changes.get("late_for") if self.closed else None
        changes = {n: v for n, v in r.changes.items() if n != "late_for"}
        value_date = r.value_date
        if self.closed:
            value_date = max(value_date, CLOSED.toordinal() + 1 - date(1970, 1, 1).toordinal())
            changes |= {"late_for": CLOSED.isoformat()} if late else {}
        reference = f"INV-{r.booked_at % 1_000_000:06}-{self._random.randrange(10, 99)}"
        if r.outcome == "settled" and self._random.random() < 0.02:
            reference = self._random.choice(HOSTILE)
        return msgspec.structs.replace(
            r,
            product=self.product.name,
            operation=self.product.operation,
            reference=reference,
            changes=changes,
            value_date=value_date,
        )


def fill(config: ClickHouseConfig) -> None:
    """Puts the month into a database, up to NOW: the day before yesterday closed, sealed and in part late, the clearing
    account reconciled with a statement of another bank that does not quite agree."""
    month, lines = close(config)
    while month.now_ms <= NOW_MS:
        lines += month.lines(10)
    _feed(config, [x for x in lines if x.record.booked_at <= NOW_MS])
    db = Database(config)
    _measure(db)
    _reconcile(db)
    db.close()


def close(config: ClickHouseConfig) -> tuple[Month, list[Line]]:
    """Puts the month into a database up to the closed day's seal. Returns it and its records: the last ones, the seal's,
    are not stored yet."""
    migrate.apply(config)
    month = Month(11)
    lines = month.lines(RECORDS // 2)
    while month.now_ms < CLOSED_MS:
        lines += month.lines(10)
    lines += [month.control(p, "CloseDay", {"requested_by": "l.chen", "note": "end of day"}) for p in range(3)]
    month.closed = True
    _feed(config, lines)
    db = Database(config)
    sequences = {p: c.sequence for p, c in closes.closings(db, CLOSED).items()}
    figures = closes.work_out(db, CLOSED, cuts.at(db, sequences))
    db.close()
    said = {
        "hash": figures.hash, "cut": figures.cut.text, "figures": figures.text, "requested_by": "l.chen", "note": "",
    }  # fmt: skip
    return month, lines + [month.control(p, "SealDay", said) for p in range(3)]


def _feed(config: ClickHouseConfig, lines: Iterable[Line]) -> None:
    sink = LedgerSink(config, TOPIC, local_codec())
    feed(sink, [Arrival(x.partition, x.offset, x.value) for x in lines], 5_000)
    sink.close()


def fill_to_the_seal(config: ClickHouseConfig) -> None:
    """Puts the month into a database up to the closed day's seal, which is the last that is in it."""
    _feed(config, close(config)[1])


def _measure(db: Database) -> None:
    """Calls of the last day as gateways count them, each minute: a median near 4 ms and a tail."""
    db.run(
        "INSERT INTO calls (topic, partition, offset, instance, minute, partner_id, method, route, status, calls, "
        "micros_sum, micros_max, buckets, counted_at) WITH 1 + number % 2 AS n SELECT 'test.calls@one', 0, number, 'a', "
        f"toDateTime('{NOW:%Y-%m-%d} 00:00:00', 'UTC') + number * 600, 'orchard', 'POST', '/v1/transactions', 201, "
        "2 * n + 1, 8000 * n, 41000 + number % 900, arrayMap(i -> multiIf(i IN (17, 18), n, i = 26, 1, 0), range(1, 62)), "
        f"toDateTime64('{NOW:%Y-%m-%d} 00:00:59', 3, 'UTC') + number * 600 FROM numbers({NOW.hour * 6 + 4})"
    )


def _reconcile(db: Database) -> None:
    """A statement of three days: most lines as the ledger has them, one missing on either side, and others that differ."""
    rows = db.rows(
        "SELECT value_date, side, amount, reference FROM postings WHERE account_id = %(a)s AND reference LIKE 'INV-%%' "
        "AND value_date BETWEEN '2026-11-20' AND '2026-11-25' ORDER BY value_date, booked_at, partition, sequence, line",
        {"a": CLEARING},
    )
    lines = [[day, int(n) * (1 if side == "debit" else -1), reference] for day, side, n, reference in rows]
    lines[3][1] += 9_00
    lines[-3][0] += timedelta(days=-4)
    del lines[5]
    lines.append([date(2026, 11, 24), -1_250_00, "FEE 2026-11"])
    lines.append(list(lines[10]))
    with tempfile.TemporaryDirectory() as folder:
        file, rules = Path(folder) / "clearing-2026-11-25.csv", Path(folder) / "mapping.yaml"
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(("valued", "amount", "reference"))
            writer.writerows((day, money(n, "CNY").replace(",", ""), reference) for day, n, reference in sorted(lines))
        rules.write_text(
            'currency: CNY\ndate_format: "%Y-%m-%d"\nexternal_account: CLEARING-0001\n'
            "columns:\n  value_date: valued\n  amount: amount\n  reference: {column: reference}\n"
        )
        recon = Recon(db)
        import_file(recon, file, CLEARING, read_mapping(rules), Given())
        run(recon, Request(CLEARING, cuts.head(db), Rules(2, 0)))
        fee = next(b for b in recon.breaks(recon.runs(CLEARING)[-1]) if b.reference == "FEE 2026-11")
        recon.say(CLEARING, Word(fee.id, "claimed back, ticket 4711", "l.chen", NOW))
