"""How a cluster's settings and keys reach its jobs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.stub import Stubber

from cluster import secret_store, settings
from cluster.secret_store import SecretError, read_secret
from cluster.settings import count_machines, find_secrets, list_variables, parse_settings, price_gpu, read_config
from tests.cluster.launcher import CLOUDS, FILES, ROOT, fill_file, lend_credentials
from worldmodel.blocks.encode import STORES
from worldmodel.errors import UserError
from worldmodel.run.crew import PASSED


def variables(stem: str, **changes: Any) -> dict[str, str]:
    """The environment that a filled file stands for, with other settings."""
    config = fill_file(stem)
    config["metadata"] |= changes
    return dict(list_variables(config, parse_settings(config)))


def test_a_job_finds_data_storage_gpus_preset_and_price() -> None:
    assert variables("a100") == {
        "WORLDMODEL_DATA": "s3://bucket/games", "WORLDMODEL_STORAGE": "s3://bucket/runs",
        "WORLDMODEL_GPUS_PER_TRIAL": "1", "WORLDMODEL_PRESET": "a100", "WORLDMODEL_PROVIDER": "aws",
        "WORLDMODEL_PRICE_PER_HOUR": "2.745", "WORLDMODEL_MACHINES": '[{"count": 2, "CPU": 96, "GPU": 8}]',
    }  # fmt: skip


def test_a_job_knows_what_may_be_started_in_all_and_no_more() -> None:
    config = fill_file("a100")
    config["available_node_types"]["l4"]["max_workers"] = 4
    config["max_workers"] = 3
    kinds = count_machines(config)
    assert kinds == [{"count": 2, "CPU": 96, "GPU": 8}, {"count": 1, "CPU": 8, "GPU": 1}]
    assert count_machines(fill_file("own-machines")) == []


@pytest.mark.parametrize("stem", FILES)
def test_one_url_is_all_that_another_s3_store_needs(stem: str) -> None:
    found = variables(stem, endpoint="https://account.r2.cloudflarestorage.com")
    assert found["AWS_ENDPOINT_URL_S3"] == "https://account.r2.cloudflarestorage.com"
    assert "AWS_ENDPOINT_URL" not in found, "it would turn the calls that start machines away, too"
    assert "AWS_ENDPOINT_URL_S3" not in variables(stem)


@pytest.mark.parametrize("stem", FILES)
def test_what_the_head_knows_its_workers_are_told(stem: str) -> None:
    found = variables(stem, endpoint="https://store")
    assert all(name.startswith(PASSED) for name in found)
    opening = {name for name in found if "STORAGE_ACCOUNT" in name or "ENDPOINT" in name}
    assert opening and all(name.startswith(STORES) for name in opening), "those that encode have no other of these"


@pytest.mark.parametrize("stem", CLOUDS)
def test_a_gpu_s_price_is_its_machine_s_share_and_unknown_where_two_kinds_may_come(stem: str) -> None:
    config = fill_file(stem)
    gpus = config["available_node_types"]["a100"]["resources"]["GPU"]
    whole = config["metadata"]["dollars_per_hour"]["a100"]
    assert price_gpu(config, parse_settings(config)) == pytest.approx(whole / gpus)
    [other] = set(config["available_node_types"]) - {"head", "a100"}
    config["available_node_types"][other]["max_workers"] = 1
    assert price_gpu(config, parse_settings(config)) is None
    del config["metadata"]["dollars_per_hour"][other], config["metadata"]["budget_usd"]
    assert price_gpu(config, parse_settings(config)) is None


WRONG = (
    ("budget_usd", -1),
    ("budget_hours", 0),
    ("head_idle_minutes", -5),
    ("gpus_per_trial", "many"),
    ("dollars_per_hour", {"head": -1}),
)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    config = fill_file("a100")
    config["metadata"][name] = value
    with pytest.raises(UserError, match=name):
        parse_settings(config)


@pytest.mark.parametrize("stem", CLOUDS)
def test_a_budget_of_dollars_needs_the_price_of_every_machine_that_may_come(stem: str) -> None:
    config = fill_file(stem)
    [other] = set(config["available_node_types"]) - {"head", "a100"}
    del config["metadata"]["dollars_per_hour"][other]
    assert parse_settings(config).budget_usd, "it has no machine"
    config["available_node_types"][other]["max_workers"] = 1
    with pytest.raises(UserError, match=f"no price of {other}"):
        parse_settings(config)
    del config["metadata"]["dollars_per_hour"]["head"]
    with pytest.raises(UserError, match=f"no price of head, {other}"):
        parse_settings(config)
    del config["metadata"]["budget_usd"]
    parse_settings(config)


def test_a_head_without_its_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml.*ray up"):
        read_config(tmp_path / "nothing.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UserError, match="no cluster"):
        read_config(tmp_path / "empty.yaml")


@pytest.fixture
def parameters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """AWS's Parameter Store, whose requests and answers botocore checks."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    lend_credentials(monkeypatch)
    client = boto3.client("ssm", region_name="us-west-2")
    with Stubber(client) as stub:
        monkeypatch.setattr(boto3, "client", lambda name, **_: client)
        yield stub


