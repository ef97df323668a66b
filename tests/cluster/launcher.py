"""The launcher's files as Ray reads them, with what a person must set filled in."""

from __future__ import annotations

import copy
import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import moto
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CLOUDS = ("a100", "a100-gcp", "a100-azure")
FILES = (*CLOUDS, "own-machines")
"""Stems of the files that `ray up` takes."""
PLACEHOLDER = "CHANGE-ME"
ANSWERS: dict[str, dict[str, str]] = {
    "a100": {"metadata.data": "s3://bucket/games", "metadata.storage": "s3://bucket/runs"},
    "a100-gcp": {
        "metadata.data": "gs://bucket/games",
        "metadata.storage": "gs://bucket/runs",
        "metadata.identities.head": "worldmodel-head@proj.iam.gserviceaccount.com",
        "metadata.identities.worker": "worldmodel-worker@proj.iam.gserviceaccount.com",
        "provider.project_id": "proj",
    },
    "a100-azure": {
        "metadata.account": "account",
        "metadata.data": "az://container/games",
        "metadata.storage": "az://container/runs",
        "provider.subscription_id": "00000000-0000-0000-0000-000000000001",
    },
    "own-machines": {
        "metadata.data": "s3://bucket/games",
        "metadata.storage": "s3://bucket/runs",
        "provider.head_ip": "10.0.0.1",
        "provider.worker_ips": "10.0.0.2, 10.0.0.3",
        "auth.ssh_user": "me",
    },
}
"""What a person writes in place of each placeholder."""


def read_text(stem: str) -> str:
    """A file's text."""
    return (CLUSTER / f"{stem}.yaml").read_text()


def read_file(stem: str) -> dict[str, Any]:
    """A file as it is shipped."""
    return dict(yaml.safe_load(read_text(stem)))


def fill_file(stem: str) -> dict[str, Any]:
    """A file as a person leaves it: each placeholder replaced in the text, so that what refers to it follows."""
    text = read_text(stem)
    for place, value in ANSWERS[stem].items():
        name = place.split(".")[-1]
        text, count = re.subn(rf"(?m)^(\s+{name}: (?:&\w+ |\[)?){PLACEHOLDER}\b", rf"\g<1>{value}", text)
        assert count == 1, f"{place} is set in one place"
    return dict(yaml.safe_load(text))


def prepare(stem: str) -> dict[str, Any]:
    """A filled file as Ray completes it: defaults, its provider's resources, checked against Ray's schema."""
    return copy.deepcopy(_prepare(stem))


@cache
def _prepare(stem: str) -> dict[str, Any]:
    from ray.autoscaler._private.providers import _NODE_PROVIDERS
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(fill_file(stem))
    provider = _NODE_PROVIDERS[config["provider"]["type"]](config["provider"])
    config = provider.fillout_available_node_types_resources(config)
    validate_config(config)
    return dict(config)


@cache
def read_aws_machines() -> dict[str, dict[str, Any]]:
    """What AWS says of each type of machine: moto has a copy, which its server would take long to send."""
    packed = (Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz").read_bytes()
    return dict(json.loads(gzip.decompress(packed)))


def lend_credentials(patch: pytest.MonkeyPatch) -> None:
    """Credentials that only moto takes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        patch.delenv(name, raising=False)


def list_commands(config: dict[str, Any]) -> list[str]:
    """Every shell command that Ray runs on a machine."""
    names = ("initialization_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
             "worker_start_ray_commands")  # fmt: skip
    return [command for name in names for command in config[name]]


def tag_for(config: dict[str, Any], name: str) -> dict[str, str]:
    """The tags that Ray gives a machine of one node type."""
    from ray.autoscaler.tags import (
        TAG_RAY_LAUNCH_CONFIG,
        TAG_RAY_NODE_KIND,
        TAG_RAY_NODE_NAME,
        TAG_RAY_NODE_STATUS,
        TAG_RAY_USER_NODE_TYPE,
    )

    kind = "head" if name == config["head_node_type"] else "worker"
    return {
        TAG_RAY_NODE_KIND: kind,
        TAG_RAY_USER_NODE_TYPE: name,
        TAG_RAY_NODE_NAME: f"ray-{config['cluster_name']}-{kind}",
        TAG_RAY_NODE_STATUS: "uninitialized",
        TAG_RAY_LAUNCH_CONFIG: "hash",
    }
