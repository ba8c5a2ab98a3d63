"""A ledger of any size made inside ClickHouse: twelve months of entries, in journal order, in inserts like the sink's.

600 partners in trees of up to three levels; who asks, which of its accounts pays and which is paid follow Zipf's law
(exponent 1), so some accounts have hundreds of thousands of postings and most a few; some 110,000 accounts. Each entry
has a debit and a credit of one amount: to another account of the asker, to its till, or to the bank. 92% count on the
day of booking, 6% on the next, 2% up to five days earlier. Ids and hashes are random, references are numbered. The
counters are those that an account would have on average at that place, one side up by an amount with each of its
postings (they are not the sums of its postings: nothing here reads them), because that is what their size on disk
depends on. Of the outcomes only one in 50 is made: reports need them for cuts alone, and the rest of a row (a chain
value, an id) is random bytes, of which the other part of this benchmark tells the size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from sinks.clickhouse import Database
from sinks.ledger_sink import POSTINGS_PER_INSERT

DAYS = 365
DAY_MS = 86_400_000
PARTITIONS = 4
OUTCOME_EVERY = 50
MEAN = 23_230  # minor units, of the amounts

_ENTRIES = """
    SELECT
        number + {first} AS n,
        {began} + intDiv(toInt64(n) * {span}, {entries}) AS at,
        sipHash64(n) AS h1, sipHash64(n, 1) AS h2, sipHash64(n, 2) AS h3, sipHash64(n, 3) AS h4, sipHash64(n, 4) AS h5,
        toUInt32(exp((h1 % 1000003) / 1000003 * log(600))) - 1 AS p,
        p % 60 AS root,
        concat('p', toString(root), if(p < 60, '', concat('/s', toString(intDiv(p, 60)))),
            if(p < 300, '', concat('/t', toString(p % 7)))) AS partner,
        root % {partitions} AS place,
        20000 / (1 + p) AS wallets,
        toUInt32(exp((h2 % 1000003) / 1000003 * log(wallets))) - 1 AS payer_rank,
        toUInt32(exp((h3 % 1000003) / 1000003 * log(wallets))) - 1 AS rank,
        if(rank = payer_rank, rank + 1, rank) AS payee_rank,
        if(root % 13 = 12, 'USD', 'CNY') AS money,
        concat(partner, ':wallet:', toString(100000 + payer_rank)) AS payer,
        multiIf(
            h4 % 10 < 6, concat(partner, ':wallet:', toString(100000 + payee_rank)),
            h4 % 10 < 9, concat(partner, ':settlement:till'),
            concat('bank:clearing:', money)
        ) AS payee,
        ['scan-to-pay', 'wallet', 'escrow', 'smart-loan', 'treasury', 'payment', 'deposits', 'supply-chain', 'bill',
            'asset-pool', 'data', 'e-account'][1 + toUInt32(pow((h5 % 1009) / 1009, 3) * 12)] AS item,
        if(h5 % 11 = 0, 'refund', 'pay') AS does,
        toInt128(1 + toUInt64(exp(5 + (h4 % 1000003) / 1000003 * 7))) AS total,
        toInt32(intDiv(at, 86400000))
            + multiIf(h5 % 100 < 92, 0, h5 % 100 < 98, 1, -1 - toInt32(h5 % 5)) AS counts_on,
        reinterpretAsFixedString(bitOr(bitShiftLeft(toUInt128(h1), 64), toUInt128(h2))) AS id,
        log((p + 2) / (p + 1)) / log(600) AS partner_share,
        1.6 * partner_share * log((payer_rank + 2) / (payer_rank + 1)) / log(wallets) AS payer_share,
        multiIf(
            h4 % 10 < 6, 1.6 * partner_share * log((payee_rank + 2) / (payee_rank + 1)) / log(wallets),
            h4 % 10 < 9, 0.3 * partner_share,
            0.1
        ) AS payee_share
    FROM numbers({count})
"""
_POSTINGS = """
INSERT INTO postings (
    topic, partition, offset, source_offset, sequence, line, partner_id, account_id, side, amount, currency,
    debits_pending, debits_posted, credits_pending, credits_posted, product, operation, reference, command_id,
    value_day, value_date, booked_at, run
)
SELECT
    'bench.journal@one', place, n, n, n + 1, leg - 1, partner, if(leg = 1, payer, payee) AS account,
    if(leg = 1, 'debit', 'credit'), total, money,
    0, toInt128(debits_so_far * {mean} + cityHash64(account, debits_so_far, 1) % {mean}),
    0, toInt128(credits_so_far * {mean} + cityHash64(account, credits_so_far, 2) % {mean}),
    item, does, concat('order ', toString(1000000 + n)), id, counts_on, toDate32(counts_on),
    fromUnixTimestamp64Milli(at, 'UTC'), 1
