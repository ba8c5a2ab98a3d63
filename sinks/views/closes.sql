-- What the journal says of sealed days (SealDay, docs/operations.md), so it comes back with the journal and nobody fills it.
-- Each partition's record has the figures of all partitions; here each stands for its own.
CREATE OR REPLACE VIEW {database}.closes AS
SELECT
    toDate32(s.subject_id) AS closed_day,
    s.partition AS partition,
    total.2 AS currency,
    toInt128(if(total.3 = '', '0', total.3)) AS debits,
    toInt128(if(total.4 = '', '0', total.4)) AS credits,
    total.5 AS postings,
    c.sequence AS records,
    c.sequence AS sequence,
    c.offset AS journal_offset,
    c.source_offset AS source_offset,
    CAST(unhex(s.hash) AS FixedString(32)) AS hash,
    c.booked_at AS closed_at,
    JSONExtractString(c.changes, 'requested_by') AS by
FROM
(
    SELECT
        subject_id,
        topic,
        partition,
        JSONExtractString(changes, 'hash') AS hash,
        JSONExtractString(changes, 'figures') AS figures,
        arrayFirst(x -> x.1 = partition, JSONExtract(figures, 'cut', 'Array(Tuple(partition UInt16, sequence UInt64))')).2 AS closed_by,
        arrayFilter(x -> x.1 = partition, JSONExtract(figures, 'totals', 'Array(Tuple(partition UInt16, currency String, debits String, credits String, postings UInt64))')) AS totals
    FROM {database}.control_changes
    WHERE command = 'SealDay'
) AS s
INNER JOIN {database}.control_changes AS c ON c.topic = s.topic AND c.partition = s.partition AND c.sequence = s.closed_by AND c.command = 'CloseDay'
LEFT ARRAY JOIN s.totals AS total
