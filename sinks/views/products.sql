-- Versions of products as they were published, one row each; every partition has taken the same.
CREATE OR REPLACE VIEW {database}.products AS
SELECT
    subject_id AS product,
    toUInt32OrZero(JSONExtractString(changes, 'version')) AS version,
    any(JSONExtractString(changes, 'effective_from')) AS effective_from,
    any(JSONExtractString(changes, 'digest')) AS digest,
    min(booked_at) AS published_at,
    any(JSONExtractString(changes, 'requested_by')) AS published_by
FROM {database}.control_changes
WHERE command = 'PublishProduct'
GROUP BY product, version
