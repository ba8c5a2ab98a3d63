-- One account by day, week or month: what came in and went out, on the account's normal side, and its balance after
-- it; a period without any has a row, too. From the projection by_account for the days that are whole in the cut.
CREATE OR REPLACE VIEW {database}.report_cash_flow AS
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
        SELECT {day} >= {since:Date32} AS inside, if(inside, {bucket}, toDate32('1970-01-01')) AS b, side,
            sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE account_id = {account:String} AND {day} <= {until:Date32} AND {whole_days}
        GROUP BY inside, b, side
        UNION ALL
        SELECT {day} >= {since:Date32} AS inside, if(inside, {bucket}, toDate32('1970-01-01')) AS b, side,
            sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE account_id = {account:String} AND {day} <= {until:Date32} AND {cut_days}
        GROUP BY inside, b, side
    )
SELECT
    b AS begins, account.money AS currency,
    if(account.sign = 1, debits, credits) AS inflow, if(account.sign = 1, credits, debits) AS outflow,
    inflow - outflow AS net,
    account.sign * opening.change + sum(net) OVER (ORDER BY b ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS balance,
    postings
FROM
(
    SELECT b, sumIf(total, side = 'debit') AS debits, sumIf(total, side = 'credit') AS credits, sum(n) AS postings
    FROM
    (
        SELECT b, toString(side) AS side, total, n FROM sums WHERE inside
        UNION ALL
        SELECT arrayJoin({buckets}) AS b, '' AS side, toInt128(0) AS total, 0 AS n
    )
    GROUP BY b
) AS x
CROSS JOIN (SELECT sumIf(if(side = 'debit', total, -total), NOT inside) AS change FROM sums) AS opening
CROSS JOIN account
