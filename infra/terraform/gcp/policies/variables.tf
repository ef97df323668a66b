variable "project_number" {
  description = "Number of the Google Cloud project; names of its secrets carry it."
  type        = string
  validation {
    condition     = can(regex("^[0-9]+$", var.project_number))
    error_message = "The project's number, not its name: gcloud projects describe PROJECT."
  }
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
    error_message = "A folder is named without a slash at either end, and without quotes."
  }
}

variable "write_folders" {
  description = "Top folders of the bucket that the machines read and write."
  type        = list(string)
  default     = ["blocks", "runs"]
  validation {
    condition     = length(var.write_folders) > 0 && alltrue([for f in var.write_folders : can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", f))])
    error_message = "At least one folder, named without a slash at either end, and without quotes."
  }
}

variable "cluster_name" {
  description = "cluster_name of cluster/a100-gcp.yaml: Ray begins the names of its machines with ray-NAME-."
  type        = string
  default     = "worldmodel"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*$", var.cluster_name))
    error_message = "Small letters, digits and hyphens."
  }
}
