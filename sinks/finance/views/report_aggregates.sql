-- Sums by any of day, week or month, product, operation, partner that asked and, always, currency: `by` names them with
-- commas between; what it does not name is empty. From the projection by_day for the days that are whole in the cut.
CREATE OR REPLACE VIEW {database}.report_aggregates AS
SELECT
    b AS day, b AS week, b AS month, p AS product, o AS operation, who AS partner, currency,
    sumIf(total, side = 'debit') AS debits,
    sumIf(total, side = 'credit') AS credits,
    sum(n) AS postings
FROM
(
    SELECT
        if(match({by:String}, '(day|week|month)'), {bucket}, toDate32('1970-01-01')) AS b,
        if(match({by:String}, 'product'), product, '') AS p, if(match({by:String}, 'operation'), operation, '') AS o,
        if(match({by:String}, 'partner'), partner_id, '') AS who, currency, side, sum(amount) AS total, count() AS n
    FROM {database}.postings
    WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {whole_days} AND {asker} AND {wanted}
    GROUP BY b, p, o, who, currency, side
    UNION ALL
    SELECT
        if(match({by:String}, '(day|week|month)'), {bucket}, toDate32('1970-01-01')) AS b,
        if(match({by:String}, 'product'), product, '') AS p, if(match({by:String}, 'operation'), operation, '') AS o,
        if(match({by:String}, 'partner'), partner_id, '') AS who, currency, side, sum(amount) AS total, count() AS n
    FROM {database}.postings
    WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {cut_days} AND {asker} AND {wanted}
    GROUP BY b, p, o, who, currency, side
)
GROUP BY b, p, o, who, currency
