-- As report_aggregates, and by what a partner's own table is joined on: the account, the reference, or a field of the
-- metadata that the caller sent (`metadata.FIELD`). Row by row: no projection has these. A record without it has an
-- empty key.
CREATE OR REPLACE VIEW {database}.report_aggregates_keyed AS
SELECT
    b AS day, b AS week, b AS month, p AS product, o AS operation, who AS partner, k AS key, currency,
    sumIf(total, side = 'debit') AS debits,
    sumIf(total, side = 'credit') AS credits,
    sum(n) AS postings
FROM
(
    SELECT
        if(match({by:String}, '(day|week|month)'), {bucket}, toDate32('1970-01-01')) AS b,
        if(match({by:String}, 'product'), product, '') AS p, if(match({by:String}, 'operation'), operation, '') AS o,
        if(match({by:String}, 'partner'), partner_id, '') AS who,
        multiIf({match:String} = 'account', account_id, {match:String} = 'reference', reference,
            JSONExtractString(said.metadata, substring({match:String}, 10))) AS k,
        currency, side, sum(amount) AS total, count() AS n
    FROM
    (
        SELECT partition, offset, value_date, booked_date, partner_id, account_id, product, operation, reference, currency,
            side, amount
        FROM {database}.postings
        WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {in_cut} AND {asker} AND {wanted}
    ) AS rows
    LEFT JOIN
    (
        SELECT partition, offset, metadata
        FROM {database}.outcomes
        WHERE startsWith({match:String}, 'metadata.') AND metadata != '' AND legs > 0 AND {in_cut} AND {asker}
            AND {day} BETWEEN {since:Date32} AND {until:Date32}
    ) AS said USING (partition, offset)
    GROUP BY b, p, o, who, k, currency, side
)
GROUP BY b, p, o, who, k, currency
