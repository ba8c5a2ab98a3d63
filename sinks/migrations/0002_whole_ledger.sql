-- What a record changed beside its postings: late_for, crossing and note of a transaction, the step of a crossing.
-- Accounts opened on first use are rows of control_changes, like those that a command opened.

ALTER TABLE {database}.outcomes ADD COLUMN IF NOT EXISTS changes String DEFAULT '' CODEC(ZSTD(1)) COMMENT 'what it changed beside its postings, as JSON; empty for none' AFTER detail;

ALTER TABLE {database}.outcomes COMMENT COLUMN IF EXISTS first_offset 'source offset of the first outcome: of a repeat, and of the last word on a transaction between partitions; else -1';

ALTER TABLE {database}.control_changes COMMENT COLUMN IF EXISTS subject_id 'partner, account, product or day; of an account opened on first use the account';
