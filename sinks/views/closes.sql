-- What the journal says of sealed days (SealDay, docs/operations.md), so it comes back with the journal and nobody fills it.
-- The record of each partition has the figures of all partitions: one of them is enough for all rows of a day.
CREATE OR REPLACE VIEW {database}.closes AS
SELECT
    toDate32(s.subject_id) AS closed_day,
    s.place.1 AS partition,
    total.2 AS currency,
    toInt128(if(total.3 = '', '0', total.3)) AS debits,
    toInt128(if(total.4 = '', '0', total.4)) AS credits,
    total.5 AS postings,
    s.place.2 AS records,
    s.place.2 AS sequence,
    c.offset AS journal_offset,
    c.source_offset AS source_offset,
    CAST(unhex(s.hash) AS FixedString(32)) AS hash,
    c.booked_at AS closed_at,
    JSONExtractString(c.changes, 'requested_by') AS by
FROM
(
    SELECT
        topic,
        subject_id,
        hash,
        arrayJoin(JSONExtract(figures, 'cut', 'Array(Tuple(partition UInt16, sequence UInt64))')) AS place,
        arrayFilter(x -> x.1 = place.1, JSONExtract(figures, 'totals', 'Array(Tuple(partition UInt16, currency String, debits String, credits String, postings UInt64))')) AS totals
    FROM
    (
        SELECT DISTINCT topic, subject_id, JSONExtractString(changes, 'hash') AS hash, JSONExtractString(changes, 'figures') AS figures
        FROM {database}.control_changes
        WHERE command = 'SealDay'
    )
) AS s
GLOBAL INNER JOIN
(
    SELECT topic, partition, sequence, offset, source_offset, booked_at, changes
    FROM {database}.control_changes
    WHERE command = 'CloseDay'
) AS c ON c.topic = s.topic AND c.partition = s.place.1 AND c.sequence = s.place.2
LEFT ARRAY JOIN s.totals AS total