ASKED = {"Name": "/worldmodel/WANDB_API_KEY", "WithDecryption": True}


def test_the_key_comes_from_aws_s_parameter_store(parameters: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    config = fill_file("a100")
    parameters.add_response("get_parameter", {"Parameter": {"Value": "it's secret"}}, ASKED)
    assert dict(find_secrets(config, parse_settings(config))) == {"WANDB_API_KEY": "it's secret"}
    monkeypatch.setenv("WANDB_API_KEY", "mine")
    assert dict(find_secrets(config, parse_settings(config))) == {}, "the environment's own wins"


def test_a_missing_key_is_said_with_the_command_that_gives_it_and_stops_nothing(
    parameters: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fill_file("a100")
    parameters.add_client_error("get_parameter", "ParameterNotFound", expected_params=ASKED)
    assert dict(find_secrets(config, parse_settings(config))) == {}
    assert "aws ssm put-parameter --type SecureString --name /worldmodel/WANDB_API_KEY" in capsys.readouterr().err


class Metadata:
    """Answers what a machine asks of its cloud over HTTP, where the request carries what it must."""

    def __init__(self, secrets: dict[str, dict[str, Any]], header: tuple[str, str]) -> None:
        self.secrets, self.header, self.asked = secrets, header, list[str]()

    def open(self, request: urllib.request.Request, timeout: float) -> io.BytesIO:
        """An answer, as urlopen gives it."""
        self.asked.append(request.full_url)
        if request.full_url in (secret_store.GOOGLE, secret_store.AZURE):
            name, value = self.header
            assert request.headers[name.capitalize()] == value
            return io.BytesIO(b'{"access_token": "T"}')
        assert request.headers["Authorization"] == "Bearer T"
        if request.full_url not in self.secrets:
            raise OSError("HTTP Error 404: Not Found")
        return io.BytesIO(json.dumps(self.secrets[request.full_url]).encode())


def test_the_keys_come_from_google_s_secret_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    url = (
        "https://secretmanager.googleapis.com/v1/projects/proj/secrets/worldmodel-WANDB_API_KEY/versions/latest:access"
    )
    google = Metadata({url: {"payload": {"data": "c2VjcmV0Cg=="}}}, ("Metadata-Flavor", "Google"))
    monkeypatch.setattr(urllib.request, "urlopen", google.open)
    provider = fill_file("a100-gcp")["provider"]
    assert read_secret("WANDB_API_KEY", provider) == "secret"
    with pytest.raises(SecretError, match="gcloud secrets create worldmodel-OTHER") as failure:
        read_secret("OTHER", provider)
    assert "Bearer" not in str(failure.value)


def test_the_keys_come_from_azure_s_key_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://vault.vault.azure.net/secrets/worldmodel-AWS-ACCESS-KEY-ID?api-version=7.4"
    azure = Metadata({url: {"value": "secret"}}, ("Metadata", "true"))
    monkeypatch.setattr(urllib.request, "urlopen", azure.open)
    provider = fill_file("a100-azure")["provider"]
    assert read_secret("AWS_ACCESS_KEY_ID", provider, "vault") == "secret"
    with pytest.raises(SecretError, match="az keyvault secret set --vault-name vault"):
        read_secret("WANDB_API_KEY", provider, "vault")
    with pytest.raises(SecretError, match="no secret store"):
        read_secret("WANDB_API_KEY", provider, "")


def test_keys_of_an_s3_store_are_fetched_outside_aws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On AWS they would take the place of the head's identity, which starts and ends machines."""
    for name in ("WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings, "read_secret", lambda name, provider, vault: f"{name}!")

    def names(stem: str, **changes: str) -> set[str]:
        config = fill_file(stem)
        config["metadata"] |= changes
        return set(dict(find_secrets(config, parse_settings(config))))

    assert names("a100") == {"WANDB_API_KEY"}
    keys = {"WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert names("a100-azure", storage="s3://bucket/runs") == keys
    assert names("a100-azure") == {"WANDB_API_KEY"}
    assert names("a100-gcp") == {"WANDB_API_KEY"}, "its storage is Google's own"


def source_environment(home: Path, role: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """The shell in which Ray would start, on a machine with that home."""
    script = f'. cluster/environment.sh {role} && echo started && env && stat -c "mode=%a" ~/.ray/auth_token'
    environment = {"HOME": str(home), "PATH": f"{path}{Path(sys.executable).parent}:{os.environ['PATH']}",
                   "WANDB_API_KEY": "k'ey", "WORLDMODEL_METADATA": "http://127.0.0.1:9"}  # fmt: skip
    return subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_without_a_token_ray_is_not_started(tmp_path: Path) -> None:
    shell = source_environment(tmp_path, "")
    assert shell.returncode == 2 and "started" not in shell.stdout
    assert "ray get-auth-token --generate" in shell.stderr


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """The home of a head on which `ray up` left token and file."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(fill_file("own-machines")))
    return tmp_path


def test_jobs_inherit_settings_token_mode_and_time_to_save_themselves(head: Path) -> None:
    shell = source_environment(head, "head")
    assert shell.returncode == 0, shell.stderr
    found = dict(line.split("=", 1) for line in shell.stdout.splitlines() if "=" in line)
    assert (found["WORLDMODEL_DATA"], found["WORLDMODEL_STORAGE"]) == ("s3://bucket/games", "s3://bucket/runs")
    assert found["RAY_AUTH_MODE"] == "token" and found["mode"] == "600"
    assert float(found["RAY_JOB_STOP_WAIT_TIME_S"]) >= 30
    assert found["WANDB_API_KEY"] == "k'ey"


def test_a_lost_machine_is_known_in_fifteen_seconds(head: Path) -> None:
    """By the head's Ray: a failed check takes its time-out and a period. Less patience would lose busy machines."""
    shell = source_environment(head, "head")
    found = dict(line.split("=", 1) for line in shell.stdout.splitlines() if "=" in line)
    period, patience = (float(found[f"RAY_health_check_{name}_ms"]) / 1000 for name in ("period", "timeout"))
    assert 10 <= int(found["RAY_health_check_failure_threshold"]) * (period + patience) <= 20
    assert patience >= 3


def test_workers_on_several_machines_reach_each_other(head: Path) -> None:
    """By the network card that leads to the head; a machine's own name may lead to itself."""
    (head / "bin").mkdir()
    (head / "bin" / "ip").write_text('#!/bin/sh\necho "$4 via 10.0.0.9 dev ens5 src 10.0.0.2 uid 0 \\    cache"\n')
    (head / "bin" / "ip").chmod(0o755)
    assert "GLOO_SOCKET_IFNAME=ens5\n" in source_environment(head, "", path=f"{head / 'bin'}:").stdout
    (head / "bin" / "ip").write_text("#!/bin/sh\nexit 2\n")
    assert "GLOO_SOCKET_IFNAME" not in source_environment(head, "", path=f"{head / 'bin'}:").stdout


def test_every_machine_watches_for_its_cloud_s_notice(head: Path) -> None:
    assert source_environment(head, "").returncode == 0
    log, end = head / ".worldmodel" / "notice.log", time.monotonic() + 30
    while "metadata service" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.1)
    assert "no cloud metadata service answers" in log.read_text()


def test_a_worker_needs_the_token_alone(head: Path) -> None:
    (head / "ray_bootstrap_config.yaml").unlink()
    assert source_environment(head, "").returncode == 0
    assert source_environment(head, "head").returncode == 2


def test_ray_is_not_started_on_a_head_whose_settings_are_unset(head: Path) -> None:
    from tests.cluster.launcher import read_text

    (head / "ray_bootstrap_config.yaml").write_text(read_text("own-machines"))
    shell = source_environment(head, "head")
    assert shell.returncode == 2 and "started" not in shell.stdout
    assert "metadata" in shell.stderr and "storage" in shell.stderr
