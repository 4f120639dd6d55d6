#!/bin/sh
# Somebody works with the application: some delays change every few seconds, and the audit trigger writes them down.
set -eu
PGPASSWORD=$(cat /run/secrets/postgres-password)
export PGPASSWORD
while true; do
  psql --quiet --command="update app.flights set delay_minutes = delay_minutes + 1 where id in (select id from app.flights where id % 160 <> 1 order by random() limit 500)"
  sleep 5
done
