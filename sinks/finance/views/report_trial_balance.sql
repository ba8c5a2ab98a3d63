-- Debits and credits by currency. The first half is answered from the projection by_currency, the second looks at each
-- row of the days in which the cut lies.
CREATE OR REPLACE VIEW {database}.report_trial_balance AS
SELECT
    currency,
    sumIf(total, side = 'debit') AS debits,
    sumIf(total, side = 'credit') AS credits,
    debits - credits AS difference,
    sum(n) AS postings
FROM
(
    SELECT currency, side, sum(amount) AS total, count() AS n
    FROM {database}.postings
    WHERE if({on:String} = 'booking', booked_date, value_date) BETWEEN {since:Date32} AND {until:Date32}
        AND booked_date < {whole_before:Date32}
    GROUP BY currency, side
    UNION ALL
    SELECT currency, side, sum(amount) AS total, count() AS n
    FROM {database}.postings
    WHERE if({on:String} = 'booking', booked_date, value_date) BETWEEN {since:Date32} AND {until:Date32}
        AND booked_date >= {whole_before:Date32} AND booked_at <= {known_at:DateTime64(3, 'UTC')}
        AND offset < {ends:Array(UInt64)}[partition + 1]
    GROUP BY currency, side
)
GROUP BY currency
