-- Why commands were rejected. Without the steps that partitions send each other: a transaction that one of them refuses
-- is rejected once, at home. From the projection by_day of outcomes for the days of booking that are whole in the cut.
CREATE OR REPLACE VIEW {database}.report_rejections AS
SELECT d AS day, reason, command, product, partner_id AS partner, sum(n) AS rejected
FROM
(
    SELECT booked_date AS d, reason, command, product, partner_id, outcome, count() AS n
    FROM {database}.outcomes
    WHERE booked_date BETWEEN {since:Date32} AND {until:Date32} AND {whole_days} AND {asker} AND outcome = 'rejected'
        AND command != 'Crossing' AND ({reason:String} = '' OR reason = {reason:String})
    GROUP BY d, reason, command, product, partner_id, outcome
    UNION ALL
    SELECT booked_date AS d, reason, command, product, partner_id, outcome, count() AS n
    FROM {database}.outcomes
    WHERE booked_date BETWEEN {since:Date32} AND {until:Date32} AND {cut_days} AND {asker} AND outcome = 'rejected'
        AND command != 'Crossing' AND ({reason:String} = '' OR reason = {reason:String})
    GROUP BY d, reason, command, product, partner_id, outcome
)
GROUP BY day, reason, command, product, partner
