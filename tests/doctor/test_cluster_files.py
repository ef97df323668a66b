"""What cluster files leave unset, and whether their machines end when idle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from worldmodel.doctor.check import Outcome
from worldmodel.doctor.cluster_files import (
    HEAD,
    IDLE,
    UNSET,
    check_file,
    check_folder,
    check_idle,
    check_running,
    find_placeholders,
    read_region,
)
from worldmodel.errors import UserError

LAUNCHER = {
    "provider": {"type": "aws", "region": "us-west-2"},
    "metadata": {"data": "CHANGE-ME", "storage": "s3://b/runs", "head_idle_minutes": 30},
    "idle_timeout_minutes": 10,
    "available_node_types": {"a": {"node_config": {"Tags": ["x", "CHANGE-ME: your name"]}}},
}
SHIPPED = Path(__file__).parents[2] / "cluster"


def write(path: Path, *documents: object) -> Path:
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return path


def test_every_placeholder_is_named_by_its_place(tmp_path: Path) -> None:
    checks = {check.name: check for check in check_file(write(tmp_path / "a.yaml", LAUNCHER))}
    assert checks[UNSET].is_failed
    assert "metadata.data, available_node_types.a.node_config.Tags" in checks[UNSET].found
    assert "CHANGE-ME" in checks[UNSET].remedy
    assert checks[IDLE].outcome is checks[HEAD].outcome is Outcome.OK


def test_of_files_that_may_not_be_used_nothing_fails(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", LAUNCHER)
    write(tmp_path / "b.yaml", {"provider": {"type": "gcp"}})
    (tmp_path / "broken.yaml").write_text("a: [")
    found = list(check_folder(tmp_path))
    assert {check.outcome for check in found} == {Outcome.SKIPPED, Outcome.WARNING}
    assert "a.yaml (2)" in found[-1].found and "b.yaml" not in found[-1].found
    assert list(check_folder(tmp_path / "absent")) == []


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    for path in (tmp_path / "a.yaml", tmp_path / "absent.yaml"):
        with pytest.raises(UserError, match="cannot be read as YAML"):
            list(check_file(path))


@pytest.mark.parametrize(
    ("document", "outcome"),
    [
        ({**LAUNCHER, "idle_timeout_minutes": None}, Outcome.WARNING),
        ({"provider": {"type": "local"}}, Outcome.SKIPPED),
        ({"kind": "RayJob", "spec": {"shutdownAfterJobFinishes": True}}, Outcome.OK),
        ({"kind": "RayJob", "spec": {"rayClusterSpec": {}}}, Outcome.WARNING),
        ({"kind": "RayCluster", "spec": {"enableInTreeAutoscaling": True,
                                         "autoscalerOptions": {"idleTimeoutSeconds": 60}}}, Outcome.OK),
        ({"kind": "RayCluster", "spec": {"autoscalerOptions": {"idleTimeoutSeconds": 60}}}, Outcome.WARNING),
        ({"resources": {"accelerators": "A100:1"}, "run": "x"}, Outcome.WARNING),
        ({"resources": {"accelerators": "A100:1", "autostop": {"idle_minutes": 5}}, "run": "x"}, Outcome.OK),
    ],
)  # fmt: skip
def test_machines_that_never_end_are_told(document: dict[str, object], outcome: Outcome) -> None:
    checks = [check for check in check_idle(document, "it") if check.name == IDLE]
    assert [check.outcome for check in checks] == [outcome]


def test_a_head_that_never_ends_is_told() -> None:
    forever = {**LAUNCHER, "metadata": {"head_idle_minutes": 0}}
    checks = {check.name: check for check in check_idle(forever, "it")}
    assert checks[HEAD].outcome is Outcome.WARNING and "ray down" in checks[HEAD].remedy


def test_a_running_cluster_is_told_by_the_file_on_its_head(tmp_path: Path) -> None:
    assert [check.outcome for check in check_running(tmp_path / "absent.yaml")] == [Outcome.SKIPPED]
    head, keeper = write(tmp_path / "head.yaml", LAUNCHER), tmp_path / "keeper.pid"
    missing = list(check_running(head, keeper))
    assert [check.name for check in missing] == [IDLE, HEAD, HEAD]
    assert missing[-1].outcome is Outcome.WARNING and "cluster.keeper start" in missing[-1].remedy
    keeper.write_text(str(os.getpid()))
    assert [check.outcome for check in check_running(head, keeper)] == [Outcome.OK, Outcome.OK]


def test_other_files_have_neither_idle_time_nor_region() -> None:
    assert list(check_idle({"apiVersion": "v1", "kind": "Secret"}, "it")) == []
    assert read_region(LAUNCHER) == "us-west-2" and read_region({}) == ""
    assert find_placeholders({"a": "CHANGE-ME", "b": ["no", "CHANGE-ME", "CHANGE-ME"]}) == ["a", "b"]


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no cluster files in this checkout")
def test_the_shipped_files_end_their_machines() -> None:
    for path in sorted(SHIPPED.rglob("*.yaml")):
        if path.parent.name == "overlays":
            continue  # it changes one of the others, and is no cluster by itself
        for check in check_file(path):
            assert check.name == UNSET or check.outcome in (Outcome.OK, Outcome.SKIPPED), check
