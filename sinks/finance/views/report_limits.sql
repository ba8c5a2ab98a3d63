-- Limits and what was used of them: of each subject the newest version of both up to the cut. Windows are numbered in the
-- subject's local time, so where one begins is worked out of its number alone. Blocks of a million commands that lie whole
-- in the cut come from the projection `newest`, of the last one each row is compared with the cut. A product's limits stand in every
-- partition, and what was used of them once for each root partner; -1 stands for no bound.
CREATE OR REPLACE VIEW {database}.report_limits AS
WITH
    newest AS
    (
        SELECT partition, max(o) AS last
        FROM
        (
            SELECT kind, level, subject_id, partner_id, partition, max(offset) AS o
            FROM {database}.limit_rows
            WHERE kind IN ('limit', 'usage') AND block < intDiv({source_ends:Array(UInt64)}[partition + 1], 1000000)
                AND ({subject:String} = '' OR subject_id = {subject:String})
                AND ({asker} OR (kind = 'limit' AND level = 'product'))
            GROUP BY kind, level, subject_id, partner_id, partition
            UNION ALL
            SELECT kind, level, subject_id, partner_id, partition, max(offset) AS o
            FROM {database}.limit_rows
            WHERE kind IN ('limit', 'usage') AND source_offset < {source_ends:Array(UInt64)}[partition + 1]
                AND block = intDiv({source_ends:Array(UInt64)}[partition + 1], 1000000)
                AND source_offset >= intDiv(arrayMin(arrayFilter(e -> e > 0, {source_ends:Array(UInt64)})), 1000000) * 1000000
                AND source_offset < arrayMax({source_ends:Array(UInt64)})
                AND ({subject:String} = '' OR subject_id = {subject:String})
                AND ({asker} OR (kind = 'limit' AND level = 'product'))
            GROUP BY kind, level, subject_id, partner_id, partition
        )
        GROUP BY kind, level, subject_id, partner_id, partition
    ),
    found AS
    (
        SELECT
            partition, kind, level, subject_id, partner_id, window AS period, currency AS money, start, transactions AS n,
            amount AS total, source_offset AS told
        FROM {database}.limit_rows
        WHERE (partition, offset) GLOBAL IN (SELECT partition, last FROM newest) AND removed = 0 AND kind != 'place'
    )
SELECT
    level, subject_id AS subject, partner, period AS window, window_from, money AS currency, allowed, used,
    allowed - used AS remaining, share_bp, transactions_allowed, transactions,
    transactions_allowed - transactions AS transactions_left, partition, source_offset
FROM
(
    SELECT
        level, subject_id, partner, period, money, partition,
        if(max_total < 0, NULL, toInt128(max_total)) AS allowed,
        multiIf(money = '' OR (known AND max_total < 0), NULL, toInt128(total)) AS used,
        if(max_n < 0, NULL, max_n) AS transactions_allowed,
        if(period = 'transaction', NULL, n) AS transactions,
        multiIf(
            max_total > 0 AND max_n > 0, toInt64(greatest(intDiv(toInt128(total) * 10000, max_total), intDiv(toInt128(n) * 10000, max_n))),
            max_total > 0, toInt64(intDiv(toInt128(total) * 10000, max_total)),
            max_n > 0, toInt64(intDiv(toInt128(n) * 10000, max_n)),
            NULL) AS share_bp,
        multiIf(
            told IS NULL, '',
            period = 'minute' OR period = 'hour',
                formatDateTime(toDateTime64(start * if(period = 'minute', 60, 3600), 0, 'UTC'), '%Y-%m-%d %H:%i'),
            period = 'day', toString(toDate32(toInt32(start))),
            concat(toString(1970 + intDiv(start, 12)), '-', leftPad(toString(start % 12 + 1), 2, '0'))) AS window_from,
        told AS source_offset
    FROM
    (
        SELECT
            u.level AS level, u.subject_id AS subject_id, u.partner_id AS partner, u.period AS period, u.money AS money,
            u.partition AS partition, u.start AS start, u.n AS n, u.total AS total, toNullable(u.told) AS told,
            l.kind = 'limit' AS known, if(known, l.n, -1) AS max_n, if(known, l.total, -1) AS max_total
        FROM (SELECT * FROM found WHERE kind = 'usage') AS u
        LEFT JOIN (SELECT * FROM found WHERE kind = 'limit') AS l
            ON l.partition = u.partition AND l.level = u.level AND l.subject_id = u.subject_id AND l.period = u.period
            AND l.money = u.money
        UNION ALL
        SELECT
            l.level AS level, l.subject_id AS subject_id, l.partner_id AS partner, l.period AS period, l.money AS money,
            l.partition AS partition, toInt64(0) AS start, toInt64(0) AS n, toInt64(0) AS total, NULL AS told,
            1 AS known, l.n AS max_n, l.total AS max_total
        FROM
        (
            SELECT *, if(level = 'product', -1, toInt32(partition)) AS place
            FROM found
            WHERE kind = 'limit' AND (level != 'product' OR {partner:String} = '')
            ORDER BY partition
            LIMIT 1 BY level, subject_id, period, money, place
        ) AS l
        LEFT ANTI JOIN
        (
            SELECT DISTINCT level, subject_id, period, money, if(level = 'product', -1, toInt32(partition)) AS place
            FROM found
            WHERE kind = 'usage'
        ) AS u
            ON u.place = l.place AND u.level = l.level AND u.subject_id = l.subject_id AND u.period = l.period
            AND u.money = l.money
    )
)
