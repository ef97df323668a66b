# One bucket and two identities, with no more rights than cluster/a100-gcp.yaml needs.

data "google_project" "current" {}

module "policies" {
  source         = "./policies"
  project_number = data.google_project.current.number
  bucket         = var.bucket
  cluster_name   = var.cluster_name
  read_folders   = var.read_folders
  write_folders  = var.write_folders
}

locals {
  # Google's rules can ask for the end of a name: these are the large files of a checkpoint.
  checkpoints = [".safetensors", ".pt"]
  members     = { for kind, account in google_service_account.machine : kind => account.member }
}

resource "google_storage_bucket" "data" {
  #checkov:skip=CKV_GCP_62:access logs cost more than the data is worth to others; audit logs can be switched on
  name                        = var.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = var.old_version_days
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age            = var.old_checkpoint_days
      matches_prefix = ["runs/"]
      matches_suffix = local.checkpoints
    }
    action {
      type          = "SetStorageClass"
      storage_class = "NEARLINE"
    }
  }

  dynamic "lifecycle_rule" {
    for_each = var.checkpoint_days == null ? [] : [var.checkpoint_days]
    content {
      condition {
        age            = lifecycle_rule.value
        matches_prefix = ["runs/"]
        matches_suffix = local.checkpoints
      }
      action {
        type = "Delete"
      }
    }
  }
}

resource "google_service_account" "machine" {
  for_each     = toset(["head", "worker"])
  account_id   = "worldmodel-${each.key}"
  display_name = "worldmodel ${each.key}"
}

resource "google_project_iam_custom_role" "rights" {
  for_each = {
    machines     = module.policies.machines.permissions
    surroundings = module.policies.surroundings.permissions
    reading      = module.policies.reading.permissions
    writing      = module.policies.writing.permissions
  }
  role_id     = "worldmodel_${each.key}"
  title       = "worldmodel ${each.key}"
  permissions = each.value
}

resource "google_project_iam_member" "machines" {
  project = var.project
  role    = google_project_iam_custom_role.rights["machines"].id
  member  = local.members["head"]
  condition {
    title      = "machines of the cluster"
    expression = module.policies.machines.condition
  }
}

resource "google_project_iam_member" "surroundings" {
  project = var.project
  role    = google_project_iam_custom_role.rights["surroundings"].id
  member  = local.members["head"]
}

resource "google_service_account_iam_member" "workers_identity" {
  service_account_id = google_service_account.machine["worker"].name
  role               = module.policies.identity.role
  member             = local.members["head"]
}

resource "google_storage_bucket_iam_member" "reading" {
  for_each = local.members
  bucket   = google_storage_bucket.data.name
  role     = google_project_iam_custom_role.rights["reading"].id
  member   = each.value
  condition {
    title      = "folders that are read"
    expression = module.policies.reading.condition
  }
}

resource "google_storage_bucket_iam_member" "writing" {
  for_each = local.members
  bucket   = google_storage_bucket.data.name
  role     = google_project_iam_custom_role.rights["writing"].id
  member   = each.value
  condition {
    title      = "folders that are written"
    expression = module.policies.writing.condition
  }
}

resource "google_project_iam_member" "keys" {
  project = var.project
  role    = module.policies.keys.role
  member  = local.members["head"]
  condition {
    title      = "keys of the cluster"
    expression = module.policies.keys.condition
  }
}
