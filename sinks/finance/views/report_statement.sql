-- One account: what was there before the period, each posting with the balance after it, and what is there at its end.
-- Balances are on the account's normal side. Sums come from the projection by_account for the days that are whole in the
-- cut; lines are found through lines_of_account. The sums are of the whole period, also when `lines_max` cuts the lines.
CREATE OR REPLACE VIEW {database}.report_statement AS
WITH
    account AS
    (
        SELECT any(account_type) AS type, any(currency) AS money, if(type IN ('asset', 'expense'), 1, -1) AS sign
        FROM {database}.control_changes
        WHERE subject_id = {account:String} AND command = 'OpenAccount' AND {in_cut}
        HAVING count() > 0
    ),
    sums AS
    (
        SELECT
            sumIf(if(side = 'debit', total, -total), part = 0) AS opening,
            sumIf(total, part = 1 AND side = 'debit') AS debits,
            sumIf(total, part = 1 AND side = 'credit') AS credits,
            sumIf(n, part = 1) AS postings
        FROM
        (
            SELECT {day} >= {since:Date32} AS part, side, sum(amount) AS total, count() AS n
            FROM {database}.postings
            WHERE account_id = {account:String} AND {day} <= {until:Date32} AND {whole_days}
            GROUP BY part, side
            UNION ALL
            SELECT {day} >= {since:Date32} AS part, side, sum(amount) AS total, count() AS n
            FROM {database}.postings
            WHERE account_id = {account:String} AND {day} <= {until:Date32} AND {cut_days}
            GROUP BY part, side
        )
    )
SELECT
    place, kind, value_date, booked_at, debits, credits,
    account.sign * if(kind = 'closing', change, sum(change) OVER
    (
        ORDER BY place, day, booked_at, partition, sequence, line ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )) AS balance,
    account.money AS currency, postings, partner_id AS partner, product, operation, reference,
    partition, sequence, line, journal_offset, account.type AS account_type, day
FROM
(
    SELECT
        arrayJoin([0, 2]) AS place, if(place = 0, 'opening', 'closing') AS kind,
        if(place = 0, {since:Date32}, {until:Date32}) AS day,
        CAST(NULL AS Nullable(Date32)) AS value_date, CAST(NULL AS Nullable(DateTime64(3, 'UTC'))) AS booked_at,
        if(place = 0, toInt128(0), sums.debits) AS debits, if(place = 0, toInt128(0), sums.credits) AS credits,
        if(place = 0, sums.opening, sums.opening + sums.debits - sums.credits) AS change,
        if(place = 0, 0, sums.postings) AS postings,
        '' AS partner_id, '' AS product, '' AS operation, '' AS reference,
        CAST(NULL AS Nullable(UInt16)) AS partition, CAST(NULL AS Nullable(UInt64)) AS sequence,
        CAST(NULL AS Nullable(UInt16)) AS line, CAST(NULL AS Nullable(UInt64)) AS journal_offset
    FROM sums
    UNION ALL
    SELECT
        1 AS place, 'line' AS kind, {day} AS day, value_date, booked_at,
        if(side = 'debit', amount, toInt128(0)) AS debits, if(side = 'credit', amount, toInt128(0)) AS credits,
        if(side = 'debit', amount, -amount) AS change, 1 AS postings,
        partner_id, product, operation, reference, partition, sequence, line, offset AS journal_offset
    FROM {database}.postings
    WHERE account_id = {account:String} AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {in_cut}
        AND {booked_months}
    ORDER BY day, booked_at, partition, sequence, line
    LIMIT {lines_max:UInt64}
) AS x
CROSS JOIN account
