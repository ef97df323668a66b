output "machines" {
  description = "Role of the head, in the cluster's resource group: start, stop and delete machines."
  value = {
    scope = var.resource_group
    actions = [
      "Microsoft.Compute/disks/delete", "Microsoft.Compute/disks/read", "Microsoft.Compute/disks/write",
      "Microsoft.Compute/virtualMachines/deallocate/action", "Microsoft.Compute/virtualMachines/delete",
      "Microsoft.Compute/virtualMachines/instanceView/read", "Microsoft.Compute/virtualMachines/powerOff/action",
      "Microsoft.Compute/virtualMachines/read", "Microsoft.Compute/virtualMachines/start/action",
      "Microsoft.Compute/virtualMachines/write",
      "Microsoft.Network/networkInterfaces/delete", "Microsoft.Network/networkInterfaces/join/action",
      "Microsoft.Network/networkInterfaces/read", "Microsoft.Network/networkInterfaces/write",
      "Microsoft.Network/networkSecurityGroups/join/action", "Microsoft.Network/networkSecurityGroups/read",
      "Microsoft.Network/publicIPAddresses/delete", "Microsoft.Network/publicIPAddresses/join/action",
      "Microsoft.Network/publicIPAddresses/read", "Microsoft.Network/publicIPAddresses/write",
      "Microsoft.Network/virtualNetworks/read", "Microsoft.Network/virtualNetworks/subnets/join/action",
      "Microsoft.Network/virtualNetworks/subnets/read",
      "Microsoft.Resources/deployments/operationStatuses/read", "Microsoft.Resources/deployments/read",
      "Microsoft.Resources/deployments/validate/action", "Microsoft.Resources/deployments/write",
    ]
  }
}

output "identity" {
  description = "Role of the head over one identity: give it to machines."
  value = {
    actions = [
      "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action",
      "Microsoft.ManagedIdentity/userAssignedIdentities/read",
    ]
  }
}

output "data" {
  description = "Role of both over the storage account's blobs, and the condition under which it holds."
  value = {
    data_actions = [for verb in ["read", "write", "add/action", "delete"] : "${local.blobs}/${verb}"]
    condition = join(" AND ", [
      "(!(${local.listing}) OR (${local.same_container} AND (${local.listed})))",
      "(!(${local.reading}) OR (${local.same_container} AND (${local.in_folders.read})))",
      "(!(${local.writing}) OR (${local.same_container} AND (${local.in_folders.write})))",
    ])
  }
}

output "keys" {
  description = "Role of the head over the vault that cluster/secret_store.py asks."
  value       = { data_actions = ["Microsoft.KeyVault/vaults/secrets/getSecret/action"] }
}
