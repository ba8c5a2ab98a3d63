-- With whom an account's money moved: the legs on the other side of its entries, in its currency. Of an entry with more
-- legs than two these are what the other had in it, not what went between the two. Accounts of another tree than the
-- one that asks are told by their owner only.
CREATE OR REPLACE VIEW {database}.report_cash_flow_counterparties AS
WITH
    account AS
    (
        SELECT any(currency) AS money, if(any(account_type) IN ('asset', 'expense'), 'debit', 'credit') AS normal
        FROM {database}.control_changes
        WHERE subject_id = {account:String} AND command = 'OpenAccount' AND {in_cut}
        HAVING count() > 0
    ),
    mine AS
    (
        SELECT partition, offset, side, partner_id, value_date, booked_at
        FROM {database}.postings
        WHERE account_id = {account:String} AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {in_cut}
    )
SELECT row_number() OVER (ORDER BY paid_in + paid_out DESC, counterparty) AS rank, counterparty, currency, paid_in, paid_out,
    entries, last
FROM
(
    SELECT
        if({owner}, account_id, substringIndex(account_id, ':', 1)) AS counterparty, postings.currency AS currency,
        sumIf(amount, side != account.normal) AS paid_in, sumIf(amount, side = account.normal) AS paid_out,
        uniqExact(partition, offset) AS entries, max({day}) AS last
    FROM {database}.postings AS postings
    CROSS JOIN account
    WHERE account_id != {account:String} AND postings.currency = account.money
        AND (partner_id, value_date, booked_at) IN (SELECT partner_id, value_date, booked_at FROM mine)
        AND (partition, offset, toString(side)) IN (SELECT partition, offset, if(side = 'debit', 'credit', 'debit') FROM mine)
    GROUP BY counterparty, currency
)
QUALIFY rank <= {n:UInt64}
