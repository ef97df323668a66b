output "storage" {
  description = "For cluster/a100-gcp.yaml, metadata.storage."
  value       = "gs://${google_storage_bucket.data.name}/runs"
}

output "data" {
  description = "Where to upload games, and for cluster/a100-gcp.yaml, metadata.data."
  value       = "gs://${google_storage_bucket.data.name}/games"
}

output "identities" {
  description = "For cluster/a100-gcp.yaml, metadata.identities."
  value       = { for kind, account in google_service_account.machine : kind => account.email }
}
