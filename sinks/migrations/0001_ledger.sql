-- The book of entries and every outcome. Append-only: a row is written once and never changed, so no FINAL is needed.
-- Columns marked EPHEMERAL exist only while a row is inserted: they are the cheap way for numbers to travel.
-- `topic` is the journal's name and Kafka's id of it: a re-created topic is another offset space.
-- `run` is the sink process that wrote the row; the sink in office holds a CHECK on it, which fences every other.

CREATE TABLE IF NOT EXISTS {database}.postings
(
    topic           LowCardinality(String),
    partition       UInt16 CODEC(ZSTD(1)),
    offset          UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the journal record',
    source_offset   UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the command in transactions.submitted',
    sequence        UInt64 CODEC(Delta, ZSTD(1)) COMMENT '1, 2, 3 ... per partition',
    line            UInt16 CODEC(ZSTD(1)) COMMENT 'from 0 inside the entry',
    partner_id      LowCardinality(String) CODEC(ZSTD(1)) COMMENT 'who asked',
    account_id      String CODEC(ZSTD(1)),
    side_code       UInt8 EPHEMERAL,
    side            Enum8('debit' = 1, 'credit' = 2) DEFAULT if(side_code = 2, 'credit', 'debit') CODEC(ZSTD(1)),
    amount_in       Int64 EPHEMERAL,
    amount          Int128 DEFAULT amount_in CODEC(ZSTD(1)) COMMENT 'minor units, > 0; 128 bits, so that no sum wraps',
    currency        LowCardinality(String) CODEC(ZSTD(1)),
    counters        FixedString(64) EPHEMERAL,
    debits_pending  Int128 DEFAULT reinterpretAsInt128(substring(counters, 1, 16)) CODEC(ZSTD(1)) COMMENT 'of the account after this posting, in this partition',
    debits_posted   Int128 DEFAULT reinterpretAsInt128(substring(counters, 17, 16)) CODEC(ZSTD(1)) COMMENT 'likewise',
    credits_pending Int128 DEFAULT reinterpretAsInt128(substring(counters, 33, 16)) CODEC(ZSTD(1)) COMMENT 'likewise',
    credits_posted  Int128 DEFAULT reinterpretAsInt128(substring(counters, 49, 16)) CODEC(ZSTD(1)) COMMENT 'likewise',
    product         LowCardinality(String) CODEC(ZSTD(1)),
    operation       LowCardinality(String) CODEC(ZSTD(1)),
    reference       String CODEC(ZSTD(1)),
    command_id      FixedString(16) CODEC(ZSTD(1)),
    value_day       Int32 CODEC(ZSTD(1)) COMMENT 'days since 1970, exactly as in the journal',
    value_date      Date32 DEFAULT toDate32(greatest(0, least(120529, value_day))) CODEC(ZSTD(1)) COMMENT 'the day on which it counts, kept between 1970 and 2299',
    booked_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'when the broker took the command',
    booked_date     Date32 MATERIALIZED toDate32(booked_at) CODEC(ZSTD(1)),
    run             UInt64 CODEC(ZSTD(1)),
    INDEX ix_partition partition TYPE minmax GRANULARITY 1,
    INDEX ix_offset offset TYPE minmax GRANULARITY 1,
    INDEX ix_source_offset source_offset TYPE minmax GRANULARITY 1,
    CONSTRAINT amount_is_positive CHECK amount > 0,
    PROJECTION by_currency (SELECT value_date, booked_date, currency, side, sum(amount), count() GROUP BY value_date, booked_date, currency, side),
    PROJECTION by_day (SELECT value_date, booked_date, partner_id, product, operation, currency, side, sum(amount), count() GROUP BY value_date, booked_date, partner_id, product, operation, currency, side),
    PROJECTION by_account (SELECT account_id, value_date, booked_date, currency, side, sum(amount), count() GROUP BY account_id, value_date, booked_date, currency, side),
    PROJECTION by_partition (SELECT topic, partition, count(), max(offset), sum(amount) GROUP BY topic, partition),
    PROJECTION lines_of_account (SELECT account_id, value_date, _part_offset ORDER BY account_id, value_date)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(booked_at)
ORDER BY (partner_id, value_date, booked_at, sequence, line)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'One row per posting of a settled entry';

CREATE TABLE IF NOT EXISTS {database}.outcomes
(
    topic           LowCardinality(String),
    partition       UInt16 CODEC(ZSTD(1)),
    offset          UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the journal record',
    source_offset   UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the command in transactions.submitted',
    sequence        UInt64 CODEC(Delta, ZSTD(1)) COMMENT '1, 2, 3 ... per partition, without gap or repeat',
    outcome         LowCardinality(String) CODEC(ZSTD(1)) COMMENT 'settled, rejected, repeated or applied',
    command         LowCardinality(String) CODEC(ZSTD(1)) COMMENT 'Transaction, OpenAccount ...',
    partner_id      LowCardinality(String) CODEC(ZSTD(1)) COMMENT 'who asked',
    idempotency_key String CODEC(ZSTD(1)),
    command_id      FixedString(16) CODEC(ZSTD(1)),
    product         LowCardinality(String) CODEC(ZSTD(1)),
    product_version UInt32 CODEC(ZSTD(1)),
    operation       LowCardinality(String) CODEC(ZSTD(1)),
    value_day       Int32 CODEC(ZSTD(1)) COMMENT 'days since 1970, exactly as in the journal',
    value_date      Date32 DEFAULT toDate32(greatest(0, least(120529, value_day))) CODEC(ZSTD(1)) COMMENT 'likewise',
    booked_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    booked_date     Date32 MATERIALIZED toDate32(booked_at) CODEC(ZSTD(1)),
    reference       String CODEC(ZSTD(1)),
    metadata        String CODEC(ZSTD(1)) COMMENT 'the caller''s own fields as JSON; empty for none',
    reason          LowCardinality(String) CODEC(ZSTD(1)) COMMENT 'stable code of a rejection',
    detail          String CODEC(ZSTD(1)) COMMENT 'what a rejection names, as JSON; empty for none',
    first_offset    Int64 CODEC(ZSTD(1)) COMMENT 'of a repeat: source offset of the first outcome; else -1',
    subject_id      String CODEC(ZSTD(1)) COMMENT 'account or partner that a control command changed',
    legs            UInt16 CODEC(ZSTD(1)) COMMENT 'number of postings',
    chain           FixedString(32) COMMENT 'SHA-256 over the partition''s records up to this one',
    run             UInt64 CODEC(ZSTD(1)),
    INDEX ix_partner partner_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_key idempotency_key TYPE bloom_filter(0.01) GRANULARITY 1,
    PROJECTION by_partition (SELECT topic, partition, count(), min(sequence), max(sequence), max(offset), max(source_offset), sum(toUInt64(legs)) GROUP BY topic, partition),
    PROJECTION by_day (SELECT booked_date, partner_id, product, command, outcome, reason, count() GROUP BY booked_date, partner_id, product, command, outcome, reason)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(booked_at)
ORDER BY (partition, sequence)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'One row per journal record: what became of each command';

CREATE TABLE IF NOT EXISTS {database}.control_changes
(
    topic           LowCardinality(String),
    partition       UInt16,
    offset          UInt64,
    source_offset   UInt64,
    sequence        UInt64,
    command         LowCardinality(String),
    partner_id      LowCardinality(String) COMMENT 'who asked',
    subject_id      String COMMENT 'account or partner',
    account_type    LowCardinality(String) COMMENT 'of an opened account: asset, liability, equity, income or expense',
    currency        LowCardinality(String) COMMENT 'of an opened account',
    changes         String COMMENT 'what the command set, as JSON',
    booked_at       DateTime64(3, 'UTC'),
    run             UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(booked_at)
ORDER BY (subject_id, partition, sequence)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What control commands changed; an account of the bank has one row per partition';

CREATE TABLE IF NOT EXISTS {database}.dead_letters
(
    topic            LowCardinality(String) COMMENT 'transactions.dead with its id',
    partition        UInt16,
    offset           UInt64 COMMENT 'of the dead letter',
    source_topic     LowCardinality(String),
    source_partition Int32,
    source_offset    Int64,
    received_at      DateTime64(3, 'UTC'),
    reason           LowCardinality(String),
    detail           String,
    attempts         UInt32,
    key              String,
    value            String CODEC(ZSTD(3)) COMMENT 'the bytes as they came',
    run              UInt64
)
ENGINE = MergeTree
ORDER BY (topic, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What could not be taken. Not cut by month: one insert must be one part, and these times are not in order';

CREATE TABLE IF NOT EXISTS {database}.ingest_batches
(
    run          UInt64,
    topic        LowCardinality(String),
    partition    UInt16,
    first_offset UInt64,
    last_offset  UInt64,
    records      UInt32,
    postings     UInt32,
    verified_at  DateTime64(3, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(verified_at)
ORDER BY (topic, partition, first_offset)
COMMENT 'Audit trail of the sink: each batch that was read back and found right';
