output "storage" {
  description = "For cluster/a100-azure.yaml, metadata.storage; AZURE_STORAGE_ACCOUNT names the account."
  value       = "az://${azurerm_storage_container.data.name}/runs"
}

output "data" {
  description = "Where to upload games, and for cluster/a100-azure.yaml, metadata.data."
  value       = "az://${azurerm_storage_container.data.name}/games"
}

output "account" {
  description = "AZURE_STORAGE_ACCOUNT."
  value       = azurerm_storage_account.data.name
}

output "identities" {
  description = "For cluster/a100-azure.yaml, provider.msi_name: the head's."
  value       = { for kind, identity in azurerm_user_assigned_identity.machine : kind => identity.name }
}
