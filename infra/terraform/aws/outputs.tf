output "storage" {
  description = "For cluster/a100.yaml, metadata.storage."
  value       = "s3://${aws_s3_bucket.data.id}/runs"
}

output "data" {
  description = "Where to upload games, and for cluster/a100.yaml, metadata.data."
  value       = "s3://${aws_s3_bucket.data.id}/games"
}

output "identities" {
  description = "Instance profiles that cluster/a100.yaml names."
  value       = { for kind, profile in aws_iam_instance_profile.machine : kind => profile.name }
}
