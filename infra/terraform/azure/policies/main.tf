# What the head and the workers may do: role definitions, and the condition under which data may be used. No provider is
# needed to make or to test them. Azure's rights over machines cannot ask for a tag: they end at the resource group.

locals {
  blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"

  attribute = {
    path   = "@Resource[${local.blobs}:path]"
    prefix = "@Request[${local.blobs}:prefix]"
  }
  same_container = "@Resource[Microsoft.Storage/storageAccounts/blobServices/containers:name] StringEquals '${var.container}'"

  folders = { read = concat(var.read_folders, var.write_folders), write = var.write_folders }
  in_folders = {
    for kind, folders in local.folders :
    kind => join(" OR ", [for f in folders : "${local.attribute.path} StringLike '${f}/*'"])
  }
  listed = join(" OR ", [for f in local.folders.read : "${local.attribute.prefix} StringLike '${f}/*'"])

  listing = "(ActionMatches{'${local.blobs}/read'} AND SubOperationMatches{'Blob.List'})"
  reading = "(ActionMatches{'${local.blobs}/read'} AND NOT SubOperationMatches{'Blob.List'})"
  writing = "(${join(" OR ", [for verb in ["write", "add/action", "delete"] : "ActionMatches{'${local.blobs}/${verb}'}"])})"
}
