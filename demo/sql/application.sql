-- A small application: flights, and an audit trigger that writes one row for every insert, update and delete.
create schema app;

create table app.flights (
  id bigint primary key,
  departed_at timestamptz not null,
  delay_minutes integer not null,
  distance_miles integer not null
);

create table app.audit_log (
  id bigint generated always as identity primary key,
  occurred_at timestamptz not null,
  actor text not null,
  action text not null check (action in ('insert', 'update', 'delete')),
  entity text not null,
  entity_id bigint not null,
  old_row jsonb,
  new_row jsonb
);

create function app.write_audit_log() returns trigger language plpgsql as $$
declare
  -- While old flights are replayed, each is logged at the moment it departed, with the microseconds of the clock.
  replayed constant boolean := current_setting('app.replay', true) = 'on' and tg_op = 'INSERT';
  moment constant timestamptz := clock_timestamp();
begin
  insert into app.audit_log (occurred_at, actor, action, entity, entity_id, old_row, new_row)
  values (
    case when replayed then new.departed_at + (moment - date_trunc('second', moment)) else moment end,
    coalesce(nullif(current_setting('app.actor', true), ''), session_user),
    lower(tg_op),
    tg_table_name,
    case when tg_op = 'DELETE' then old.id else new.id end,
    case when tg_op <> 'INSERT' then to_jsonb(old) end,
    case when tg_op <> 'DELETE' then to_jsonb(new) end
  );
  return null;
end
$$;

create trigger flights_audit after insert or update or delete on app.flights
  for each row execute function app.write_audit_log();

-- The extractor may read the audit log and nothing else.
create role extractor login;
grant usage on schema app to extractor;
grant select on app.audit_log to extractor;
