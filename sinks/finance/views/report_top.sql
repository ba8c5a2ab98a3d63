-- The first of each currency by a measure: partners that asked, accounts of the subtree, products or operations. Of
-- those that are equal the one whose name comes first. From the projections by_day and by_account for whole days.
CREATE OR REPLACE VIEW {database}.report_top AS
SELECT row_number() OVER (PARTITION BY currency ORDER BY value DESC, name) AS rank, name, currency, debits, credits, postings,
    multiIf({measure:String} = 'debits', debits, {measure:String} = 'credits', credits, toInt128(postings)) AS value
FROM
(
    SELECT name, currency, sumIf(total, side = 'debit') AS debits, sumIf(total, side = 'credit') AS credits, sum(n) AS postings
    FROM
    (
        SELECT multiIf({of:String} = 'partner', partner_id, {of:String} = 'product', product, operation) AS name,
            currency, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE {of:String} != 'account' AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {whole_days} AND {asker}
            AND ({currency:String} = '' OR currency = {currency:String})
        GROUP BY name, currency, side
        UNION ALL
        SELECT multiIf({of:String} = 'partner', partner_id, {of:String} = 'product', product, operation) AS name,
            currency, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE {of:String} != 'account' AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {cut_days} AND {asker}
            AND ({currency:String} = '' OR currency = {currency:String})
        GROUP BY name, currency, side
        UNION ALL
        SELECT account_id AS name, currency, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE {of:String} = 'account' AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {whole_days} AND {owner}
            AND ({currency:String} = '' OR currency = {currency:String})
        GROUP BY name, currency, side
        UNION ALL
        SELECT account_id AS name, currency, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE {of:String} = 'account' AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {cut_days} AND {owner}
            AND ({currency:String} = '' OR currency = {currency:String})
        GROUP BY name, currency, side
    )
    GROUP BY name, currency
)
QUALIFY rank <= {n:UInt64}
