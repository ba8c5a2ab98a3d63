-- What finance asks: which days a cut holds whole, what is set aside, seals, and the calls that came in.
-- `pending` has rows from this migration on. A database that was filled before has none for its older records: drop it and
-- let the sink build it again from the journal to have them all. `outcomes.pending` says how many rows each record has here.

ALTER TABLE {database}.outcomes ADD COLUMN IF NOT EXISTS pending UInt16 DEFAULT 0 CODEC(ZSTD(1)) COMMENT 'number of its rows in pending; 0 for records stored before there was that table' AFTER legs;

ALTER TABLE {database}.outcomes ADD PROJECTION IF NOT EXISTS by_booked_day (SELECT topic, partition, booked_date, min(sequence), max(sequence), count(), sum(toUInt64(pending)) GROUP BY topic, partition, booked_date);

ALTER TABLE {database}.outcomes MATERIALIZE PROJECTION by_booked_day;

ALTER TABLE {database}.postings ADD INDEX IF NOT EXISTS ix_booked booked_at TYPE minmax GRANULARITY 1;

ALTER TABLE {database}.postings MATERIALIZE INDEX ix_booked;

CREATE TABLE IF NOT EXISTS {database}.pending
(
    topic           LowCardinality(String),
    partition       UInt16 CODEC(ZSTD(1)),
    offset          UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the journal record',
    source_offset   UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the command in transactions.submitted',
    sequence        UInt64 CODEC(Delta, ZSTD(1)) COMMENT '1, 2, 3 ... per partition',
    line            UInt16 CODEC(ZSTD(1)) COMMENT 'from 0 inside the record',
    partner_id      LowCardinality(String) CODEC(ZSTD(1)) COMMENT 'who asked; a hold that lapses is released by whatever command comes next',
    account_id      String CODEC(ZSTD(1)),
    side_code       UInt8 EPHEMERAL,
    side            Enum8('debit' = 1, 'credit' = 2) DEFAULT if(side_code = 2, 'credit', 'debit') CODEC(ZSTD(1)),
    change_in       Int64 EPHEMERAL,
    change          Int128 DEFAULT change_in CODEC(ZSTD(1)) COMMENT 'minor units: above 0 when set aside, below 0 when released',
    currency        LowCardinality(String) CODEC(ZSTD(1)),
    hold_id         FixedString(16) CODEC(ZSTD(1)) COMMENT 'command id of the hold, or of the transaction between partitions',
    expired         UInt8 CODEC(ZSTD(1)) COMMENT '1 when the hold lapsed',
    expires_at      DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'of the record that opens a hold: when it lapses; 1970 for never, and in all other rows',
    product         LowCardinality(String) CODEC(ZSTD(1)),
    operation       LowCardinality(String) CODEC(ZSTD(1)),
    booked_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'when the broker took the command',
    booked_date     Date32 MATERIALIZED toDate32(booked_at) CODEC(ZSTD(1)),
    run             UInt64 CODEC(ZSTD(1)),
    INDEX ix_hold hold_id TYPE bloom_filter(0.01) GRANULARITY 1,
    PROJECTION by_hold (SELECT account_id, hold_id, side, currency, booked_date, sum(change), min(booked_at), max(expires_at), max(expired), count() GROUP BY account_id, hold_id, side, currency, booked_date),
    PROJECTION by_account (SELECT account_id, currency, side, booked_date, sum(change), count() GROUP BY account_id, currency, side, booked_date),
    PROJECTION by_partition (SELECT topic, partition, count(), max(offset), sum(change) GROUP BY topic, partition)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(booked_at)
ORDER BY (partition, sequence, line)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'One row per change of what is set aside on an account: holds, and transactions between partitions under way';

CREATE TABLE IF NOT EXISTS {database}.seals
(
    topic           LowCardinality(String) COMMENT 'seals with its id',
    partition       UInt16,
    offset          UInt64 COMMENT 'of the seal',
    first_sequence  UInt64,
    last_sequence   UInt64,
    first_booked_at DateTime64(3, 'UTC'),
    last_booked_at  DateTime64(3, 'UTC'),
    root            FixedString(32) COMMENT 'Merkle tree hash of the records',
    chain           FixedString(32) COMMENT 'chain of the record at last_sequence',
    previous        FixedString(32) COMMENT 'SHA-256 of the seal before this one; zeros in the first',
    sealed_at       DateTime64(3, 'UTC'),
    why             LowCardinality(String) COMMENT 'minute, day_close or size',
    run             UInt64
)
ENGINE = MergeTree
ORDER BY (topic, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'One row per seal: a stretch of one partition''s journal under one Merkle root';

-- Counts of calls, each row a piece of a minute of one gateway process: they are added up, never replaced. Bucket i of
-- `buckets` (from 1) counts the calls that took at most 100 * pow(10, (i - 1) / 10) microseconds and longer than the one
-- before; the last, 61, everything above 79 seconds.
CREATE TABLE IF NOT EXISTS {database}.calls
(
    topic        LowCardinality(String) COMMENT 'calls with its id',
    partition    UInt16,
    offset       UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the record in the topic',
    line         UInt16 CODEC(ZSTD(1)) COMMENT 'from 0 inside the record',
    instance     LowCardinality(String) COMMENT 'the gateway process, another after each start',
    minute       DateTime('UTC') CODEC(Delta, ZSTD(1)) COMMENT 'in which the calls were answered',
    partner_id   LowCardinality(String) COMMENT 'whose key it was; empty for calls without a valid one',
    method       LowCardinality(String),
    route        LowCardinality(String) COMMENT 'the pattern, never an id',
    status       UInt16 COMMENT 'HTTP status',
    calls        UInt64 CODEC(ZSTD(1)),
    micros_sum   UInt64 CODEC(ZSTD(1)) COMMENT 'microseconds from arrival to the end of the answer, of all of them',
    micros_max   UInt64 CODEC(ZSTD(1)) COMMENT 'likewise, of the slowest',
    buckets      Array(UInt64) CODEC(ZSTD(1)),
    counted_at   DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'when the broker took the count',
    day          Date32 MATERIALIZED toDate32(minute) CODEC(ZSTD(1)),
    run          UInt64 CODEC(ZSTD(1)),
    PROJECTION by_day (SELECT day, partner_id, method, route, status, sum(calls), sum(micros_sum), max(micros_max), sumForEach(buckets) GROUP BY day, partner_id, method, route, status)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(counted_at)
ORDER BY (topic, partition, offset, line)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'How many calls the gateways answered, and how fast. A measurement, not money';
