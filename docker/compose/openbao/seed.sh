#!/bin/sh
# Fills an OpenBao in dev mode for the demo; may run again. Values come from files, so that no command line shows them.
set -eu
cd "$(dirname "$0")"
BAO_TOKEN=$(cat "$SECRETS/openbao-root-token")
export BAO_TOKEN

bao kv put -mount=secret audit/s3 - <"$SECRETS/s3-keys.json"

# Users of PostgreSQL that live for an hour, one for each who asks.
bao secrets list | grep -q '^database/' || bao secrets enable database
bao write database/config/app - <"$SECRETS/database-connection.json"
bao write database/roles/extractor - <database-role.json

bao auth list | grep -q '^approle/' || bao auth enable approle
for app in extractor ingestor; do
  bao policy write "$app" "$app.hcl"
  # The secret ids of a role go with it.
  bao delete "auth/approle/role/$app"
  bao write "auth/approle/role/$app" token_policies="$app" token_ttl=20m token_max_ttl=24h
  bao write "auth/approle/role/$app/role-id" role_id="$app"
  tr -d '\n' <"$SECRETS/$app-secret-id" | bao write "auth/approle/role/$app/custom-secret-id" secret_id=- >/dev/null
done
