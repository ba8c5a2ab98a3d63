-- Partners with their last name and state, one row each.
CREATE OR REPLACE VIEW {database}.partners AS
SELECT
    subject_id AS partner_id,
    splitByChar('/', subject_id)[1] AS root,
    argMaxIf(JSONExtractString(changes, 'name'), (booked_at, partition, sequence), JSONHas(changes, 'name')) AS name,
    argMax(JSONExtractString(changes, 'state'), (booked_at, partition, sequence)) AS state,
    minIf(booked_at, command = 'AdmitPartner') AS admitted_at,
    max(booked_at) AS changed_at
FROM {database}.control_changes
WHERE command IN ('AdmitPartner', 'SetPartnerState')
GROUP BY subject_id
