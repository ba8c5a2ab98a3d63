-- Sums by day, product and currency, whoever asked: as many rows however many partners there are. From the projection
-- by_day for the days that are whole in the cut, else row by row.
CREATE OR REPLACE VIEW {database}.report_flows AS
SELECT
    d AS day, product, currency,
    sumIf(total, side = 'debit') AS debits,
    sumIf(total, side = 'credit') AS credits,
    sum(n) AS postings
FROM
(
    SELECT {day} AS d, product, currency, side, sum(amount) AS total, count() AS n
    FROM {database}.postings
    WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {whole_days} AND {asker}
        AND ({product:String} = '' OR product = {product:String})
        AND ({currency:String} = '' OR currency = {currency:String})
    GROUP BY d, product, currency, side
    UNION ALL
    SELECT {day} AS d, product, currency, side, sum(amount) AS total, count() AS n
    FROM {database}.postings
    WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {cut_days} AND {asker}
        AND ({product:String} = '' OR product = {product:String})
        AND ({currency:String} = '' OR currency = {currency:String})
    GROUP BY d, product, currency, side
)
GROUP BY day, product, currency
