"""`python cluster/up.py FILE`: what it checks before a cloud is asked, what it says and ends afterwards."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto import mock_aws

from cluster import machines, up
from cluster.launch_errors import REFUSALS, explain
from tests.cluster.launcher import ROOT, fill_file, lend_credentials, read_text
from worldmodel.errors import UserError

SAYS = {
    "An error occurred (ExpiredToken) when calling the DescribeInstances operation: The security token included in the "
    "request is expired": "credentials have expired",
    "botocore.exceptions.NoCredentialsError: Unable to locate credentials": "no credentials",
    "An error occurred (AuthFailure) when calling the DescribeInstances operation: AWS was not able to validate the "
    "provided access credentials": "does not know these credentials",
    "An error occurred (AuthFailure.ServiceLinkedRoleCreationNotPermitted) when calling the RunInstances operation: "
    "The provided credentials do not have permission to create the service-linked role for EC2 Spot Instances.":
        "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
    "An error occurred (PendingVerification) when calling the RunInstances operation: Your request for accessing "
    "resources in this region is being validated": "still verifies this account",
    "An error occurred (InvalidParameterCombination) when calling the RunInstances operation: The specified instance "
    "type is not eligible for Free Tier.": "free plan",
    "An error occurred (VcpuLimitExceeded) when calling the RunInstances operation: You have requested more vCPU "
    "capacity than your current vCPU limit of 0 allows": "quota",
    "<HttpError 403 ... Permission 'iam.serviceAccounts.create' denied on resource": "may not do that",
    "<HttpError 403 ... Compute Engine API has not been used in project 7 before ... SERVICE_DISABLED":
        "gcloud services enable",
    "(OperationNotAllowed) Operation could not be completed as it results in exceeding approved LowPriorityCores quota":
        "Total Regional Spot vCPUs",
    "<HttpError 403 ... Quota 'NVIDIA_A100_GPUS' exceeded.  Limit: 0.0 in region us-central1.>": "quota",
    "An error occurred (InsufficientInstanceCapacity) when calling the RunInstances operation": "no such machine free",
    "The zone 'projects/p/zones/us-central1-a' does not have enough resources ... ZONE_RESOURCE_POOL_EXHAUSTED":
        "no such machine free",
    "An error occurred (InvalidParameterValue) when calling the RunInstances operation: Value (worldmodel-head) for "
    "parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name": "identity",
    "An error occurred (UnauthorizedOperation) when calling the RunInstances operation": "may not do that",
    'botocore.exceptions.EndpointConnectionError: Could not connect to the endpoint URL: "https://ec2.us-wst-2."':
        "region or zone is wrong",
    "An error occurred (InvalidAMIID.NotFound) when calling the RunInstances operation": "image does not exist",
    "[1/7] Waiting for SSH to become available\nFailed to setup head node.": "SSH does not let us in",
    "[2/7] Processing file mounts\nSSH command failed.": "could not be copied",
    "[6/7] Running setup commands\npip: AccessDenied\nSSH command failed.": "set-up failed",
    "[6/7] Running setup commands\nerror: found NVIDIA driver 470, expected 525: update it\nSSH command failed.":
        "set-up failed: found NVIDIA driver 470, expected 525: update it",
    "[6/7] Running setup commands\n[7/7] Starting the Ray runtime\nSSH command failed.": "Ray did not start",
}  # fmt: skip
"""What clouds and the launcher say, and what a person is told."""

LIST_MACHINES = up.list_machines
RAY = """#!/bin/sh
echo "$@" >> "$RAY_CALLS"
case $1 in
get-auth-token) mkdir -p ~/.ray && printf 00ff > ~/.ray/auth_token ;;
up) echo "$RAY_SAYS"; $RAY_INTERRUPT; exit "$RAY_STATUS" ;;
down) $RAY_INTERRUPT_DOWN ;;
dashboard) exec PYTHON -c 'SERVER' "$4" ;;
esac
"""
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(os.environ["RAY_DASHBOARD_STATUS"])); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""The head's dashboard at the end of the tunnel: it answers a request without a token by some status."""


