-- Debits and credits by currency, account type or account, with what was there before the period. Sums are debits less
-- credits: negative where credits are more. Days that are whole in the cut come from the projection by_currency or
-- by_account; of the days in which the cut lies, each row is compared with it.
CREATE OR REPLACE VIEW {database}.report_trial_balance AS
SELECT
    multiIf({by:String} = 'account', account, {by:String} = 'type', a.type, currency) AS name,
    currency,
    sumIf(if(side = 'debit', total, -total), part = 0) AS opening,
    sumIf(total, part = 1 AND side = 'debit') AS debits,
    sumIf(total, part = 1 AND side = 'credit') AS credits,
    debits - credits AS difference,
    opening + debits - credits AS closing,
    sumIf(n, part = 1) AS postings
FROM
(
    SELECT
        if({by:String} = 'currency', '', account_id) AS account, currency, {day} >= {since:Date32} AS part, side,
        sum(amount) AS total, count() AS n
    FROM {database}.postings
    WHERE {day} <= {until:Date32} AND {whole_days}
    GROUP BY account, currency, part, side
    UNION ALL
    SELECT
        if({by:String} = 'currency', '', account_id) AS account, currency, {day} >= {since:Date32} AS part, side,
        sum(amount) AS total, count() AS n
    FROM {database}.postings
    WHERE {day} <= {until:Date32} AND {cut_days}
    GROUP BY account, currency, part, side
) AS p
LEFT JOIN
(
    SELECT subject_id, any(account_type) AS type
    FROM {database}.control_changes
    WHERE {by:String} = 'type' AND command = 'OpenAccount' AND {in_cut}
    GROUP BY subject_id
) AS a ON a.subject_id = p.account
GROUP BY name, currency
