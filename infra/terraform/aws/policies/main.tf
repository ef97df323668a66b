# What the head and the workers may do, as documents. No provider is needed to make or to test them.

locals {
  ec2     = "arn:${var.partition}:ec2:${var.region}"
  own     = "${local.ec2}:${var.account_id}"
  bucket  = "arn:${var.partition}:s3:::${var.bucket}"
  folders = concat(var.read_folders, var.write_folders)

  # IAM knows no number of machines: the account's quota of vCPUs and max_workers in the YAML limit that.
  requests_type = { "ec2:InstanceType" = var.machine_types }
  requests_tag  = { StringEquals = { "aws:RequestTag/${var.tag.key}" = var.tag.value } }
  carries_tag   = { StringEquals = { "aws:ResourceTag/${var.tag.key}" = var.tag.value } }

  # Reading, writing, listing: below the folders alone. The bucket as a whole is neither listed nor asked about.
  data = [
    {
      Sid       = "ListFolders"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = [local.bucket]
      Condition = { StringLike = { "s3:prefix" = flatten([for f in local.folders : [f, "${f}/*"]]) } }
    },
    {
      Sid      = "ReadFolders"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = [for f in local.folders : "${local.bucket}/${f}/*"]
    },
    {
      Sid      = "WriteFolders"
      Effect   = "Allow"
      Action   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
      Resource = [for f in var.write_folders : "${local.bucket}/${f}/*"]
    },
  ]

  machines = [
    {
      Sid       = "StartTaggedMachines"
      Effect    = "Allow"
      Action    = ["ec2:RunInstances"]
      Resource  = ["${local.own}:instance/*"]
      Condition = { StringEquals = merge(local.requests_tag.StringEquals, local.requests_type) }
    },
    {
      Sid       = "GiveThemTaggedDisks"
      Effect    = "Allow"
      Action    = ["ec2:RunInstances"]
      Resource  = ["${local.own}:volume/*"]
      Condition = local.requests_tag
    },
    {
      Sid    = "StartThemFrom"
      Effect = "Allow"
      Action = ["ec2:RunInstances"]
      Resource = concat(
        ["${local.ec2}::image/*", "${local.ec2}::snapshot/*"],
        [
          for kind in ["network-interface", "subnet", "security-group", "key-pair", "spot-instances-request"] :
          "${local.own}:${kind}/*"
        ],
      )
    },
    {
      Sid       = "TagWhatItStarts"
      Effect    = "Allow"
      Action    = ["ec2:CreateTags"]
      Resource  = ["${local.own}:instance/*", "${local.own}:volume/*"]
      Condition = { StringEquals = { "ec2:CreateAction" = "RunInstances" } }
    },
    {
      # Ray notes on its machines what they are doing. The tag that gives rights over a machine cannot be set this way.
      Sid       = "NoteOnTaggedMachines"
      Effect    = "Allow"
      Action    = ["ec2:CreateTags"]
      Resource  = ["${local.own}:instance/*"]
      Condition = merge(local.carries_tag, { "ForAllValues:StringLike" = { "aws:TagKeys" = ["ray-*", "Name"] } })
    },
    {
      Sid       = "StartStopAndEndTaggedMachines"
      Effect    = "Allow"
      Action    = ["ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances"]
      Resource  = ["${local.own}:instance/*"]
      Condition = local.carries_tag
    },
    {
      # These calls know no resources: who may look sees all machines of the region.
      Sid       = "SeeMachines"
      Effect    = "Allow"
      Action    = ["ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceTypes"]
      Resource  = ["*"]
      Condition = { StringEquals = { "aws:RequestedRegion" = var.region } }
    },
    {
      Sid       = "GiveMachinesTheWorkersRole"
      Effect    = "Allow"
      Action    = ["iam:PassRole"]
      Resource  = ["arn:${var.partition}:iam::${var.account_id}:role/${var.worker_role}"]
      Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
    },
    {
      Sid      = "FindMachineImages"
      Effect   = "Allow"
      Action   = ["ssm:GetParameters"]
      Resource = ["arn:${var.partition}:ssm:${var.region}::parameter/aws/service/*"]
    },
  ]

  keys = [
    {
      Sid      = "ReadKeys"
      Effect   = "Allow"
      Action   = ["ssm:GetParameter"]
      Resource = ["arn:${var.partition}:ssm:${var.region}:${var.account_id}:parameter/${var.secrets}/*"]
    },
  ]
}
