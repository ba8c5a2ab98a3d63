-- What income accounts earned, by day, product, currency and owner of the account. The rows of income accounts are found
-- through lines_of_account.
CREATE OR REPLACE VIEW {database}.report_fees AS
SELECT
    d AS day, product, currency, owner,
    sumIf(total, side = 'credit') - sumIf(total, side = 'debit') AS fees,
    sum(n) AS postings
FROM
(
    SELECT
        {day} AS d, product, currency, substringIndex(account_id, ':', 1) AS owner, side, sum(amount) AS total,
        count() AS n
    FROM {database}.postings
    WHERE account_id GLOBAL IN
        (
            SELECT subject_id
            FROM {database}.control_changes
            WHERE command = 'OpenAccount' AND account_type = 'income' AND {in_cut}
        )
        AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {in_cut} AND {asker} AND {booked_months}
        AND ({product:String} = '' OR product = {product:String})
    GROUP BY d, product, currency, owner, side
)
GROUP BY day, product, currency, owner
