-- What is set aside and not released yet: holds, and transactions between partitions under way. One row for each account
-- that is to be debited. The projection by_hold says which are open, for the days that are whole in the cut; only the
-- rows of those are read. Age is in days of booking, from the day it was opened to the last day in the cut.
CREATE OR REPLACE VIEW {database}.report_holds AS
WITH open_holds AS
(
    SELECT hold_id
    FROM
    (
        SELECT hold_id, account_id, currency, sum(change) AS total
        FROM {database}.pending
        WHERE side = 'debit' AND {whole_days} AND {owner} AND ({account:String} = '' OR account_id = {account:String})
        GROUP BY hold_id, account_id, currency
        UNION ALL
        SELECT hold_id, account_id, currency, sum(change) AS total
        FROM {database}.pending
        WHERE side = 'debit' AND {cut_days} AND {owner} AND ({account:String} = '' OR account_id = {account:String})
        GROUP BY hold_id, account_id, currency
    )
    GROUP BY hold_id, account_id, currency
    HAVING sum(total) != 0
)
SELECT
    lower(hex(d.hold_id)) AS hold,
    if(startsWith(d.account_id, 'bank:crossing:') OR has(c.accounts, concat('bank:crossing:', d.money)), 'crossing', 'hold')
        AS kind,
    d.account_id AS account,
    arrayStringConcat(c.accounts, ' ') AS payee,
    d.money AS currency,
    d.set_aside AS set_aside,
    d.released AS released,
    set_aside - released AS outstanding,
    d.opened AS opened_at,
    dateDiff('day', toDate32(opened_at), toDate32({known_at:DateTime64(3, 'UTC')})) AS age_days,
    if(d.expires = 0, NULL, fromUnixTimestamp64Milli(d.expires, 'UTC')) AS expires_at,
    d.partner AS partner,
    d.product AS product
FROM
(
    SELECT
        hold_id, partition, account_id, currency AS money,
        sumIf(change, change > 0) AS set_aside,
        -sumIf(change, change < 0) AS released,
        min(booked_at) AS opened,
        max(toUnixTimestamp64Milli(expires_at)) AS expires,
        argMin(partner_id, sequence) AS partner,
        argMin(product, sequence) AS product
    FROM {database}.pending
    WHERE hold_id GLOBAL IN (SELECT hold_id FROM open_holds) AND side = 'debit' AND {in_cut} AND {owner}
        AND ({account:String} = '' OR account_id = {account:String})
    GROUP BY hold_id, partition, account_id, currency
    HAVING set_aside != released
) AS d
LEFT JOIN
(
    SELECT hold_id, partition, currency AS money, arraySort(groupUniqArray(account_id)) AS accounts
    FROM {database}.pending
    WHERE hold_id GLOBAL IN (SELECT hold_id FROM open_holds) AND side = 'credit' AND {in_cut}
    GROUP BY hold_id, partition, currency
) AS c ON c.hold_id = d.hold_id AND c.partition = d.partition AND c.money = d.money
