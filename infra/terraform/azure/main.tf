# One storage account and two identities, with no more rights than cluster/a100-azure.yaml needs.

resource "azurerm_resource_group" "cluster" {
  name     = var.resource_group
  location = var.location
}

# Ray makes its identity a Contributor on the cluster's group: what must outlive a machine's mistake is in another one.
resource "azurerm_resource_group" "results" {
  name     = var.results_resource_group
  location = var.location

  lifecycle {
    precondition {
      condition     = lower(var.results_resource_group) != lower(var.resource_group)
      error_message = "results_resource_group is the cluster's resource_group: name another one."
    }
  }
}

module "policies" {
  source         = "./policies"
  resource_group = azurerm_resource_group.cluster.id
  container      = "worldmodel"
  read_folders   = var.read_folders
  write_folders  = var.write_folders
}

resource "azurerm_storage_account" "data" {
  #checkov:skip=CKV_AZURE_33:queues are not used
  #checkov:skip=CKV_AZURE_59:machines come and go with addresses of their own; identities decide, over TLS alone
  #checkov:skip=CKV_AZURE_206:one region: machines read where they run; a copy of the games stays where they came from
  #checkov:skip=CKV2_AZURE_1:encrypted with Azure's own keys; a key of one's own is a vault more to keep
  #checkov:skip=CKV2_AZURE_33:no private network is made; identities decide, over TLS alone
  name                            = var.account
  resource_group_name             = azurerm_resource_group.results.name
  location                        = azurerm_resource_group.results.location
  account_tier                    = "Standard"
  account_replication_type        = "LRS"
  min_tls_version                 = "TLS1_2"
  https_traffic_only_enabled      = true
  allow_nested_items_to_be_public = false
  shared_access_key_enabled       = false
  local_user_enabled              = false

  sas_policy {
    expiration_period = "01.00:00:00"
  }

  blob_properties {
    versioning_enabled = true
    delete_retention_policy {
      days = var.old_version_days
    }
    container_delete_retention_policy {
      days = var.old_version_days
    }
  }
}

resource "azurerm_storage_container" "data" {
  #checkov:skip=CKV2_AZURE_21:access logs cost more than the data is worth to others
  name                  = "worldmodel"
  storage_account_id    = azurerm_storage_account.data.id
  container_access_type = "private"
}

resource "azurerm_storage_management_policy" "data" {
  storage_account_id = azurerm_storage_account.data.id

  rule {
    name    = "overwritten-or-deleted"
    enabled = true
    filters {
      blob_types = ["blockBlob"]
    }
    actions {
      version {
        delete_after_days_since_creation = var.old_version_days
      }
    }
  }

  rule {
    name    = "old-checkpoints"
    enabled = true
    filters {
      blob_types   = ["blockBlob"]
      prefix_match = ["worldmodel/runs/"]
    }
    actions {
      base_blob {
        tier_to_cool_after_days_since_modification_greater_than = var.old_checkpoint_days
        delete_after_days_since_modification_greater_than       = var.checkpoint_days
      }
    }
  }
}

resource "azurerm_user_assigned_identity" "machine" {
  for_each            = toset(["head", "worker"])
  name                = "worldmodel-${each.key}"
  resource_group_name = azurerm_resource_group.cluster.name
  location            = azurerm_resource_group.cluster.location
}

resource "azurerm_role_definition" "machines" {
  name  = "worldmodel machines"
  scope = module.policies.machines.scope
  permissions {
    actions = module.policies.machines.actions
  }
  assignable_scopes = [module.policies.machines.scope]
}

resource "azurerm_role_definition" "identity" {
  name  = "worldmodel identity"
  scope = module.policies.machines.scope
  permissions {
    actions = module.policies.identity.actions
  }
  assignable_scopes = [module.policies.machines.scope]
}

resource "azurerm_role_definition" "data" {
  name  = "worldmodel data"
  scope = azurerm_resource_group.results.id
  permissions {
    data_actions = module.policies.data.data_actions
  }
  assignable_scopes = [azurerm_resource_group.results.id]
}

resource "azurerm_role_assignment" "machines" {
  scope              = azurerm_resource_group.cluster.id
  role_definition_id = azurerm_role_definition.machines.role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.machine["head"].principal_id
}

# Ray gives workers the head's identity on Azure; the workers' own is ready for the day on which it does not.
resource "azurerm_role_assignment" "identity" {
  for_each           = azurerm_user_assigned_identity.machine
  scope              = each.value.id
  role_definition_id = azurerm_role_definition.identity.role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.machine["head"].principal_id
}

resource "azurerm_role_assignment" "data" {
  for_each           = azurerm_user_assigned_identity.machine
  scope              = azurerm_storage_account.data.id
  role_definition_id = azurerm_role_definition.data.role_definition_resource_id
  principal_id       = each.value.principal_id
  condition_version  = "2.0"
  condition          = module.policies.data.condition
}

resource "azurerm_role_definition" "keys" {
  count = var.key_vault == null ? 0 : 1
  name  = "worldmodel keys"
  scope = var.key_vault
  permissions {
    data_actions = module.policies.keys.data_actions
  }
  assignable_scopes = [var.key_vault]
}

resource "azurerm_role_assignment" "keys" {
  count              = var.key_vault == null ? 0 : 1
  scope              = var.key_vault
  role_definition_id = azurerm_role_definition.keys[0].role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.machine["head"].principal_id
}
