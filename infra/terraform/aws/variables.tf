variable "region" {
  description = "Where the machines and the bucket are; the region of cluster/a100.yaml."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket to make; no other bucket in the world may have it."
  type        = string
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
  description = "Days after which large files of runs, their checkpoints, move to cheaper storage."
  type        = number
  default     = 30
}

variable "checkpoint_days" {
  description = "Days after which large files of runs, their checkpoints, are deleted; null: never."
  type        = number
  default     = null
}

variable "machine_types" {
  description = "Machine types that the head may start: those of the workers in cluster/a100.yaml."
  type        = list(string)
  default     = ["p4d.24xlarge", "g6.2xlarge"]
}

variable "ssh_cidr" {
  description = "The only network that reaches the machines by SSH, such as 203.0.113.7/32; null: Ray opens it to all."
  type        = string
  default     = null
}

variable "budget_email" {
  description = "Who gets a mail when the account's machines cost much in a month; null: nobody."
  type        = string
  default     = null
}

variable "budget_usd" {
  description = "Dollars a month of which budget_email hears at 50 and 90 percent, and when 100 are forecast."
  type        = number
  default     = 300
}
