path "secret/data/audit/s3" {
  capabilities = ["read"]
}
path "database/creds/extractor" {
  capabilities = ["read"]
}
