variable "resource_group" {
  description = "Id of the resource group that holds the cluster and nothing else: rights over machines end there."
  type        = string
  validation {
    condition     = can(regex("^/subscriptions/[^/]+/resourceGroups/[^/]+$", var.resource_group))
    error_message = "An id such as /subscriptions/ID/resourceGroups/worldmodel: narrower or wider scopes are not meant."
  }
}

variable "container" {
  description = "Name of the storage container."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9-]+$", var.container))
    error_message = "Small letters, digits and hyphens."
  }
}

variable "read_folders" {
  description = "Top folders of the container that the machines only read."
  type        = list(string)
  default     = ["games"]
  validation {
    condition     = alltrue([for f in var.read_folders : can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", f))])
    error_message = "A folder is named without a slash at either end, and without quotes or *."
  }
}

variable "write_folders" {
  description = "Top folders of the container that the machines read and write."
  type        = list(string)
  default     = ["blocks", "runs"]
  validation {
    condition     = length(var.write_folders) > 0 && alltrue([for f in var.write_folders : can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", f))])
    error_message = "At least one folder, named without a slash at either end, and without quotes or *."
  }
}
