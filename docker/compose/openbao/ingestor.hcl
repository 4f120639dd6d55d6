path "secret/data/audit/s3" {
  capabilities = ["read"]
}
