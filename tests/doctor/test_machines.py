"""What is said of machines: full disks, small shared memory, missing drivers, other versions, wrong clocks."""

from __future__ import annotations

import shutil
import socket
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from worldmodel.doctor import machine
from worldmodel.doctor.check import Check, Outcome
from worldmodel.doctor.machine import GpuFacts, MachineFacts, Room, describe_machine, measure_room, read_versions
from worldmodel.doctor.machines import (
    CLOCK_LIMIT,
    check_clocks,
    check_gpus,
    check_room,
    check_shared_memory,
    check_versions,
)
from worldmodel.doctor.on_machine import Errand, examine_machine

Usage = namedtuple("Usage", "total used free")
GB = 10**9
NONE = GpuFacts(count=0, names=(), built_for="12.8", has_smi=False, driver="", failure="NVML Shared Library Not Found")
GOOD = GpuFacts(
    count=8, names=("NVIDIA A100-SXM4-40GB",) * 8, built_for="12.8", has_smi=True, driver="570.1", failure=""
)


def only(checks: object) -> Check:
    (check,) = checks  # type: ignore[misc]
    assert isinstance(check, Check)
    return check


@pytest.mark.parametrize(
    ("free", "total", "outcome"),
    [(50 * GB, 100 * GB, Outcome.OK), (3 * GB, 100 * GB, Outcome.WARNING), (10 * GB, 1000 * GB, Outcome.WARNING),
     (GB // 2, 100 * GB, Outcome.FAILED), (0, 0, Outcome.FAILED)],
)  # fmt: skip
def test_a_full_disk_fails_and_a_nearly_full_one_warns(free: int, total: int, outcome: Outcome) -> None:
    roomy = Room(path="/roomy", free=900 * GB, total=1000 * GB)
    check = only(check_room([roomy, Room(path="/small", free=free, total=total)]))
    assert check.outcome is outcome
    assert "/small" in check.found or outcome is Outcome.OK
    assert bool(check.remedy) == (outcome is not Outcome.OK)


def test_the_disk_that_a_run_writes_to_is_the_one_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def disk_usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(total=100 * GB, used=100 * GB, free=1)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    report = examine_machine(Errand(storage=str(tmp_path / "not" / "yet")))
    assert tmp_path in asked
    disk = next(check for check in report.checks if check.name == "disk")
    assert disk.is_failed and "the disk is full" in disk.found and "--storage" in disk.remedy
    assert measure_room(tmp_path / "not" / "yet").path == str(tmp_path / "not" / "yet")


def test_small_shared_memory_is_remarked_on() -> None:
    assert only(check_shared_memory(Room(path="/dev/shm", free=64 << 20, total=64 << 20))).outcome is Outcome.WARNING
    assert only(check_shared_memory(Room(path="/dev/shm", free=8 * GB, total=8 * GB))).outcome is Outcome.OK
    assert only(check_shared_memory(None)).outcome is Outcome.SKIPPED


@pytest.mark.parametrize(
    ("facts", "found", "remedy"),
    [
        (NONE, "has no NVIDIA driver (nvidia-smi is not there)", "image with the driver"),
        (replace(NONE, has_smi=True, failure="Driver Not Loaded"), "does not answer (Driver Not Loaded)", "restart"),
        (replace(NONE, has_smi=True, driver="570.1", built_for=None), "torch was built without CUDA", "CUDA build"),
        (replace(NONE, has_smi=True, driver="470.1", failure="too old"), "cannot use driver 470.1 (too old)", "update"),
        (replace(GOOD, count=4, names=GOOD.names[:4]), "8 expected, torch finds 4", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_missing_gpu_fails_with_its_reason(facts: GpuFacts, found: str, remedy: str) -> None:
    check = only(check_gpus(facts, 8.0))
    assert check.is_failed
    assert found in check.found and remedy in check.remedy


def test_gpus_that_nobody_expects_fail_nothing() -> None:
    assert only(check_gpus(GOOD, 8.0)).outcome is Outcome.OK
    assert only(check_gpus(NONE, 0.0)).outcome is Outcome.SKIPPED
    assert only(check_gpus(replace(NONE, has_smi=True), 0.0)).outcome is Outcome.WARNING


def node(name: str, **versions: str) -> MachineFacts:
    """A machine with this process's versions but for some."""
    return MachineFacts(
        name=name, versions={**read_versions(), **versions}, rooms=(), shared_memory=None, gpus=NONE
    )  # fmt: skip


@pytest.mark.parametrize(
    ("what", "version", "outcome"),
    [("Ray", "2.9.0", Outcome.FAILED), ("Python", "3.9.1", Outcome.FAILED),
     ("worldmodel", "0.0.1 (0123)", Outcome.FAILED), ("torch", "2.0.0", Outcome.WARNING)],
)  # fmt: skip
def test_a_machine_with_another_version_is_named(what: str, version: str, outcome: Outcome) -> None:
    checks = {check.name: check for check in check_versions([node("a"), node("b", **{what: version})], read_versions())}
    odd = checks.pop(f"version of {what}")
    assert odd.outcome is outcome
    assert f"{version} on b" in odd.found and " on a" not in odd.found and odd.remedy
    assert {check.outcome for check in checks.values()} == {Outcome.OK}


def test_clocks_fail_where_runs_would_look_lost() -> None:
    assert only(check_clocks({})).outcome is Outcome.SKIPPED
    assert only(check_clocks({"a": 0.01, "b": -0.2})).outcome is Outcome.OK
    assert only(check_clocks({"a": 0.01, "b": -20.0})).outcome is Outcome.WARNING
    late = only(check_clocks({"a": 0.01, "b": -CLOCK_LIMIT}))
    assert late.is_failed and "b is 60.0 s behind" in late.found and "set-ntp" in late.remedy


def test_a_machine_says_what_it_is(tmp_path: Path) -> None:
    facts = describe_machine([str(tmp_path)])
    assert facts.name == socket.gethostname()
    assert {"Ray", "Python", "worldmodel", "torch"} == facts.versions.keys()
    assert all(0 <= room.free <= room.total for room in facts.rooms)


def test_the_driver_is_asked_and_its_refusal_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    facts = machine.describe_gpus()
    assert facts.driver == "" and "Driver Not Loaded" in facts.failure
