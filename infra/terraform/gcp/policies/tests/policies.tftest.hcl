variables {
  project_number = "123456789"
  bucket         = "games-of-ours"
}

run "rights_to_change_machines_hold_for_the_clusters_alone" {
  command = plan

  assert {
    condition     = strcontains(output.machines.condition, "startsWith('ray-worldmodel-')")
    error_message = "Machines of others could be changed."
  }

  assert {
    condition = alltrue([
      for p in output.surroundings.permissions :
      !can(regex("^compute\\.instances\\.", p)) || contains(["compute.instances.get", "compute.instances.list"], p)
    ])
    error_message = "Without a condition the head may only look at machines."
  }
}

run "nobody_reaches_beyond_the_folders_or_makes_anything_public" {
  command = plan

  assert {
    condition = alltrue([
      for p in concat(output.reading.permissions, output.writing.permissions) :
      !strcontains(p, "IamPolicy") && !strcontains(p, "*")
    ])
    error_message = "A worker could open the bucket to others."
  }

  assert {
    condition     = !strcontains(output.writing.condition, "/games/") && strcontains(output.reading.condition, "/games/")
    error_message = "Games are read, not written."
  }
}

run "names_are_those_that_are_given" {
  command = plan

  variables {
    bucket        = "other"
    read_folders  = []
    write_folders = ["team/melee"]
    cluster_name  = "ours"
  }

  assert {
    condition = (
      output.writing.condition ==
      "resource.type == 'storage.googleapis.com/Object' && (resource.name.startsWith('projects/_/buckets/other/objects/team/melee/'))"
    )
    error_message = "A name is written out somewhere."
  }

  assert {
    condition     = strcontains(output.machines.condition, "'ray-ours-'")
    error_message = "The cluster's name is written out somewhere."
  }
}

run "a_folder_that_would_end_the_condition_is_refused" {
  command = plan

  variables {
    write_folders = ["runs') || ('a' == 'a"]
  }

  expect_failures = [var.write_folders]
}
