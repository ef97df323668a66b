variables {
  resource_group = "/subscriptions/0/resourceGroups/worldmodel"
  container      = "ours"
}

run "rights_over_machines_end_at_the_resource_group" {
  command = plan

  assert {
    condition     = output.machines.scope == "/subscriptions/0/resourceGroups/worldmodel"
    error_message = "The scope is not the resource group."
  }
}

run "nobody_may_do_everything_or_give_rights" {
  command = plan

  assert {
    condition = alltrue([
      for a in concat(output.machines.actions, output.identity.actions, output.data.data_actions) :
      !strcontains(a, "*") && !can(regex("(?i)microsoft\\.authorization|listkeys|runcommand|extensions", a))
    ])
    error_message = "A role may do everything, give rights, read keys or run commands on machines."
  }
}

run "games_are_read_and_not_written" {
  command = plan

  assert {
    condition     = length(regexall("'games/\\*'", output.data.condition)) == 2
    error_message = "Games are listed and read, and nothing else."
  }

  assert {
    condition     = length(regexall("'runs/\\*'", output.data.condition)) == 3
    error_message = "Runs are listed, read and written."
  }
}

run "a_scope_wider_than_a_resource_group_is_refused" {
  command = plan

  variables {
    resource_group = "/subscriptions/0"
  }

  expect_failures = [var.resource_group]
}

run "a_folder_that_would_open_the_container_is_refused" {
  command = plan

  variables {
    write_folders = ["*"]
  }

  expect_failures = [var.write_folders]
}
