output "machines" {
  description = "Starting, stopping and ending machines: the head, under its condition."
  value = {
    permissions = [
      "compute.instances.create", "compute.instances.delete", "compute.instances.setLabels",
      "compute.instances.setMetadata", "compute.instances.setServiceAccount", "compute.instances.setTags",
      "compute.instances.start", "compute.instances.stop",
    ]
    condition = local.own_machine
  }
}

output "surroundings" {
  description = "Seeing machines, and what a new one is made from: the head, without a condition."
  value = {
    permissions = [
      "compute.acceleratorTypes.get", "compute.disks.create", "compute.images.get", "compute.images.useReadOnly",
      "compute.instances.get", "compute.instances.list", "compute.machineTypes.get", "compute.projects.get",
      "compute.subnetworks.get", "compute.subnetworks.use", "compute.subnetworks.useExternalIp",
      "compute.zoneOperations.get", "compute.zones.get",
    ]
  }
}

output "reading" {
  description = "Reading what is in the bucket's folders: both."
  value = {
    permissions = ["storage.objects.get", "storage.objects.list"]
    condition = join(" || ", [
      "(resource.type == 'storage.googleapis.com/Object' && (${local.below.read}))",
      "(resource.type == 'storage.googleapis.com/Bucket' && (${local.listed}))",
    ])
  }
}

output "writing" {
  description = "Writing in the bucket's folders: both."
  value = {
    permissions = ["storage.objects.create", "storage.objects.delete"]
    condition   = "resource.type == 'storage.googleapis.com/Object' && (${local.below.write})"
  }
}

output "keys" {
  description = "Reading the keys that cluster/secret_store.py asks for: the head, which hands them to its jobs."
  value = {
    role      = "roles/secretmanager.secretAccessor"
    condition = "resource.name.startsWith('projects/${var.project_number}/secrets/worldmodel-')"
  }
}

output "identity" {
  description = "What the head may do with the workers' identity, and with no other: give it to machines."
  value       = { role = "roles/iam.serviceAccountUser" }
}
