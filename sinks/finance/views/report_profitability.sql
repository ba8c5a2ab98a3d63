-- What the bank earned from each partner and product, by currency: income less expenses on the bank's own accounts, of
-- what the partner asked for. Volume comes from the projection by_day of postings, transactions from that of outcomes,
-- both for the days that are whole in the cut; fees and costs are found through lines_of_account.
CREATE OR REPLACE VIEW {database}.report_profitability AS
SELECT
    m.partner_id AS partner,
    m.product AS product,
    m.money AS currency,
    t.transactions AS transactions,
    m.volume AS volume,
    m.fees AS fees,
    m.costs AS costs,
    fees - costs AS margin,
    if(volume = 0, NULL, toInt64(sign(margin) * intDiv(
        toInt256(abs(margin)) * 20000 + volume, 2 * toInt256(if(volume = 0, toInt128(1), volume))))) AS margin_bp
FROM
(
    SELECT
        partner_id, product, currency AS money,
        sumIf(total, what = 'all' AND side = 'debit') AS volume,
        sumIf(if(side = 'credit', total, -total), what = 'income') AS fees,
        sumIf(if(side = 'debit', total, -total), what = 'expense') AS costs
    FROM
    (
        SELECT 'all' AS what, partner_id, product, currency, side, sum(amount) AS total
        FROM {database}.postings
        WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {whole_days} AND {asker}
        GROUP BY partner_id, product, currency, side
        UNION ALL
        SELECT 'all' AS what, partner_id, product, currency, side, sum(amount) AS total
        FROM {database}.postings
        WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {cut_days} AND {asker}
        GROUP BY partner_id, product, currency, side
        UNION ALL
        SELECT 'income' AS what, partner_id, product, currency, side, sum(amount) AS total
        FROM {database}.postings
        WHERE account_id GLOBAL IN
            (
                SELECT subject_id
                FROM {database}.control_changes
                WHERE command = 'OpenAccount' AND account_type = 'income' AND startsWith(subject_id, 'bank:')
                    AND {in_cut}
            )
            AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {in_cut} AND {asker} AND {booked_months}
        GROUP BY partner_id, product, currency, side
        UNION ALL
        SELECT 'expense' AS what, partner_id, product, currency, side, sum(amount) AS total
        FROM {database}.postings
        WHERE account_id GLOBAL IN
            (
                SELECT subject_id
                FROM {database}.control_changes
                WHERE command = 'OpenAccount' AND account_type = 'expense' AND startsWith(subject_id, 'bank:')
                    AND {in_cut}
            )
            AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {in_cut} AND {asker} AND {booked_months}
        GROUP BY partner_id, product, currency, side
    )
    GROUP BY partner_id, product, money
) AS m
LEFT JOIN
(
    SELECT partner_id, product, sum(n) AS transactions
    FROM
    (
        SELECT partner_id, product, count() AS n
        FROM {database}.outcomes
        WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {whole_days} AND {asker}
            AND command = 'Transaction' AND outcome = 'settled'
        GROUP BY partner_id, product
        UNION ALL
        SELECT partner_id, product, count() AS n
        FROM {database}.outcomes
        WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {cut_days} AND {asker}
            AND command = 'Transaction' AND outcome = 'settled'
        GROUP BY partner_id, product
    )
    GROUP BY partner_id, product
) AS t ON t.partner_id = m.partner_id AND t.product = m.product
