variable "subscription" {
  description = "Id of the Azure subscription."
  type        = string
}

variable "location" {
  description = "Where the machines and the storage are; the location of cluster/a100-azure.yaml."
  type        = string
}

variable "account" {
  description = "Name of the storage account to make: small letters and digits; no other in the world may have it."
  type        = string
}

variable "resource_group" {
  description = "Name of the resource group to make; the one of cluster/a100-azure.yaml. It holds nothing else."
  type        = string
  default     = "worldmodel"
}

variable "results_resource_group" {
  description = "Name of a second resource group to make, for the storage account: no machine may delete that one."
  type        = string
  default     = "worldmodel-results"
}

variable "key_vault" {
  description = "Id of the Key Vault that holds W&B's key; null: none."
  type        = string
  default     = null
}

variable "read_folders" {
  description = "Top folders of the container that the machines only read."
  type        = list(string)
  default     = ["games"]
}

variable "write_folders" {
  description = "Top folders of the container that the machines read and write."
  type        = list(string)
  default     = ["blocks", "runs"]
}

variable "old_version_days" {
  description = "Days for which what was overwritten or deleted can be brought back."
  type        = number
  default     = 14
}

variable "old_checkpoint_days" {
  description = "Days after which files of runs move to cheaper storage."
  type        = number
  default     = 30
}

variable "checkpoint_days" {
  description = "Days after which files of runs are deleted; null: never. Azure's rules cannot tell checkpoints from records."
  type        = number
  default     = null
}
