variables {
  account_id = "123456789012"
  region     = "us-west-2"
  bucket     = "games-of-ours"
}

run "the_head_starts_and_ends_only_tagged_machines" {
  command = plan

  assert {
    condition = alltrue([
      for s in jsondecode(output.head).Statement : try(
        s.Condition.StringEquals["aws:RequestTag/worldmodel"] == "cluster",
        s.Condition.StringEquals["aws:ResourceTag/worldmodel"] == "cluster",
        s.Condition.StringEquals["ec2:CreateAction"] == "RunInstances",
        false,
      ) if anytrue([for r in s.Resource : can(regex("instance/", r))])
    ])
    error_message = "A statement about machines asks for no tag."
  }

  assert {
    condition = alltrue([
      for s in jsondecode(output.head).Statement :
      alltrue([for a in s.Action : can(regex("^ec2:Describe", a))]) if contains(s.Resource, "*")
    ])
    error_message = "Only looking is allowed on everything."
  }

  assert {
    condition = [
      for s in jsondecode(output.head).Statement : s.Resource if contains(s.Action, "iam:PassRole")
    ] == [["arn:aws:iam::123456789012:role/worldmodel-worker"]]
    error_message = "The head may give machines another role than the workers'."
  }
}

run "workers_have_no_right_over_machines_and_identities" {
  command = plan

  assert {
    condition = alltrue(flatten([
      for s in jsondecode(output.worker).Statement : [for a in s.Action : can(regex("^s3:", a))]
    ]))
    error_message = "A worker may do more than use the bucket."
  }
}

run "no_action_is_a_wildcard_and_nothing_reaches_beyond_the_folders" {
  command = plan

  assert {
    condition = alltrue(flatten([
      for s in concat(jsondecode(output.head).Statement, jsondecode(output.worker).Statement) :
      [for a in s.Action : !can(regex("[*?]", a))]
    ]))
    error_message = "An action has a wildcard."
  }

  assert {
    condition = alltrue(flatten([
      for s in jsondecode(output.worker).Statement : [
        for r in s.Resource : can(regex("^arn:aws:s3:::games-of-ours/(games|blocks|runs)/\\*$", r))
      ] if !contains(s.Action, "s3:ListBucket")
    ]))
    error_message = "A right reaches beyond the folders."
  }
}

run "folders_and_names_are_those_that_are_given" {
  command = plan

  variables {
    partition     = "aws-cn"
    read_folders  = []
    write_folders = ["team/melee"]
    worker_role   = "other"
    tag           = { key = "owner", value = "us" }
    secrets       = "team"
  }

  assert {
    condition = (
      !strcontains(output.head, "worldmodel") && !strcontains(output.head, "arn:aws:") &&
      strcontains(output.worker, "games-of-ours/team/melee/*")
    )
    error_message = "A name is written out somewhere."
  }
}

run "a_folder_that_would_open_the_whole_bucket_is_refused" {
  command = plan

  variables {
    write_folders = ["*"]
  }

  expect_failures = [var.write_folders]
}

run "every_machine_type_at_once_is_refused" {
  command = plan

  variables {
    machine_types = ["*"]
  }

  expect_failures = [var.machine_types]
}

run "an_account_that_is_none_is_refused" {
  command = plan

  variables {
    account_id = "123"
  }

  expect_failures = [var.account_id]
}
