-- Settled transactions, one row each; their postings are in `postings`, by partition and offset.
CREATE OR REPLACE VIEW {database}.entries AS
SELECT
    partition, sequence, offset, source_offset, booked_at, booked_date, value_date, partner_id, idempotency_key,
    lower(hex(command_id)) AS transaction_id, product, product_version, operation, reference, metadata, changes,
    legs AS postings, pending, lower(hex(chain)) AS chain
FROM {database}.outcomes
WHERE outcome = 'settled'
