-- Replays (docs/replay.md): how far each is, for the console and for other machines. NOT a projection of the journal, and
-- nothing that a report reads. Of several rows of one id the one with the highest version counts.

CREATE TABLE IF NOT EXISTS {database}.replays
(
    id              String,
    version         UInt64 COMMENT 'milliseconds since 1970 of the process that wrote it, rising for each id',
    kind            LowCardinality(String) COMMENT 'replay, or rebuild of a projection',
    state           LowCardinality(String) COMMENT 'running, cancelling, cancelled, done, failed',
    subject         String COMMENT 'what is compared, or built anew',
    plan            String COMMENT 'SHA-256 of the plan, in hex',
    done            UInt64 COMMENT 'commands',
    total           UInt64,
    rate_per_second Float64,
    requested_by    String,
    approved_by     String,
    result          String COMMENT 'JSON; empty while it runs',
    started_at      DateTime64(3, 'UTC'),
    updated_at      DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (id, version)
COMMENT 'Replays and rebuilds; of one id the highest version counts';
