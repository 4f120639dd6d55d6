-- The sample of the demo, after demo/sql/application.sql: 240,000 flights of two weeks, each logged by the audit trigger,
-- then what happens on an ordinary day. For development: the passwords below are known to everybody.
begin;
select set_config('app.replay', 'on', true), set_config('app.actor', 'replay', true);
insert into app.flights
select number, departed_at, number % 180 - 20, 100 + number % 2600
from generate_series(1, 280000) as number,
  lateral (select date_trunc('day', now(), 'UTC') - interval '15 days' + (number - 1) * (interval '14 days' / 280000)) as at (departed_at)
-- Half as many at the weekend.
where number % 2 = 1 or extract(isodow from departed_at at time zone 'UTC') < 6;
commit;

begin;
select set_config('app.actor', 'operations', true);
update app.flights set delay_minutes = delay_minutes + 5 where id % 40 = 0;
delete from app.flights where id % 160 = 1;
commit;
analyze;

-- OpenBao makes and drops the users that the extractor logs in as; they are members of the role extractor.
create role openbao login createrole password 'development-only-openbao';
grant extractor to openbao with admin option;
-- Trino counts for the report.
create role report login password 'development-only-report';
grant usage on schema app to report;
grant select on app.audit_log to report;
