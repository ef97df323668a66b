"""`ray up FILE` itself, from a checkout: what it refuses before a machine is asked for, and what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.client
import botocore.exceptions
import pytest
import yaml
from moto import mock_aws

from tests.cluster.launcher import ROOT, fill_file, lend_credentials, read_text

pytestmark = pytest.mark.xdist_group("launcher")


class Launched(Exception):
    """A machine has been asked for."""


def refuse_quota(self: Any, name: str, arguments: dict[str, Any]) -> Any:
    """What AWS says to an account without a quota."""
    said = {"Code": "VcpuLimitExceeded", "Message": "more vCPU capacity than your current vCPU limit of 0 allows"}
    raise botocore.exceptions.ClientError({"Error": said}, name)


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A person's machine with a token and credentials; where a cloud is asked for a machine, the start ends."""
    send = botocore.client.BaseClient._make_api_call

    def watch(self: Any, name: str, arguments: dict[str, Any]) -> Any:
        if name == "RunInstances":
            raise Launched
        return send(self, name, arguments)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", watch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(ROOT)
    lend_credentials(monkeypatch)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    return monkeypatch


def start(content: dict[str, Any] | str) -> None:
    """`ray up --yes FILE`."""
    from ray.autoscaler._private.commands import create_or_update_cluster

    path = Path.home() / "cluster.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with mock_aws():
        create_or_update_cluster(str(path), None, None, False, False, True, None, True)


def refuse(content: dict[str, Any] | str) -> str:
    """What a person is told where the start is refused."""
    with pytest.raises(SystemExit) as refusal:
        start(content)
    return str(refusal.value)


def test_a_start_with_all_that_it_needs_asks_for_a_machine(laptop: pytest.MonkeyPatch) -> None:
    with pytest.raises(Launched):
        start(fill_file("a100"))


@pytest.mark.parametrize("stem", ["a100", "a100-gcp", "a100-azure"])
def test_an_unset_setting_is_named(stem: str, laptop: pytest.MonkeyPatch) -> None:
    said = refuse(read_text(stem))
    assert "metadata.data, metadata.storage" in said.replace("metadata.account, ", "")


def test_without_a_token_the_command_that_makes_it_is_named(laptop: pytest.MonkeyPatch) -> None:
    (Path.home() / ".ray" / "auth_token").unlink()
    assert "ray get-auth-token --generate" in refuse(fill_file("a100"))


def test_without_credentials_the_command_that_logs_in_is_named(laptop: pytest.MonkeyPatch) -> None:
    """The program itself, which has asked no cloud before."""
    file = Path.home() / "cluster.yaml"
    file.write_text(yaml.safe_dump(fill_file("a100")))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        laptop.delenv(name)
    laptop.setenv("PYTHONPATH", str(ROOT))
    ray = Path(sys.executable).parent / "ray"
    shown = subprocess.run([ray, "up", "--yes", file], capture_output=True, text=True, check=False, timeout=60)
    assert shown.returncode == 1
    assert "aws configure" in shown.stderr.splitlines()[-1] and "Traceback" not in shown.stderr


def test_a_wrong_setting_is_named(laptop: pytest.MonkeyPatch) -> None:
    config = fill_file("a100")
    config["metadata"]["budget_hours"] = -1
    assert "budget_hours" in refuse(config)


def test_a_cloud_s_refusal_is_one_message_with_its_remedy(laptop: pytest.MonkeyPatch) -> None:
    watch = botocore.client.BaseClient._make_api_call
    laptop.setattr(
        botocore.client.BaseClient, "_make_api_call",
        lambda self, name, arguments: (refuse_quota if name == "RunInstances" else watch)(self, name, arguments),
    )  # fmt: skip
    said = refuse(fill_file("a100"))
    assert "Service Quotas" in said and "VcpuLimitExceeded" in said


def test_another_folder_than_the_checkout_is_named(laptop: pytest.MonkeyPatch) -> None:
    laptop.chdir(Path.home())
    assert "./worldmodel" in refuse(fill_file("a100"))
