-- Reconciliation (docs/reconciliation.md). NOT a projection of the journal: what came from outside and what people said
-- stands nowhere else, so these tables are kept when the others are built anew.
-- `attempt` is drawn by each import and run; only rows whose attempt stands in recon_statements or recon_runs count,
-- and the row there is written last. So what a killed import or run has left is seen by nobody.

CREATE TABLE IF NOT EXISTS {database}.recon_files
(
    file    FixedString(64) COMMENT 'SHA-256 of its bytes, in hex',
    attempt UInt64,
    chunk   UInt32 COMMENT 'from 0',
    data    String CODEC(ZSTD(3)) COMMENT 'the bytes as they came'
)
ENGINE = MergeTree
ORDER BY (file, attempt, chunk)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Statements as they came';

CREATE TABLE IF NOT EXISTS {database}.recon_lines
(
    account_id     LowCardinality(String),
    statement      FixedString(64),
    attempt        UInt64,
    number         UInt32 COMMENT 'of the entry, or line of the file',
    detail         UInt16 COMMENT 'from 1 inside an entry; 0: the whole entry',
    value_day      Int32 EPHEMERAL,
    value_date     Date32 DEFAULT toDate32(value_day),
    booking_day    Int32 EPHEMERAL,
    booking_date   Date32 DEFAULT toDate32(booking_day),
    amount_in      Int64 EPHEMERAL,
    amount         Int128 DEFAULT amount_in CODEC(ZSTD(1)) COMMENT 'minor units; plus: came into the account',
    currency       LowCardinality(String),
    reference      String CODEC(ZSTD(1)),
    bank_reference String CODEC(ZSTD(1)),
    text           String CODEC(ZSTD(1)),
    counterparty   String CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (account_id, value_date, statement, number, detail)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Lines of statements; count only with their attempt in recon_statements';

CREATE TABLE IF NOT EXISTS {database}.recon_statements
(
    account_id       String,
    statement        FixedString(64) COMMENT 'SHA-256 over account, file, mapping and place, in hex',
    attempt          UInt64,
    file             FixedString(64),
    place            UInt32 COMMENT 'in the file, from 0',
    file_name        String,
    file_bytes       UInt64,
    format           LowCardinality(String),
    mapping          String COMMENT 'of a CSV, as JSON',
    name             String COMMENT 'as the statement calls itself',
    external_account String,
    currency         LowCardinality(String),
    opening          Nullable(Int128) COMMENT 'minor units',
    closing          Nullable(Int128),
    lines            UInt32,
    entries          UInt32,
    announced        UInt32 COMMENT 'entries that were not booked, and left out',
    credits          Int128,
    debits           Int128,
    first_day        Date32,
    last_day         Date32,
    imported_at      DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (account_id, statement)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Statements that are whole';

CREATE TABLE IF NOT EXISTS {database}.recon_links
(
    account_id LowCardinality(String),
    attempt    UInt64,
    number     UInt32 COMMENT 'of the match in its run, from 1',
    pass       LowCardinality(String),
    statement  FixedString(64),
    line       UInt32 COMMENT 'number of the statement''s line',
    detail     UInt16,
    shard      UInt16 COMMENT 'of the posting: partition of the journal',
    sequence   UInt64,
    leg        UInt16 COMMENT 'of the posting: line of the entry'
)
ENGINE = MergeTree
ORDER BY (account_id, attempt, number)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Which line was matched with which posting; a match of several has several rows';

CREATE TABLE IF NOT EXISTS {database}.recon_breaks
(
    account_id       LowCardinality(String),
    attempt          UInt64,
    break            FixedString(16),
    type             LowCardinality(String),
    statement        String COMMENT 'empty for none',
    line             UInt32,
    detail           UInt16,
    shard            UInt16 COMMENT 'of the posting: partition of the journal',
    sequence         UInt64 COMMENT '0 for no posting',
    leg              UInt16,
    value_day        Int32 EPHEMERAL,
    value_date       Date32 DEFAULT toDate32(value_day) COMMENT 'of the line, of the posting where there is none',
    currency         LowCardinality(String),
    statement_amount Int128,
    ledger_amount    Int128,
    difference       Int128 COMMENT 'statement less ledger',
    age_days         Int32,
    candidates       UInt32 COMMENT 'of an ambiguous one',
    reference        String CODEC(ZSTD(1)),
    text             String CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (account_id, attempt, break)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What a run could not match';

CREATE TABLE IF NOT EXISTS {database}.recon_runs
(
    account_id       String,
    number           UInt32 COMMENT '1, 2, 3 ... of the account',
    run              FixedString(16),
    attempt          UInt64,
    cut              String,
    known_at         DateTime64(3, 'UTC'),
    day              Date32,
    since            Date32,
    first_day        Date32,
    last_day         Date32,
    statements       Array(String),
    currency         LowCardinality(String),
    date_tolerance   UInt32,
    amount_tolerance UInt64,
    figures          String COMMENT 'counts and sums, as JSON',
    result           FixedString(64) COMMENT 'SHA-256 over its matches and all breaks',
    made_at          DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (account_id, number)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Runs that are whole';

CREATE TABLE IF NOT EXISTS {database}.recon_words
(
    account_id String,
    break      FixedString(16),
    note       String,
    by         String,
    said_at    DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (account_id, break, said_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What people said of breaks; never a change of the ledger';
