# One bucket and two identities, with no more rights than cluster/a100.yaml needs.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

module "policies" {
  source        = "./policies"
  account_id    = data.aws_caller_identity.current.account_id
  partition     = data.aws_partition.current.partition
  region        = var.region
  bucket        = var.bucket
  read_folders  = var.read_folders
  write_folders = var.write_folders
  machine_types = var.machine_types
}

resource "aws_s3_bucket" "data" {
  #checkov:skip=CKV_AWS_18:access logs cost more than the data is worth to others; CloudTrail can log a bucket's use
  #checkov:skip=CKV_AWS_144:one region: machines read where they run; a copy of the games stays where they came from
  #checkov:skip=CKV_AWS_145:encrypted with S3's own keys; a KMS key costs per request, and rights to it would be needed
  #checkov:skip=CKV2_AWS_62:nothing waits for events
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "data" {
  bucket                  = aws_s3_bucket.data.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "data" {
  bucket = aws_s3_bucket.data.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "data" {
  bucket = aws_s3_bucket.data.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_versioning" "data" {
  bucket = aws_s3_bucket.data.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_policy" "data" {
  bucket     = aws_s3_bucket.data.id
  policy     = module.policies.bucket
  depends_on = [aws_s3_bucket_public_access_block.data]
}

resource "aws_s3_bucket_lifecycle_configuration" "data" {
  bucket     = aws_s3_bucket.data.id
  depends_on = [aws_s3_bucket_versioning.data]

  rule {
    id     = "parts of uploads that nobody went on with"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  rule {
    id     = "what was overwritten or deleted"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.old_version_days
    }
    expiration {
      expired_object_delete_marker = true
    }
  }

  # Checkpoints are the large files of runs; their records, metrics and cards are small, and stay.
  rule {
    id     = "old checkpoints"
    status = "Enabled"
    filter {
      and {
        prefix                   = "runs/"
        object_size_greater_than = 1048576
      }
    }
    transition {
      days          = var.old_checkpoint_days
      storage_class = "STANDARD_IA"
    }
    dynamic "expiration" {
      for_each = var.checkpoint_days == null ? [] : [var.checkpoint_days]
      content {
        days = expiration.value
      }
    }
  }
}

resource "aws_iam_role" "machine" {
  for_each           = { head = module.policies.head, worker = module.policies.worker }
  name               = "worldmodel-${each.key}"
  assume_role_policy = module.policies.trust
}

resource "aws_iam_role_policy" "machine" {
  for_each = { head = module.policies.head, worker = module.policies.worker }
  name     = "worldmodel-${each.key}"
  role     = aws_iam_role.machine[each.key].id
  policy   = each.value
}

resource "aws_iam_instance_profile" "machine" {
  for_each = aws_iam_role.machine
  name     = each.value.name
  role     = each.value.name
}

# Ray takes a security group of this name as it is, and makes one with SSH from everywhere where there is none.
data "aws_vpc" "default" {
  count   = var.ssh_cidr == null ? 0 : 1
  default = true
}

resource "aws_security_group" "cluster" {
  #checkov:skip=CKV_AWS_382:machines fetch packages, games and keys from addresses that nobody can list
  #checkov:skip=CKV2_AWS_5:Ray attaches it to the machines that it starts
  count       = var.ssh_cidr == null ? 0 : 1
  name        = "worldmodel"
  description = "Machines of the cluster reach each other, and SSH from one network reaches them."
  vpc_id      = data.aws_vpc.default[0].id

  ingress {
    description = "machines of the cluster"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    self        = true
  }
  ingress {
    description = "SSH"
    from_port   = 22
    to_port     = 22
    protocol    = "tcp"
    cidr_blocks = [var.ssh_cidr]
  }
  egress {
    description = "everywhere"
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

# A mail, hours after the cost: AWS counts a few times a day. budget_usd in the YAML is what ends machines.
resource "aws_budgets_budget" "machines" {
  count        = var.budget_email == null ? 0 : 1
  name         = "worldmodel-machines"
  budget_type  = "COST"
  limit_amount = tostring(var.budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  cost_filter {
    name   = "Service"
    values = ["Amazon Elastic Compute Cloud - Compute"]
  }

  dynamic "notification" {
    for_each = { 50 = "ACTUAL", 90 = "ACTUAL", 100 = "FORECASTED" }
    content {
      threshold                  = notification.key
      threshold_type             = "PERCENTAGE"
      notification_type          = notification.value
      comparison_operator        = "GREATER_THAN"
      subscriber_email_addresses = [var.budget_email]
    }
  }
}
