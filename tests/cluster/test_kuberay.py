"""The manifests for Kubernetes: KubeRay's own schema, and what keeps them safe and cheap."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from tests.cluster.crd import Schemas, list_errors, read_definitions
from tests.cluster.launcher import CLUSTER, ROOT
from worldmodel.doctor.cluster_files import check_file, find_placeholders

FILES = ("rayjob", "raycluster")
OWN = {"RayJob", "RayCluster"}


def read(stem: str) -> list[dict[str, Any]]:
    """The resources of a manifest."""
    return list(yaml.safe_load_all((CLUSTER / "kuberay" / f"{stem}.yaml").read_text()))


def cluster_of(stem: str) -> dict[str, Any]:
    """The cluster that a manifest makes."""
    [found] = [document for document in read(stem) if document["kind"] in OWN]
    spec: dict[str, Any] = found["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def pods_of(stem: str) -> Iterator[dict[str, Any]]:
    """The pods of head and workers."""
    cluster = cluster_of(stem)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


@pytest.fixture(scope="module")
def definitions(shared_folder: Path) -> Schemas:
    """KubeRay's resource definitions; skips where they are not at hand (two megabytes, which we do not keep)."""
    folder = shared_folder / "data" / "kuberay"
    if not folder.is_dir():
        pytest.skip("KubeRay's resource definitions are not in ../shared/data/kuberay")
    return read_definitions(folder)


@pytest.mark.parametrize("stem", FILES)
def test_kuberay_knows_every_field(stem: str, definitions: Schemas) -> None:
    [document] = [document for document in read(stem) if document["kind"] in OWN]
    assert list_errors(document, definitions["ray.io/v1", document["kind"]]) == []


@pytest.mark.parametrize(
    "break_it",
    [
        lambda spec: spec.update(shutdownAfterJobFinish=True),
        lambda spec: spec.update(ttlSecondsAfterFinished="5m"),
        lambda spec: spec["rayClusterSpec"]["autoscalerOptions"].update(version="v3"),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].pop("template"),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].update(restartpolicy="Never"),
    ],
    ids=["unknown field", "wrong type", "unknown value", "missing field", "unknown field of a pod"],
)
def test_a_manifest_that_kuberay_would_not_understand_is_found(break_it: Any, definitions: Schemas) -> None:
    [document] = [document for document in read("rayjob") if document["kind"] == "RayJob"]
    broken = copy.deepcopy(document)
    break_it(broken["spec"])
    assert list_errors(broken, definitions["ray.io/v1", "RayJob"])


@pytest.mark.parametrize("stem", FILES)
def test_gpus_come_from_none_and_go_back_to_none(stem: str) -> None:
    cluster = cluster_of(stem)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 900
    for group in cluster["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0) and group["maxReplicas"] > 0
        assert 0 < group["idleTimeoutSeconds"] <= 900
    assert all(pod["restartPolicy"] == "Never" for pod in pods_of(stem)), "autoscaler v2 asks for it"
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}, "no trial runs on the head"


def test_a_job_s_cluster_goes_with_it_and_has_a_last_hour() -> None:
    [job] = [document["spec"] for document in read("rayjob") if document["kind"] == "RayJob"]
    assert job["shutdownAfterJobFinishes"] is True
    assert 0 < job["ttlSecondsAfterFinished"] <= 3600
    assert 0 < job["activeDeadlineSeconds"] <= 24 * 3600
    assert job["entrypoint"] == "python tune/round1.py --resume", "so that a second attempt goes on"


def test_a_cluster_s_head_may_be_lost() -> None:
    options = cluster_of("raycluster")["gcsFaultToleranceOptions"]
    assert options["backend"] == "rocksdb" and options["storage"]["deletionPolicy"] == "DeleteWithCluster"


@pytest.mark.parametrize("stem", FILES)
def test_jobs_need_the_token_and_nobody_outside_reaches_the_head(stem: str) -> None:
    cluster = cluster_of(stem)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["networkPolicy"] == {"mode": "DenyAllIngress"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not cluster["headGroupSpec"].get("enableIngress")


@pytest.mark.parametrize("stem", FILES)
def test_keys_come_from_a_secret_and_pods_have_no_rights(stem: str) -> None:
    for pod in pods_of(stem):
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"secretRef": {"name": "worldmodel-keys", "optional": True}} in container["envFrom"]
        assert not any("KEY" in setting["name"] for setting in container.get("env", []))
    assert not any(document["kind"] == "Secret" for document in read(stem))


@pytest.mark.parametrize("stem", FILES)
def test_a_worker_is_given_one_gpu_and_shared_memory(stem: str) -> None:
    _, worker = pods_of(stem)
    [container] = worker["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


@pytest.mark.parametrize("stem", FILES)
def test_the_ray_of_the_manifest_is_the_pinned_one(stem: str) -> None:
    assert cluster_of(stem)["rayVersion"] == ray.__version__


@pytest.mark.parametrize("stem", FILES)
def test_the_image_of_infra_fits_the_pods(stem: str) -> None:
    lines = (ROOT / "infra" / "docker" / "Dockerfile").read_text().splitlines()
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert all(pod["securityContext"]["runAsUser"] == int(user) for pod in pods_of(stem))
    folder = [line for line in lines if line.startswith(("WORKDIR", "COPY --chown=1000:1000 tune"))][-2:]
    assert folder[0].startswith("WORKDIR") and folder[1].endswith("tune tune"), "a job's folder is the checkout"


@pytest.mark.parametrize("stem", FILES)
def test_what_is_to_be_set_is_named_by_doctor(stem: str) -> None:
    unset = {place.split(".")[-1] for document in read(stem) for place in find_placeholders(document)}
    assert unset == {"WORLDMODEL_DATA", "WORLDMODEL_STORAGE", "image"}
    assert [check.found for check in check_file(CLUSTER / "kuberay" / f"{stem}.yaml") if "unset" in check.found]


def test_both_manifests_make_the_same_cluster() -> None:
    job, cluster = cluster_of("rayjob"), cluster_of("raycluster")
    del cluster["gcsFaultToleranceOptions"]  # a job's second attempt has a cluster of its own
    assert job == cluster


@pytest.mark.parametrize("stem", FILES)
def test_kueue_may_queue_it(stem: str) -> None:
    [document] = [document for document in read(stem) if document["kind"] in OWN]
    assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