FROM
(
    SELECT
        *, leg, toInt64(n * if(leg = 1, payer_share, payee_share)) AS so_far, intDiv(so_far + 1, 2) AS debits_so_far,
        intDiv(so_far, 2) AS credits_so_far
    FROM ({entries_sql})
    ARRAY JOIN [1, 2] AS leg
)
"""
_OUTCOMES = """
INSERT INTO outcomes (
    topic, partition, offset, source_offset, sequence, outcome, command, partner_id, idempotency_key, command_id,
    product, operation, value_day, value_date, booked_at, reference, first_offset, legs, chain, run
)
SELECT
    'bench.journal@one', place, n, n, n + 1, 'settled', 'Transaction', partner, concat('o-', toString(n)), id, item,
    does, counts_on, toDate32(counts_on), fromUnixTimestamp64Milli(at, 'UTC'), concat('order ', toString(1000000 + n)),
    -1, 2, SHA256(toString(n)), 1
FROM ({entries_sql})
WHERE n % {every} = 0 OR n >= {entries} - 5000
"""
_ACCOUNTS = """
INSERT INTO control_changes (
    topic, partition, offset, source_offset, sequence, command, partner_id, subject_id, account_type, currency, changes,
    booked_at, run
)
SELECT
    'bench.journal@one', 0, 0, 0, 1, 'OpenAccount', 'bank', account_id,
    if(startsWith(account_id, 'bank:'), 'asset', 'liability'), any(currency), '{}',
    fromUnixTimestamp64Milli({began}, 'UTC'), 1
FROM (SELECT account_id, currency, count() FROM postings GROUP BY account_id, value_date, booked_date, currency, side)
GROUP BY account_id
"""


def first_day(today: date) -> date:
    """The first of the days of booking; the last is the day before yesterday, so all of them are over."""
    return today - timedelta(days=DAYS + 1)


def fill(db: Database, postings: int, today: date, say: Callable[[str], None]) -> float:
    """Makes a ledger of so many postings in a database of the real migrations. Seconds that it took."""
    entries = postings // 2
    began = int(datetime.combine(first_day(today), datetime.min.time(), UTC).timestamp() * 1000)
    span = DAYS * DAY_MS - 1
    started = told = time.monotonic()
    at = 0
    while at < entries:
        end = min(at + POSTINGS_PER_INSERT // 2, entries, _end_of_month(began, span, entries, at))
        values = {"first": at, "count": end - at, "began": began, "span": span, "entries": entries,
                  "partitions": PARTITIONS, "every": OUTCOME_EVERY}  # fmt: skip
        rows = _ENTRIES.format(**values)
        db.run(_POSTINGS.format(entries_sql=rows, mean=MEAN))
        db.run(_OUTCOMES.format(entries_sql=rows, **values))
        at = end
        if time.monotonic() - told > 15:
            told = time.monotonic()
            say(f"{2 * at:,} of {postings:,} postings")
    db.run(_ACCOUNTS.replace("{began}", str(began)))
    return time.monotonic() - started


def _end_of_month(began: int, span: int, entries: int, at: int) -> int:
    """The first entry of the month after the one in which this entry is booked: an insert holds one month, as the
    sink's do."""
    day = datetime.fromtimestamp((began + at * span // entries) / 1000, UTC).date()
    following = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    ms = int(datetime.combine(following, datetime.min.time(), UTC).timestamp() * 1000) - began
    return max(at + 1, -(-ms * entries // span))


def settle_down(db: Database, seconds: float) -> int:
    """Waits until the server has merged what it wants to, at most so long; how many parts the postings are in."""
    deadline = time.monotonic() + seconds
    while db.rows("SELECT count() FROM system.merges WHERE database = currentDatabase()")[0][0]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    parts = db.rows(
        "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() AND table = 'postings'"
    )
    return int(parts[0][0])


def sizes(db: Database, table: str) -> dict[str, float]:
    """Bytes on disk per row of a table: all of it, and of each projection."""
    rows, total = db.rows(
        "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase() "
        "AND table = %(t)s",
        {"t": table},
    )[0]
    out = {"all": round(total / max(1, rows), 2)}
    for name, size in db.rows(
        "SELECT name, sum(bytes_on_disk) AS size FROM system.projection_parts WHERE active "
        "AND database = currentDatabase() AND table = %(t)s GROUP BY name ORDER BY size DESC",
        {"t": table},
    ):
        out[name] = round(size / max(1, rows), 2)
    return out
