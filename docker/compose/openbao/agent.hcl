# Logs in as the extractor, keeps a leased user of PostgreSQL alive, and writes the address to log in with. One value in one
# file: name and password are never of two leases. BAO_ADDR says where OpenBao is.
auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/openbao/agent-role-id"
      secret_id_file_path                 = "/run/secrets/extractor-secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  # At the start OpenBao may have been seeded a moment ago only.
  exit_on_retry_failure = true
}

template {
  destination = "/run/database/url"
  perms       = "0400"
  contents    = "{{ with secret \"database/creds/extractor\" }}postgres://{{ .Data.username }}:{{ .Data.password }}@postgres:5432/app{{ end }}"
}
