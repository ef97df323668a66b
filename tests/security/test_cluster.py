"""What crosses a cluster's network, and what its machines hold: TLS where it is asked for, keys of its own."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from moto import mock_aws

from tests.cluster.launcher import lend_credentials, prepare

ROOT = Path(__file__).parents[2]
SERVE = "import ray, sys; ray.init(address='local', num_cpus=1, include_dashboard=False, logging_level='ERROR'); \
print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"


def test_the_head_gets_a_key_for_these_machines_alone() -> None:
    """Ray copies it to the head, where every job may read it: a person's own key opens more than the cluster."""
    key = yaml.safe_load((ROOT / "cluster/own-machines.yaml").read_text())["auth"]["ssh_private_key"]
    assert Path(key).name not in {f"id_{kind}" for kind in ("rsa", "dsa", "ecdsa", "ed25519")}


@pytest.mark.xdist_group("launcher")
def test_a_security_group_that_is_there_is_not_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray opens SSH to 0.0.0.0/0 in a group without rules, whatever else the YAML says: infra/ makes one with rules."""
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    lend_credentials(monkeypatch)
    with mock_aws():
        for name in ("worldmodel-head", "worldmodel-worker"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=name)
        ec2 = boto3.resource("ec2", "us-west-2")
        [network] = ec2.vpcs.all()
        group = ec2.create_security_group(GroupName="worldmodel", Description="infra's", VpcId=network.id)
        group.authorize_ingress(IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="203.0.113.7/32")
        config = AWSNodeProvider.bootstrap_config(prepare("a100"))
        kinds = config["available_node_types"].values()
        assert {tuple(kind["node_config"]["SecurityGroupIds"]) for kind in kinds} == {(group.id,)}
        group.reload()
        assert [row["CidrIp"] for rule in group.ip_permissions for row in rule["IpRanges"]] == ["203.0.113.7/32"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with an authority that `tls.sh make` made."""
    subprocess.run(["bash", "cluster/tls.sh", "make"], cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}, check=True)
    return tmp_path


def source(home: Path, command: str) -> str:
    """What a shell on a machine says that sourced the file."""
    words = ["bash", "-c", f". cluster/tls.sh && {command}"]
    environment = {**os.environ, "HOME": str(home)}
    return subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_without_an_authority_a_machine_does_not_start(tmp_path: Path) -> None:
    (tmp_path / ".ray/tls").mkdir(parents=True)
    words = ["bash", "-c", ". cluster/tls.sh || exit 7; echo started"]
    ended = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (7, "") and "bash cluster/tls.sh make" in ended.stderr


def test_keys_are_for_their_owner_and_the_authority_stays(home: Path) -> None:
    before = [path.read_bytes() for path in sorted((home / ".ray/tls").iterdir())]
    said = source(home, "bash cluster/tls.sh make && echo $RAY_USE_TLS $RAY_TLS_SERVER_CERT")
    assert said.split() == ["1", str(home / ".worldmodel/tls/tls.crt")]
    assert [path.read_bytes() for path in sorted((home / ".ray/tls").iterdir())] == before
    assert {path.stat().st_mode & 0o077 for path in home.glob(".*/tls/*")} == {0}


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_ray_speaks_tls_and_to_holders_of_a_certificate_alone(home: Path) -> None:
    words = ["bash", "-c", f'. cluster/tls.sh && exec "{sys.executable}" -c "{SERVE}"']
    environment = {**os.environ, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        host, port = driver.stdout.readline().strip().rsplit(":", 1)
        folder, own = home / ".ray/tls", home / ".worldmodel/tls"
        stranger = ssl.create_default_context(cafile=folder / "ca.crt")
        member = ssl.create_default_context(cafile=folder / "ca.crt")
        member.load_cert_chain(own / "tls.crt", own / "tls.key")
        assert _is_served(member, host, int(port))
        assert not _is_served(stranger, host, int(port))
        driver.communicate("")


def _is_served(context: ssl.SSLContext, host: str, port: int) -> bool:
    """True if the server keeps the connection open; its certificate must be one for this address."""
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, port), timeout=10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as stream:
                return stream.recv(9) != b""  # the settings that begin HTTP/2
        except (ssl.SSLError, ConnectionError):
            return False
