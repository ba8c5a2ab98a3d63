-- Accounts that were opened, with what was posted to them up to the end of a day, as far as it was known at the cut. From
-- the projection by_account for the days that are whole in the cut, else row by row.
CREATE OR REPLACE VIEW {database}.report_balances AS
SELECT
    a.account AS account,
    a.type AS type,
    a.money AS currency,
    p.debits AS debits,
    p.credits AS credits,
    if(type IN ('asset', 'expense'), debits - credits, credits - debits) AS balance,
    p.postings AS postings
FROM
(
    SELECT subject_id AS account, any(account_type) AS type, any(currency) AS money
    FROM {database}.control_changes
    WHERE command = 'OpenAccount' AND {in_cut}
        AND ({account:String} = '' OR subject_id = {account:String})
        AND ({partner:String} = '' OR startsWith(subject_id, concat({partner:String}, ':'))
            OR startsWith(subject_id, concat({partner:String}, '/')))
    GROUP BY subject_id
) AS a
LEFT JOIN
(
    SELECT
        account_id, sumIf(total, side = 'debit') AS debits, sumIf(total, side = 'credit') AS credits,
        sum(n) AS postings
    FROM
    (
        SELECT account_id, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE {day} <= {until:Date32} AND {whole_days} AND ({account:String} = '' OR account_id = {account:String})
            AND {owner}
        GROUP BY account_id, side
        UNION ALL
        SELECT account_id, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE {day} <= {until:Date32} AND {cut_days}
            AND ({account:String} = '' OR account_id = {account:String}) AND {owner}
        GROUP BY account_id, side
    )
    GROUP BY account_id
) AS p ON p.account_id = a.account
