variable "account_id" {
  description = "The AWS account, twelve digits."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "An AWS account has twelve digits."
  }
}

variable "partition" {
  description = "aws, aws-cn or aws-us-gov."
  type        = string
  default     = "aws"
}

variable "region" {
  description = "Where the machines and the bucket are."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket."
  type        = string
}

variable "read_folders" {
  description = "Top folders of the bucket that the machines only read."
  type        = list(string)
  default     = ["games"]
  validation {
    condition     = alltrue([for f in var.read_folders : can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", f))])
    error_message = "A folder is named without a slash at either end, and without * or ?."
  }
}

variable "write_folders" {
  description = "Top folders of the bucket that the machines read and write."
  type        = list(string)
  default     = ["blocks", "runs"]
  validation {
    condition     = length(var.write_folders) > 0 && alltrue([for f in var.write_folders : can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", f))])
    error_message = "At least one folder, named without a slash at either end, and without * or ?."
  }
}

variable "worker_role" {
  description = "Name of the workers' role, the only one that the head may give to machines."
  type        = string
  default     = "worldmodel-worker"
}

variable "tag" {
  description = "What cluster/a100.yaml puts on its machines: only such machines are started, stopped and ended."
  type        = object({ key = string, value = string })
  default     = { key = "worldmodel", value = "cluster" }
}

variable "secrets" {
  description = "Folder of the Parameter Store whose keys the machines may read."
  type        = string
  default     = "worldmodel"
}

variable "machine_types" {
  description = "Machine types that the head may start: those of the workers in cluster/a100.yaml."
  type        = list(string)
  default     = ["p4d.24xlarge", "g6.2xlarge"]
  validation {
    condition     = length(var.machine_types) > 0 && alltrue([for t in var.machine_types : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", t))])
    error_message = "At least one type such as p4d.24xlarge, without * or ?."
  }
}
