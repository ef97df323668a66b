"""Ray: addresses that lead nowhere, versions at odds, machines that never come; and a small Ray of two machines."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor.test_rehearsal import PARTS
from worldmodel.doctor import ray_cluster
from worldmodel.doctor.check import Check, Outcome
from worldmodel.doctor.preflight import Preflight, examine
from worldmodel.doctor.ray_cluster import (
    check_address,
    explain_joining,
    explain_no_machine,
    join,
    measure_skew,
    read_launch_failures,
)


def test_an_address_that_leads_nowhere_fails_at_once() -> None:
    began = time.monotonic()
    check = join("127.0.0.1:9")
    assert check.is_failed and "no Ray answers at RAY_ADDRESS=127.0.0.1:9" in check.found and "ray up" in check.remedy
    assert time.monotonic() - began < 5


def test_the_address_of_jobs_is_told_apart() -> None:
    check = check_address("http://127.0.0.1:8265")
    assert check is not None and check.is_failed and "ray job submit" in check.remedy


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_names_of_rays_own_are_left_to_ray(address: str) -> None:
    assert check_address(address) is None


def test_a_port_that_is_open_is_left_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert check_address(f"127.0.0.1:{server.getsockname()[1]}") is None
        assert check_address(f"ray://127.0.0.1:{server.getsockname()[1]}") is None


@pytest.mark.parametrize(
    ("text", "found", "remedy"),
    [
        ("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1\nThis process",
         "Ray: 2.9.0 Python: 3.9.1", "same Python and Ray"),
        ("Authentication token is missing", "wants a token", "RAY_AUTH_TOKEN"),
        ("something else", "cannot be joined: RuntimeError: something else", "see the message"),
    ],
)  # fmt: skip
def test_why_ray_refuses_is_told(text: str, found: str, remedy: str) -> None:
    check = explain_joining("10.0.0.1:6379", RuntimeError(text))
    assert check.is_failed and found in check.found and remedy in check.remedy


def test_why_no_machine_comes_is_told() -> None:
    quota = explain_no_machine("1 GPU", "p4d: An error occurred (VcpuLimitExceeded) when calling", 60.0)
    assert quota.is_failed and "quota" in quota.found and "Service Quotas" in quota.remedy
    assert "ray status" in explain_no_machine("1 GPU", "", 60.0).remedy
    assert "odd words" in explain_no_machine("1 GPU", "odd words", 60.0).found


def test_a_clouds_refusals_are_read_from_the_head_s_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "monitor.log"
    monkeypatch.setattr("worldmodel.doctor.ray_cluster.AUTOSCALER_LOG", log)
    assert read_launch_failures(0) == []
    old, line = "Failed to launch 1 nodes of type l4: old\n", "INFO x.py:1 -- Failed to launch 2 nodes of type a100: "
    log.write_text(f"{old}{line}Node Launch Exception (VcpuLimitExceeded): You have\nINFO y\n{line}newest\n")
    found = read_launch_failures(len(old))
    assert found == ["a100: Node Launch Exception (VcpuLimitExceeded): You have", "a100: newest"]


def test_a_clock_is_told_from_the_quickest_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = iter([0.2, 0.0, 0.1])

    def ask() -> float:
        theirs = time.time() + 30
        time.sleep(next(delays))
        return theirs

    assert abs(measure_skew(ask) - 30) < 0.05


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head without CPUs and a worker with one; returns the head's address."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000})
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_all_machines_of_a_ray_are_looked_at(
    two_machines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.5)
    told: list[Check] = []
    checks = examine(Preflight(storage=str(tmp_path / "runs"), wandb="disabled", has_rehearsal=True), told.append)
    assert told == checks
    # While somebody edits the package, its source here and there may differ, which the doctor rightly tells.
    assert not [check for check in checks if check.is_failed and check.name != "version of worldmodel"], checks
    by_name = {check.name: check for check in checks}
    assert f"at {two_machines}: 2 machines" in by_name["Ray"].found
    assert "1 machine that a trial (1 CPU) fits on" in by_name["machines"].found
    assert len({check.machine for check in checks if check.name == "storage"}) == 2
    assert "on 2 machines" in by_name["version of Ray"].found
    assert by_name["clocks"].outcome is Outcome.OK
    assert [check.name for check in checks[-4:]] == [f"rehearsal: {part}" for part in PARTS]
    assert not (tmp_path / "runs").exists()

    wanting = examine(Preflight(storage=str(tmp_path), gpus=1.0, wandb="disabled", wait_seconds=1.0))
    missing = next(check for check in wanting if check.name == "machines")
    assert missing.is_failed and "no machine with 1 CPU, 1 GPU within 1 s" in missing.found
