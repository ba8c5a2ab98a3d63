-- What the platform did on each day of booking (UTC): a row without currency with its commands and calls, then a row for each
-- currency with what was moved. Commands and amounts are of the cut, from projections for the days that are whole in it.
-- Calls and their times are a measurement of the gateways beside the journal, of the days up to the cut's last: a time is
-- the upper bound of its bucket, at most 26% above what it was, and never above the slowest.
CREATE OR REPLACE VIEW {database}.report_day AS
SELECT
    d AS day, money AS currency, sum(x.calls) AS calls, sum(x.settled) AS settled, sum(x.rejected) AS rejected,
    sum(x.repeated) AS repeated, sum(x.control) AS control, sum(x.amount) AS amount, sum(x.postings) AS postings,
    sum(x.p50) AS p50_us, sum(x.p99) AS p99_us, sum(x.slowest) AS max_us
FROM
(
    SELECT
        booked_date AS d, '' AS money, toUInt64(0) AS calls,
        sumIf(n, command = 'Transaction' AND outcome = 'settled') AS settled,
        sumIf(n, command = 'Transaction' AND outcome = 'rejected') AS rejected,
        sumIf(n, command = 'Transaction' AND outcome = 'repeated') AS repeated,
        sumIf(n, command NOT IN ('Transaction', 'Crossing', 'Tick')) AS control,
        toInt128(0) AS amount, toUInt64(0) AS postings,
        toUInt64(0) AS p50, toUInt64(0) AS p99, toUInt64(0) AS slowest
    FROM
    (
        SELECT booked_date, command, outcome, count() AS n
        FROM {database}.outcomes
        WHERE booked_date BETWEEN {since:Date32} AND {until:Date32} AND {whole_days}
        GROUP BY booked_date, command, outcome
        UNION ALL
        SELECT booked_date, command, outcome, count() AS n
        FROM {database}.outcomes
        WHERE booked_date BETWEEN {since:Date32} AND {until:Date32} AND {cut_days}
        GROUP BY booked_date, command, outcome
    )
    GROUP BY d
    UNION ALL
    SELECT booked_date AS d, currency AS money, 0, 0, 0, 0, 0, sumIf(total, side = 'debit'), sum(n), 0, 0, 0
    FROM
    (
        SELECT booked_date, currency, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE booked_date BETWEEN {since:Date32} AND {until:Date32} AND {whole_days}
        GROUP BY booked_date, currency, side
        UNION ALL
        SELECT booked_date, currency, side, sum(amount) AS total, count() AS n
        FROM {database}.postings
        WHERE booked_date BETWEEN {since:Date32} AND {until:Date32} AND {cut_days}
        GROUP BY booked_date, currency, side
    )
    GROUP BY d, money
    UNION ALL
    SELECT
        c.day AS d, '' AS money, answered, 0, 0, 0, 0, 0, 0,
        least(bounds[arrayFirstIndex(x -> 2 * x >= answered, heights)], slowest),
        least(bounds[arrayFirstIndex(x -> 100 * x >= 99 * answered, heights)], slowest), slowest
    FROM
    (
        SELECT
            day, sum(calls) AS answered, max(micros_max) AS slowest, arrayCumSum(sumForEach(buckets)) AS heights,
            [
            100, 126, 158, 200, 251, 316, 398, 501, 631, 794, 1000, 1259, 1585, 1995, 2512, 3162, 3981, 5012, 6310,
            7943, 10000, 12589, 15849, 19953, 25119, 31623, 39811, 50119, 63096, 79433, 100000, 125893, 158489,
            199526, 251189, 316228, 398107, 501187, 630957, 794328, 1000000, 1258925, 1584893, 1995262, 2511886,
            3162278, 3981072, 5011872, 6309573, 7943282, 10000000, 12589254, 15848932, 19952623, 25118864,
            31622777, 39810717, 50118723, 63095734, 79432823, 18446744073709551615
            ]::Array(UInt64) AS bounds
        FROM {database}.calls
        WHERE day BETWEEN {since:Date32} AND {until:Date32} AND day <= toDate32({known_at:DateTime64(3, 'UTC')})
        GROUP BY day
    ) AS c
) AS x
GROUP BY day, currency
