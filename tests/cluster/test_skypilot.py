"""The task for SkyPilot; its own parser is asked where SkyPilot is installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.launcher import CLUSTER
from worldmodel.doctor.cluster_files import find_placeholders

FILE = CLUSTER / "skypilot.yaml"


@pytest.fixture
def task() -> dict[str, Any]:
    """The task."""
    return dict(yaml.safe_load(FILE.read_text()))


def test_the_machine_ends_itself(task: dict[str, Any]) -> None:
    assert task["resources"]["autostop"] == {"idle_minutes": 10, "down": True}


def test_several_clouds_are_tried_up_to_a_price(task: dict[str, Any]) -> None:
    clouds = {choice["infra"] for choice in task["resources"]["any_of"]}
    assert {"lambda", "runpod", "gcp", "azure"} <= clouds and "aws" not in clouds, "it has no machine with one A100"
    assert 2 <= task["resources"]["max_hourly_cost"] <= 5


def test_keys_come_from_the_shell(task: dict[str, Any]) -> None:
    assert task["secrets"] and not any(task["secrets"].values())
    assert not any("KEY" in name for name in task["envs"])


def test_what_is_to_be_set_is_named_by_doctor(task: dict[str, Any]) -> None:
    assert find_placeholders(task) == ["envs.WORLDMODEL_DATA", "envs.WORLDMODEL_STORAGE"]


def test_the_grid_runs_apart_from_skypilot_s_own_ray_and_without_empty_keys(
    task: dict[str, Any], tmp_path: Path
) -> None:
    """The run section itself, with a python that shows what it was given."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\nenv\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_ADDRESS": "auto", "AWS_ACCESS_KEY_ID": "",
                   "WANDB_API_KEY": "k", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL_S3": ""}  # fmt: skip
    shown = subprocess.run(
        ["bash", "-c", task["run"]], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert shown[0] == "tune/round1.py --resume"
    found = dict(line.split("=", 1) for line in shown[1:] if "=" in line)
    assert found["WANDB_API_KEY"] == "k" and found["RAY_AUTH_MODE"] == "token"
    assert not {"RAY_ADDRESS", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_S3"} & set(found)


def test_skypilot_refuses_unset_settings_and_takes_the_rest(task: dict[str, Any]) -> None:
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed; its packages would take the place of ours")
    with pytest.raises(ValueError, match="WORLDMODEL_DATA"):
        sky.Task.from_yaml(str(FILE))
    task["envs"] |= {"WORLDMODEL_DATA": "s3://bucket/games", "WORLDMODEL_STORAGE": "s3://bucket/runs"}
    assert sky.Task.from_yaml_config(task).num_nodes == 1
