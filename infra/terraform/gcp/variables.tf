variable "project" {
  description = "The Google Cloud project, by its id."
  type        = string
}

variable "region" {
  description = "Where the machines and the bucket are; the region of cluster/a100-gcp.yaml."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket to make; no other bucket in the world may have it."
  type        = string
}

variable "cluster_name" {
  description = "cluster_name of cluster/a100-gcp.yaml."
  type        = string
  default     = "worldmodel"
}

variable "read_folders" {
  description = "Top folders of the bucket that the machines only read."
  type        = list(string)
  default     = ["games"]
}

variable "write_folders" {
  description = "Top folders of the bucket that the machines read and write."
  type        = list(string)
  default     = ["blocks", "runs"]
}

variable "old_version_days" {
  description = "Days for which what was overwritten or deleted can be brought back."
  type        = number
  default     = 14
}

variable "old_checkpoint_days" {
  description = "Days after which checkpoints move to cheaper storage."
  type        = number
  default     = 30
}

variable "checkpoint_days" {
  description = "Days after which checkpoints are deleted; null: never."
  type        = number
  default     = null
}
