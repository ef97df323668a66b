"""The files that `ray up` takes: what Ray's own schema and providers say of them, and what keeps them safe and cheap.

Each property that protects a person stands in a test of its own, which fails where somebody takes it away.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

from cluster.settings import parse_settings
from tests.cluster.launcher import (
    ANSWERS,
    CLOUDS,
    CLUSTER,
    FILES,
    PLACEHOLDER,
    ROOT,
    fill_file,
    list_commands,
    prepare,
    read_file,
    read_text,
)
from worldmodel.doctor.cluster_files import check_file, find_placeholders
from worldmodel.errors import UserError
from worldmodel.machine.launcher import name_cloud
from worldmodel.run.prices import parse_prices

pytestmark = pytest.mark.xdist_group("launcher")  # what is prepared once serves all
TOKEN = "~/.ray/auth_token"
SETTINGS_LINES = 60
"""A person finds all that is to be set above this line."""
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|[0-9a-f]{40,}|(?i:password|secret_access_key|api_key)\s*[:=]\s*[^\s\"'$]"
)
"""What a key looks like, or a setting that holds one."""


@pytest.mark.parametrize("stem", FILES)
def test_ray_accepts_each_file_once_its_settings_are_set(stem: str) -> None:
    config = prepare(stem)
    assert config["cluster_name"] == "worldmodel"
    assert parse_settings(config).storage


@pytest.mark.parametrize("stem", FILES)
def test_what_is_to_be_set_is_named_by_doctor_and_is_all_there_is(stem: str, tmp_path: Path) -> None:
    unset = find_placeholders(read_file(stem))
    assert set(ANSWERS[stem]) <= set(unset)
    assert len(ANSWERS[stem]) <= 5, "few settings"
    [check] = [check for check in check_file(CLUSTER / f"{stem}.yaml") if "unset" in check.found]
    assert all(place in check.found for place in unset)
    (tmp_path / "filled.yaml").write_text(yaml.safe_dump(fill_file(stem)))
    assert not any("unset" in check.found for check in check_file(tmp_path / "filled.yaml"))


@pytest.mark.parametrize("stem", FILES)
def test_what_is_to_be_set_stands_on_top(stem: str) -> None:
    lines = read_text(stem).splitlines()
    marked = [number for number, line in enumerate(lines) if line.split("#")[0].find(PLACEHOLDER) >= 0]
    assert marked and max(marked) < SETTINGS_LINES
    assert max(marked) < next(
        number for number, line in enumerate(lines) if line.startswith(("head_node_type", "file_m"))
    )


@pytest.mark.parametrize("stem", FILES)
def test_a_job_is_refused_while_a_setting_is_unset(stem: str) -> None:
    with pytest.raises(UserError, match="storage"):
        parse_settings(read_file(stem))


@pytest.mark.parametrize("stem", FILES)
def test_a_setting_that_nobody_reads_is_an_error(stem: str) -> None:
    config = fill_file(stem)
    config["metadata"]["head_idle_minuts"] = 5
    with pytest.raises(UserError, match="head_idle_minuts"):
        parse_settings(config)
    config = fill_file(stem)
    config["idle_timeout_minuts"] = 5
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError, match="idle_timeout_minuts"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("stem", CLOUDS)
def test_a_cloud_starts_from_no_worker_and_goes_back_to_none_head_included(stem: str) -> None:
    config = prepare(stem)
    kinds = config["available_node_types"]
    head = kinds.pop(config["head_node_type"])
    assert head["max_workers"] == 0 and head["resources"]["CPU"] == 0, "no trial runs on the head"
    assert all(kind["min_workers"] == 0 for kind in kinds.values())
    assert sum(kind["max_workers"] > 0 for kind in kinds.values()) == 1, "the other GPU is an option"
    assert 0 < config["idle_timeout_minutes"] <= 15
    settings = parse_settings(config)
    assert 0 < settings.head_idle_minutes <= 60 and settings.budget_hours and settings.budget_usd
    assert config["provider"]["cache_stopped_nodes"] is False, "a stopped machine's disk costs on"
    assert "python -m cluster.keeper start" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("stem", CLOUDS)
def test_every_machine_of_a_cloud_has_a_price_and_says_what_it_has(stem: str) -> None:
    config = prepare(stem)
    prices = parse_settings(config).dollars_per_hour
    assert set(prices) == set(config["available_node_types"])
    for name, kind in config["available_node_types"].items():
        accelerators = [resource for resource in kind["resources"] if resource.startswith("accelerator_type:")]
        assert name == config["head_node_type"] or (kind["resources"]["GPU"] >= 1 and len(accelerators) == 1)


@pytest.mark.parametrize("stem", CLOUDS)
def test_prices_are_those_of_the_price_file(stem: str) -> None:
    config = read_file(stem)
    listed = parse_prices((ROOT / "infra" / "prices.yaml").read_text(), "prices.yaml")
    hour = listed.providers[name_cloud(config["provider"])].machine_hour
    kinds = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}
    types = {name: _find_type(node) for name, node in kinds.items()}
    assert config["metadata"]["dollars_per_hour"] == {name: hour[type_].value for name, type_ in types.items()}


def _find_type(node: dict[str, Any]) -> str:
    """The machine type that a cloud is asked for."""
    return str(node.get("InstanceType") or node.get("machineType") or node["azure_arm_parameters"]["vmSize"])


@pytest.mark.parametrize("stem", CLOUDS)
def test_a_machine_whose_set_up_fails_ends_itself(stem: str) -> None:
    config = prepare(stem)
    for name in ("head_setup_commands", "worker_setup_commands"):
        assert config[name][0].startswith("bash ~/worldmodel/cluster/guard.sh start"), "before anything that can fail"


@pytest.mark.parametrize("stem", FILES)
def test_ray_starts_with_the_token_or_not_at_all(stem: str) -> None:
    config = prepare(stem)
    assert config["file_mounts"][TOKEN] == TOKEN, "the laptop's token goes to the head, and from there to the workers"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        started = [command for command in config[name] if "ray start" in command]
        assert started
        for command in started:
            before = command.split("ray start")[0]
            assert "&& . cluster/environment.sh" in before, "it exports RAY_AUTH_MODE, and refuses where no token is"
            assert ";" not in before and "||" not in before, "nothing between the refusal and ray start goes on"
    assert not any("RAY_AUTH_MODE=disabled" in command for command in list_commands(config))


@pytest.mark.parametrize("stem", FILES)
def test_each_header_has_the_token_command_before_the_start(stem: str) -> None:
    text = read_text(stem)
    assert 0 < text.find("ray get-auth-token --generate") < text.find("ray up cluster/")


@pytest.mark.parametrize("stem", FILES)
def test_the_dashboard_is_reached_through_the_tunnel_alone(stem: str) -> None:
    [start] = [command for command in prepare(stem)["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in read_text(stem)


@pytest.mark.parametrize("stem", FILES)
def test_a_job_s_folder_is_the_checkout(stem: str) -> None:
    config = prepare(stem)
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert all(command.startswith("cd ~/worldmodel && ") for command in config[name])
    here = {there: Path(ROOT, path) for there, path in config["file_mounts"].items() if there != TOKEN}
    assert all(path.exists() for path in here.values())
    for needed in (
        "tune/round1.py",
        "worldmodel/__init__.py",
        "cluster/keeper.py",
        "pyproject.toml",
        "constraints.txt",
    ):
        assert any((ROOT / needed).is_relative_to(path) for path in here.values()), needed
    assert all(there == f"~/worldmodel/{path.relative_to(ROOT)}" for there, path in here.items())


@pytest.mark.parametrize("stem", FILES)
def test_only_code_goes_to_the_machines(stem: str) -> None:
    """Ray reads all that is named before it copies, so a checkout as a whole would take runs and environments along."""
    config = prepare(stem)
    sent = {Path(path).name for path in config["file_mounts"].values()}
    assert sent == {"auth_token", "worldmodel", "tune", "cluster", "prices.yaml", "pyproject.toml", "constraints.txt",
                    "README.md"}  # fmt: skip
    assert "__pycache__" in config["rsync_exclude"]


@pytest.mark.parametrize("stem", FILES)
def test_the_packages_come_from_the_pinned_list_on_every_machine(stem: str) -> None:
    config = prepare(stem)
    for name in ("head_setup_commands", "worker_setup_commands"):
        assert sum(command.startswith("bash ~/worldmodel/cluster/install.sh") for command in config[name]) == 1
        assert not any("pip install" in command for command in config[name]), "Ray's own would pass our pins by"


@pytest.mark.parametrize("stem", CLOUDS)
def test_a_gpu_machine_waits_for_its_driver_within_bounds(stem: str) -> None:
    commands = prepare(stem)["worker_setup_commands"]
    [wait] = [command for command in commands if "wait_for_driver" in command]
    assert 300 < int(wait.split()[-1]) <= 1800
    assert commands.index(wait) < commands.index("bash ~/worldmodel/cluster/install.sh"), "it looks for the driver"


@pytest.mark.parametrize(("stem", "extra"), [("a100-gcp", "gcp"), ("a100-azure", "azure")])
def test_a_head_has_what_starts_machines_there(stem: str, extra: str) -> None:
    assert f"bash ~/worldmodel/cluster/install.sh {extra}" in prepare(stem)["head_setup_commands"]


def test_own_machines_use_the_autoscaler_that_counts_them_right() -> None:
    config = prepare("own-machines")
    [start] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "export RAY_enable_autoscaler_v2=0" in start.split("ray start")[0]
    kind = config["available_node_types"]["local.cluster.node"]
    assert (kind["min_workers"], kind["max_workers"]) == (2, 2)


@pytest.mark.parametrize(
    "path", sorted(p for p in CLUSTER.rglob("*") if p.suffix in (".yaml", ".sh", ".py", ".md")), ids=str
)
def test_nothing_secret_stands_in_a_file(path: Path) -> None:
    text = path.read_text()
    assert not SECRETS.search(text), SECRETS.search(text)
    if path.suffix == ".yaml":
        for document in yaml.safe_load_all(text):
            for name, value in _walk(document):
                assert not (re.search(r"(?i)(api|access|secret)_?key(_id)?$|token$", name) and value), (name, value)


def _walk(value: Any) -> list[tuple[str, Any]]:
    """Names and values of all settings that hold one value."""
    if isinstance(value, dict):
        inner = [pair for name, item in value.items() for pair in _walk(item)]
        own = [(str(name), item) for name, item in value.items() if isinstance(item, (str, int, float))]
        return [pair for pair in own if "/" not in pair[0]] + inner  # a path may end in "token"
    if isinstance(value, list):
        return [pair for item in value for pair in _walk(item)]
    return []


def test_the_test_for_secrets_finds_some(tmp_path: Path) -> None:
    for text in (
        "key: AKIAABCDEFGHIJKLMNOP",
        "WANDB_API_KEY: abc",
        "-----BEGIN PRIVATE KEY",
        json.dumps({"password": "x"}),
    ):
        assert SECRETS.search(text.replace('"', "")), text