class Laptop:
    """A person's machine: a home without a token, a cluster's file, and a `ray` that writes down what it is asked."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home, self.patch = home, patch
        (home / "bin").mkdir()
        (home / ".ssh").mkdir()
        (home / ".ssh/worldmodel_ed25519").touch()
        (home / "bin" / "ray").write_text(RAY.replace("PYTHON", sys.executable).replace("SERVER", SERVER))
        (home / "bin" / "ray").chmod(0o755)
        patch.setenv("HOME", str(home))
        patch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
        patch.setenv("RAY_CALLS", str(home / "calls"))
        patch.chdir(ROOT)
        patch.setattr(up, "list_machines", lambda config: self.machines)
        self.machines: dict[str, str] = {}
        self.answer("", 0)

    def answer(self, says: str, status: int) -> None:
        """What `ray up` says and how it ends."""
        self.patch.setenv("RAY_SAYS", says)
        self.patch.setenv("RAY_STATUS", str(status))

    def write(self, config: dict[str, Any] | str) -> str:
        """A cluster's file."""
        text = config if isinstance(config, str) else yaml.safe_dump(config)
        (self.home / "cluster.yaml").write_text(text)
        return str(self.home / "cluster.yaml")

    @property
    def calls(self) -> list[str]:
        """What `ray` was asked."""
        file = self.home / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    """One that nobody has used yet."""
    return Laptop(tmp_path, monkeypatch)


@pytest.mark.parametrize("stem", ["a100", "own-machines"])
def test_a_setting_that_is_not_set_costs_nothing(stem: str, laptop: Laptop, capsys: pytest.CaptureFixture[str]) -> None:
    assert up.main([laptop.write(read_text(stem))]) == 2
    assert "metadata.data, metadata.storage" in capsys.readouterr().err
    assert laptop.calls == []


def test_a_start_from_another_folder_is_named(laptop: Laptop, capsys: pytest.CaptureFixture[str]) -> None:
    laptop.patch.chdir(laptop.home)
    assert up.main([laptop.write(fill_file("own-machines"))]) == 2
    assert "./worldmodel" in capsys.readouterr().err
    assert laptop.calls == []


@pytest.mark.parametrize("text", ["", "a: [", "a: 1"])
def test_a_file_that_is_none_is_one_message(text: str, laptop: Laptop, capsys: pytest.CaptureFixture[str]) -> None:
    assert up.main([laptop.write(text)]) == 2
    assert "cluster.yaml" in capsys.readouterr().err


def test_the_token_is_made_once_and_is_its_owner_s_alone(laptop: Laptop) -> None:
    file = laptop.write(fill_file("own-machines"))
    token, made = laptop.home / ".ray" / "auth_token", set()
    for _ in range(2):
        assert up.main([file, "--tunnel-port", "0"]) == 0
        made.add(token.read_text())
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        token.chmod(0o644)
    assert len(made) == 1 and len(made.pop()) == 64
    assert laptop.calls == [f"up --yes --no-config-cache {file}"] * 2


def test_a_missing_key_is_named_with_what_makes_it(laptop: Laptop, capsys: pytest.CaptureFixture[str]) -> None:
    (laptop.home / ".ssh/worldmodel_ed25519").unlink()
    file = laptop.write(fill_file("own-machines"))
    assert up.main([file]) == 2
    assert f"worldmodel doctor --cluster {file} --fix" in capsys.readouterr().err
    assert laptop.calls == []


