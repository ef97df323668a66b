# What the head and the workers may do: lists of permissions, and the conditions under which they hold. No provider is
# needed to make or to test them. Conditions of Google's cannot read a machine's labels, so machines are told by name.

locals {
  own_machine = join(" || ", [
    "resource.type != 'compute.googleapis.com/Instance'",
    "resource.name.extract('/instances/{name}').startsWith('ray-${var.cluster_name}-')",
  ])

  objects = "projects/_/buckets/${var.bucket}/objects"
  lists   = "api.getAttribute('storage.googleapis.com/objectListPrefix', '')"

  below = {
    for kind, folders in { read = concat(var.read_folders, var.write_folders), write = var.write_folders } :
    kind => join(" || ", [for f in folders : "resource.name.startsWith('${local.objects}/${f}/')"])
  }
  listed = join(" || ", [
    for f in concat(var.read_folders, var.write_folders) : "${local.lists}.startsWith('${f}/')"
  ])
}
