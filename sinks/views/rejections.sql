-- Rejected commands, one row each, with the reason's stable code and what it names.
CREATE OR REPLACE VIEW {database}.rejections AS
SELECT
    partition, sequence, offset, source_offset, booked_at, booked_date, value_date, partner_id, idempotency_key,
    lower(hex(command_id)) AS command_id, command, product, operation, reference, metadata, reason, detail
FROM {database}.outcomes
WHERE outcome = 'rejected'
