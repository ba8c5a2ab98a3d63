-- What limits there are and what was used of them: versions of the rows `l:` and `u:` of ledger.state, as they come.
-- State rows are written once per batch of the settlement, so a change that another one in the same batch followed has
-- no row. A row `place` says that everything up to it is in.

CREATE TABLE IF NOT EXISTS {database}.limit_rows
(
    topic         LowCardinality(String) COMMENT 'ledger.state with its id',
    partition     UInt16 CODEC(ZSTD(1)),
    offset        UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the record in the topic',
    line          UInt16 CODEC(ZSTD(1)) COMMENT 'from 0 inside the record',
    kind          LowCardinality(String) COMMENT 'limit, usage, or place: the end of a batch, up to which all rows of this partition are in',
    level         LowCardinality(String) COMMENT 'partner, account or product',
    subject_id    String CODEC(ZSTD(1)) COMMENT 'the partner, the account or the product',
    partner_id    LowCardinality(String) COMMENT 'whose it is; of a product''s use the root partner that used it, of its limits empty',
    removed       UInt8 CODEC(ZSTD(1)) COMMENT '1: from here on the subject has none; the columns after it are empty then',
    window        LowCardinality(String) COMMENT 'transaction, minute, hour, day or month',
    currency      LowCardinality(String) COMMENT 'empty for a count over all currencies',
    start         Int64 CODEC(ZSTD(1)) COMMENT 'of a usage: number of the window, as in operations.md',
    transactions  Int64 CODEC(ZSTD(1)) COMMENT 'allowed, or counted in the window; -1 for any number',
    amount        Int64 CODEC(ZSTD(1)) COMMENT 'allowed, or counted in the window, minor units; -1 for any amount',
    source_offset UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of the command that changed it last; of a place and of what was removed: of the last command of the batch',
    sequence      UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'of a place: the journal''s at the end of the batch; 0 in other rows',
    stored_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'when the broker took the row',
    run           UInt64 CODEC(ZSTD(1)),
    block         UInt32 MATERIALIZED intDiv(source_offset, 1000000) CODEC(ZSTD(1)),
    INDEX ix_source source_offset TYPE minmax GRANULARITY 1,
    PROJECTION newest (SELECT kind, level, subject_id, partner_id, partition, block, max(offset) GROUP BY kind, level, subject_id, partner_id, partition, block),
    PROJECTION places (SELECT topic, partition, kind, min(sequence), max(sequence), count() GROUP BY topic, partition, kind)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(stored_at)
ORDER BY (topic, partition, offset, line)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Versions of limits and of what was used of them; the newest one up to an offset counts';
