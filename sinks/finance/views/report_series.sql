-- One measure by day, week or month and currency, with a 0 where there is nothing: for every currency that the period
-- has, and for the one that is asked for. From the projection by_day for the days that are whole in the cut.
CREATE OR REPLACE VIEW {database}.report_series AS
WITH data AS
(
    SELECT b, currency, sum(multiIf({measure:String} = 'postings', toInt128(n), side = substring({measure:String}, 1, length({measure:String}) - 1), total, toInt128(0))) AS v
    FROM
    (
        SELECT {bucket} AS b, currency, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {whole_days} AND {asker} AND {wanted}
        GROUP BY b, currency, side
        UNION ALL
        SELECT {bucket} AS b, currency, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE {day} BETWEEN {since:Date32} AND {until:Date32} AND {cut_days} AND {asker} AND {wanted}
        GROUP BY b, currency, side
    )
    GROUP BY b, currency
)
SELECT b AS begins, currency, sum(v) AS value
FROM
(
    SELECT b, toString(currency) AS currency, v FROM data
    UNION ALL
    SELECT b, currency, toInt128(0) AS v
    FROM (SELECT arrayJoin({buckets}) AS b) AS t
    CROSS JOIN
    (
        SELECT DISTINCT toString(currency) AS currency FROM data
        UNION DISTINCT
        SELECT {currency:String} AS currency WHERE {currency:String} != ''
    ) AS c
)
GROUP BY b, currency
