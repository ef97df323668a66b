"""infra/terraform: formatted, its provider-free modules valid and tested, and without findings of checkov's."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.toolbox import CLOUDS, ROOT, TERRAFORM, copy_module, find_tool, run_terraform

FILES = sorted(TERRAFORM.rglob("*.tf"))


@pytest.mark.slow
def test_every_file_is_formatted() -> None:
    ended = run_terraform(TERRAFORM, "fmt", "-check", "-recursive", "-diff")
    assert ended.returncode == 0, ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_modules_tests_pass(cloud: str, tmp_path: Path) -> None:
    module = copy_module(cloud, tmp_path / "policies")
    assert run_terraform(module, "validate", "-no-color").returncode == 0
    ended = run_terraform(module, "test", "-no-color")
    assert ended.returncode == 0, ended.stdout
    assert re.search(r"([4-9]|\d\d) passed, 0 failed", ended.stdout), ended.stdout


@pytest.mark.slow
def test_checkov_finds_nothing_that_is_not_named_with_its_reason() -> None:
    ended = subprocess.run(
        [find_tool("checkov"), "--directory", TERRAFORM, "--framework", "terraform", "--skip-download",
         "--output", "json"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    found = json.loads(ended.stdout)
    assert [f"{c['check_id']} {c['resource']}" for c in found["results"]["failed_checks"]] == []
    assert found["summary"]["parsing_errors"] == 0 and found["summary"]["passed"] > 60
    reasons = [check["check_result"]["suppress_comment"] for check in found["results"]["skipped_checks"]]
    assert reasons and all(len(reason) > 15 for reason in reasons)


def test_no_module_of_policies_needs_a_provider() -> None:
    for cloud in CLOUDS:
        text = "\n".join(path.read_text() for path in (TERRAFORM / cloud / "policies").glob("*.tf"))
        assert not re.search(r"^(resource|data|provider|terraform)\b", text, re.MULTILINE), cloud


def test_both_identities_are_those_that_the_clusters_name() -> None:
    text = {cloud: (TERRAFORM / cloud / "main.tf").read_text() for cloud in CLOUDS}
    for cloud in CLOUDS:
        assert "worldmodel-${each.key}" in text[cloud]
        assert re.search(r"head.*worker", text[cloud])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TERRAFORM)))
def test_every_variable_and_output_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    blocks = re.findall(r'^(?:variable|output) "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL)
    assert all("description" in block for _, block in blocks), [name for name, block in blocks if "descr" not in block]


def test_values_given_to_a_module_are_those_that_it_takes() -> None:
    for cloud in CLOUDS:
        taken = set(re.findall(r'^variable "(\w+)"', (TERRAFORM / cloud / "policies/variables.tf").read_text(), re.M))
        (given,) = re.findall(
            r'module "policies" \{\n(.*?)^\}', (TERRAFORM / cloud / "main.tf").read_text(), re.M | re.S
        )
        names = set(re.findall(r"^  (\w+)\s+=", given, re.M)) - {"source"}
        required = {
            name
            for name, body in re.findall(
                r'^variable "(\w+)" \{\n(.*?)^\}',
                (TERRAFORM / cloud / "policies/variables.tf").read_text(),
                re.M | re.S,
            )
            if "default" not in body
        }
        assert required <= names <= taken, cloud


def test_outputs_that_are_used_are_there() -> None:
    for cloud in CLOUDS:
        used = set(re.findall(r"module\.policies\.(\w+)", (TERRAFORM / cloud / "main.tf").read_text()))
        there = set(re.findall(r'^output "(\w+)"', (TERRAFORM / cloud / "policies/outputs.tf").read_text(), re.M))
        assert used == there, cloud


def test_aws_allows_the_machine_types_of_the_yaml_and_no_other() -> None:
    kinds = yaml.safe_load((ROOT / "cluster/a100.yaml").read_text())["available_node_types"]
    workers = {kind["node_config"]["InstanceType"] for name, kind in kinds.items() if name != "head"}
    for path in ("aws/variables.tf", "aws/policies/variables.tf"):
        text = (TERRAFORM / path).read_text()
        [types] = re.findall(r'^variable "machine_types" \{.*?default\s+= \[(.*?)\]', text, re.M | re.S)
        assert set(re.findall(r'"(.*?)"', types)) == workers, path


def test_only_the_head_reads_keys() -> None:
    """It hands them to its jobs; a worker that reads them all could use those of other jobs."""
    for cloud, resource in (("gcp", "google_project_iam_member"), ("azure", "azurerm_role_assignment")):
        text = (TERRAFORM / cloud / "main.tf").read_text()
        [keys] = re.findall(rf'^resource "{resource}" "keys" \{{.*?^\}}', text, re.M | re.S)
        assert '["head"]' in keys and "for_each" not in keys


def test_ssh_is_limited_in_the_group_that_ray_takes() -> None:
    text = (TERRAFORM / "aws/main.tf").read_text()
    [group] = re.findall(r'^resource "aws_security_group" .*?^\}', text, re.M | re.S)
    [name] = re.findall(r'^  name\s+= "(.*)"', group, re.M)
    assert yaml.safe_load((ROOT / "cluster/a100.yaml").read_text())["provider"]["security_group"] == {"GroupName": name}
    [ssh] = [block for block in re.findall(r"ingress \{.*?\}", group, re.S) if "from_port   = 22" in block]
    assert "cidr_blocks = [var.ssh_cidr]" in ssh and "0.0.0.0" not in ssh


def test_the_steps_switch_on_every_google_api() -> None:
    """Terraform and Ray ask Cloud Resource Manager too; its 403 reads like a project that does not exist."""
    steps = (TERRAFORM.parent / "README.md").read_text()
    command = steps.split("gcloud services enable")[1].split("\n\n")[0]
    assert set(re.findall(r"(\w+)\.googleapis\.com", command)) == {
        "cloudresourcemanager", "compute", "iam", "secretmanager",
    }  # fmt: skip
    assert steps.index("gcloud services enable") < steps.index("infra/terraform/gcp init")


def test_azures_results_are_outside_the_clusters_group() -> None:
    """Ray gives every machine Contributor on the cluster's group: what is in it, any trial may delete."""
    text = (TERRAFORM / "azure/main.tf").read_text()
    kinds = dict(re.findall(r'^resource "(\w+)" "(\w+)" \{$', text, re.M))
    assert kinds["azurerm_storage_account"] == "data"
    [account] = re.findall(r'^resource "azurerm_storage_account" .*?^\}', text, re.M | re.S)
    assert "azurerm_resource_group.results.name" in account and "resource_group.cluster" not in account
    defaults = (TERRAFORM / "azure/variables.tf").read_text()
    groups = re.findall(r'^variable "(?:results_)?resource_group" \{.*?default\s+= "(.*?)"', defaults, re.M | re.S)
    assert len(set(groups)) == 2
    [policies] = re.findall(r'^module "policies" \{.*?^\}', text, re.M | re.S)
    assert "resource_group = azurerm_resource_group.cluster.id" in policies, "rights over machines end there"
    [role] = re.findall(r'^resource "azurerm_role_definition" "data" \{.*?^\}', text, re.M | re.S)
    assert "cluster" not in role and role.count("azurerm_resource_group.results.id") == 2
