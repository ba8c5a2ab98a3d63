-- Accounts with what was last set, one row each. An account of the bank is one account, though every partition has a shard.
-- Limits are minor units; min_available is NULL for no limit.
CREATE OR REPLACE VIEW {database}.accounts AS
SELECT
    subject_id AS account_id,
    splitByChar(':', subject_id)[1] AS owner,
    max(account_type) AS account_type,
    max(c.currency) AS currency,
    min(booked_at) AS opened_at,
    toInt128OrNull(argMaxIf(JSONExtractString(changes, 'min_available'), (booked_at, partition, sequence), JSONHas(changes, 'min_available'))) AS min_available,
    toInt128OrZero(argMaxIf(JSONExtractString(changes, 'credit_limit'), (booked_at, partition, sequence), JSONHas(changes, 'credit_limit'))) AS credit_limit,
    argMaxIf(JSONExtractString(changes, 'block_debits'), (booked_at, partition, sequence), command = 'BlockAccount') = 'true' AS debits_blocked,
    argMaxIf(JSONExtractString(changes, 'block_credits'), (booked_at, partition, sequence), command = 'BlockAccount') = 'true' AS credits_blocked,
    argMaxIf(JSONExtractString(changes, 'freeze'), (booked_at, partition, sequence), command = 'BlockAccount') = 'true' AS frozen,
    countIf(command = 'CloseAccount') > 0 AS closed
FROM {database}.control_changes AS c
WHERE command IN ('OpenAccount', 'BlockAccount', 'SetAccountLimit', 'CloseAccount')
GROUP BY subject_id
HAVING countIf(command = 'OpenAccount') > 0
