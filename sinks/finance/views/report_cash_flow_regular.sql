-- What comes in regularly, as facts: an account's inflows by who asked for them, product and operation, with the months
-- they came in, and the lower median of amounts and of days of the month.
CREATE OR REPLACE VIEW {database}.report_cash_flow_regular AS
WITH account AS
(
    SELECT any(currency) AS money, if(any(account_type) IN ('asset', 'expense'), 'debit', 'credit') AS normal
    FROM {database}.control_changes
    WHERE subject_id = {account:String} AND command = 'OpenAccount' AND {in_cut}
    HAVING count() > 0
)
SELECT
    partner_id AS partner, product, operation, any(account.money) AS currency, count() AS inflows,
    uniqExact(month) AS months, max(month) - min(month) + 1 AS months_between,
    arraySort(groupArray(amount))[intDiv(count() + 1, 2)] AS median, min(amount) AS smallest, max(amount) AS largest,
    arraySort(groupArray(day_of_month))[intDiv(count() + 1, 2)] AS median_day, min(d) AS first, max(d) AS last
FROM
(
    SELECT partner_id, product, operation, amount, side, {day} AS d, toYear(d) * 12 + toMonth(d) AS month,
        toDayOfMonth(d) AS day_of_month
    FROM {database}.postings
    WHERE account_id = {account:String} AND {day} BETWEEN {since:Date32} AND {until:Date32} AND {in_cut}
) AS mine
CROSS JOIN account
WHERE toString(side) = account.normal
GROUP BY partner_id, product, operation