def test_credentials_are_checked_before_anything_is_asked_for(
    laptop: Laptop, capsys: pytest.CaptureFixture[str]
) -> None:
    file = laptop.write(fill_file("a100"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        laptop.patch.delenv(name, raising=False)
    laptop.patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert up.main([file]) == 2
    assert "no credentials" in capsys.readouterr().err
    assert not [call for call in laptop.calls if call.startswith("up")]
    lend_credentials(laptop.patch)
    with mock_aws():
        assert up.main([file, "--tunnel-port", "0"]) == 0


@pytest.mark.parametrize(("says", "told"), SAYS.items(), ids=list(SAYS.values()))
def test_a_refusal_is_one_sentence_and_what_to_do(says: str, told: str) -> None:
    assert told in explain(f"some lines\n{says}\nmore lines")


def test_every_refusal_has_a_remedy_and_an_unknown_one_is_not_guessed() -> None:
    assert all(refusal.remedy and refusal.found for refusal in REFUSALS)
    assert explain("ray is fine") == ""


def test_a_failed_start_leaves_no_machine(laptop: Laptop, capsys: pytest.CaptureFixture[str]) -> None:
    laptop.answer("[6/7] Running setup commands: Failed to setup head node.", 1)
    file = laptop.write(fill_file("own-machines"))
    assert up.main([file]) == 1
    assert laptop.calls[-1] == f"down --yes {file}"
    said = capsys.readouterr().err
    assert "set-up failed" in said and f"ray down {file}" in said


def test_an_interrupted_start_leaves_no_machine_and_says_so(laptop: Laptop, capsys: pytest.CaptureFixture[str]) -> None:
    laptop.patch.setenv("RAY_INTERRUPT", f"kill -INT {os.getpid()}")
    file = laptop.write(fill_file("own-machines"))
    assert up.main([file]) == up.INTERRUPTED
    assert laptop.calls[-1] == f"down --yes {file}"
    said = capsys.readouterr().err
    assert "interrupted" in said and f"nothing is left of it (ray down {file})" in said


def test_an_interrupt_during_the_launcher_s_start_is_kept(laptop: Laptop) -> None:
    """It came before the process had a name here: the launcher went on, and nobody ended what it started."""
    begin = subprocess.Popen

    def interrupt(command: list[str], **options: Any) -> Any:
        process = begin(command, **options)
        if command[:2] == ["ray", "up"]:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # the handler runs here
        return process

    laptop.patch.setattr(subprocess, "Popen", interrupt)
    file = laptop.write(fill_file("own-machines"))
    assert up.main([file]) == up.INTERRUPTED
    assert laptop.calls[-1] == f"down --yes {file}"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_refusal_to_list_machines_is_one_message(laptop: Laptop, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(config: Any) -> Any:
        raise RuntimeError(
            "HttpError 403: Cloud Resource Manager API has not been used in project 1 before or it is disabled. "
            "reason: SERVICE_DISABLED"
        )

    laptop.patch.setattr(machines, "find_machines", lambda config, shutdown: refuse(config))
    laptop.patch.setattr(up, "list_machines", LIST_MACHINES)
    assert up.main([laptop.write(fill_file("own-machines"))]) == 2
    said = capsys.readouterr().err
    assert "gcloud services enable" in said and "Traceback" not in said
    assert not [call for call in laptop.calls if call.startswith("up")]


def test_a_clean_up_that_is_interrupted_says_that_machines_may_be_left(
    laptop: Laptop, capsys: pytest.CaptureFixture[str]
) -> None:
    laptop.answer("[6/7] Running setup commands: Failed to setup head node.", 1)
    laptop.patch.setenv("RAY_INTERRUPT_DOWN", f"kill -INT {os.getpid()}")
    file = laptop.write(fill_file("own-machines"))
    assert up.main([file]) == up.INTERRUPTED
    assert f"machines may be there, and cost money; to end them: ray down {file}" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [False, True])
def test_a_cluster_that_was_there_before_stays_when_its_update_fails(
    keep: bool, laptop: Laptop, capsys: pytest.CaptureFixture[str]
) -> None:
    laptop.answer("[6/7] Running setup commands: Failed to setup head node.", 1)
    laptop.machines = {} if keep else {"i-1": "head"}
    file = laptop.write(fill_file("own-machines"))
    assert up.main([file, *(["--keep"] if keep else [])]) == 1
    assert not [call for call in laptop.calls if call.startswith("down")]
    assert f"ray down {file}" in capsys.readouterr().err


@pytest.fixture
def port() -> int:
    """One at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("status", [401, 200])
def test_a_head_that_takes_jobs_without_a_token_is_an_error(
    status: int, port: int, laptop: Laptop, capsys: pytest.CaptureFixture[str]
) -> None:
    laptop.patch.setenv("RAY_DASHBOARD_STATUS", str(status))
    file = laptop.write(fill_file("own-machines"))
    assert up.main([file, "--tunnel-port", str(port)]) == (0 if status == 401 else 2)
    assert f"dashboard {file} --port {port}" in laptop.calls
    said = capsys.readouterr().err
    assert (
        ("RAY_AUTH_MODE=token" in said and "`ray get-auth-token` prints" in said)
        if status == 401
        else ("without a token" in said)
    )
    assert up.main([file, "--tunnel-port", str(port)]) == (0 if status == 401 else 2), "in place of the older tunnel"
    [note] = (laptop.home / ".worldmodel").glob("tunnel-*.pid")
    os.killpg(int(note.read_text()), 15)


def test_another_program_at_the_port_is_not_taken_for_the_head(
    port: int, laptop: Laptop, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        assert up.main([laptop.write(fill_file("own-machines")), "--tunnel-port", str(port)]) == 2
    assert "--tunnel-port" in capsys.readouterr().err
    assert not [call for call in laptop.calls if call.startswith("dashboard")]


def test_a_tunnel_that_ends_is_named_with_the_command_that_opens_it(port: int, laptop: Laptop) -> None:
    (laptop.home / "bin" / "ray").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(UserError, match=r"ray dashboard .*--port OTHER"):
        up.open_tunnel(Path("cluster.yaml"), "worldmodel", port)
