-- Audit rows by day, as PostgreSQL counts its log and as Trino counts the Iceberg table.
SELECT coalesce(source.day, target.day) AS day, source.n AS "in PostgreSQL", target.n AS "in Iceberg",
  rpad('', CAST(round(target.n / 800.0) AS bigint), '#') AS " "
FROM TABLE(source.system.query(query => '
    select ((occurred_at at time zone ''UTC'')::date)::text as day, count(*) as n from app.audit_log group by 1')) AS source
FULL JOIN (
    SELECT date_format(occurred_at AT TIME ZONE 'UTC', '%Y-%m-%d') AS day, count(*) AS n
    FROM lake.audit.audit_log GROUP BY 1) AS target ON source.day = target.day
ORDER BY 1;

-- Where they differ, or where there is nothing, the cast fails, and with it the report.
SELECT if(count(*) > 0 AND count_if(source.n IS DISTINCT FROM target.n) = 0,
  'the same on both sides, ' || CAST(sum(target.n) AS varchar) || ' rows on ' || CAST(count(*) AS varchar) || ' days',
  CAST(CAST('NOT the same: ' || CAST(count_if(source.n IS DISTINCT FROM target.n) AS varchar) || ' of ' ||
    CAST(count(*) AS varchar) || ' days differ' AS bigint) AS varchar)) AS result
FROM TABLE(source.system.query(query => '
    select ((occurred_at at time zone ''UTC'')::date)::text as day, count(*) as n from app.audit_log group by 1')) AS source
FULL JOIN (
    SELECT date_format(occurred_at AT TIME ZONE 'UTC', '%Y-%m-%d') AS day, count(*) AS n
    FROM lake.audit.audit_log GROUP BY 1) AS target ON source.day = target.day;
