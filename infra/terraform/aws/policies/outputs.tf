output "head" {
  description = "What the head may do: start machines of some types, stop and end tagged ones, give them the workers' role, use the bucket."
  value       = jsonencode({ Version = "2012-10-17", Statement = concat(local.machines, local.keys, local.data) })
}

output "worker" {
  description = "What a worker may do: use the bucket's folders. The head reads the keys and hands them to its jobs."
  value       = jsonencode({ Version = "2012-10-17", Statement = local.data })
}

output "trust" {
  description = "Who may be the head or a worker: machines."
  value = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Machines"
      Effect    = "Allow"
      Action    = ["sts:AssumeRole"]
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

output "bucket" {
  description = "What nobody may do with the bucket: use it unencrypted."
  value = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "EncryptedOnTheWay"
      Effect    = "Deny"
      Action    = ["s3:*"]
      Principal = "*"
      Resource  = [local.bucket, "${local.bucket}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
