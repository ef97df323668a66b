"""The manifests for Kubernetes: KubeRay's own schema, and what keeps them safe and cheap."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
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
FOLDER = CLUSTER / "kuberay"
RELEASES = ("1.4.2", "1.5.2", "1.6.2", "1.7.0")
"""Of KubeRay, each with the default feature gates."""
OVERLAYS = {"rayjob-kuberay-1.5": "no feature gate", "raycluster-kuberay-1.7": "GCSFaultToleranceEmbeddedStorage=true"}
"""Each names its first release in its name, and its gate in its first lines."""
ALLOCATABLE = {
    "a2-highgpu-1g, disk 100 GB": (1, (11.9, 73.0, 44.0)),
    "p4d.24xlarge, disk 500 GB": (8, (95.0, 1090.0, 430.0)),
    "n2-standard-4, disk 100 GB": (1, (3.9, 13.0, 44.0)),
    "m5.xlarge, disk 100 GB": (1, (3.9, 14.0, 84.0)),
}
"""Nodes to pods of ours on each, and to CPUs, GiB of memory and of disk that all pods may have there: estimates."""


def read(stem: str) -> list[dict[str, Any]]:
    """The resources of a manifest."""
    return list(yaml.safe_load_all((FOLDER / f"{stem}.yaml").read_text()))


def own(stem: str) -> dict[str, Any]:
    """The job or the cluster of a manifest."""
    [found] = [document for document in read(stem) if document["kind"] in OWN]
    return found


def find(stem: str, kind: str) -> list[dict[str, Any]]:
    """The resources of a kind in a manifest."""
    return [document for document in read(stem) if document["kind"] == kind]


def merge(base: Any, patch: Any) -> Any:
    """A JSON merge patch, which is what `kubectl apply -k` makes of an overlay for KubeRay's kinds."""
    if not (isinstance(base, dict) and isinstance(patch, dict)):
        return patch
    return {**base, **{name: merge(base.get(name), value) for name, value in patch.items()}}


def overlaid(name: str) -> dict[str, Any]:
    """The job or cluster that an overlay makes."""
    return dict(merge(own(name.split("-")[0]), yaml.safe_load((FOLDER / "overlays" / f"{name}.yaml").read_text())))


def cluster_of(stem: str) -> dict[str, Any]:
    """The cluster that a manifest makes."""
    spec: dict[str, Any] = own(stem)["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def pods_of(stem: str) -> Iterator[dict[str, Any]]:
    """The pods of head and workers."""
    cluster = cluster_of(stem)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


@pytest.fixture(scope="module")
def releases(shared_folder: Path) -> dict[str, Schemas]:
    """KubeRay's resource definitions by release; skips where they are not at hand (megabytes, which we do not keep)."""
    folder = shared_folder / "data" / "kuberay"
    if not all((folder / f"v{release}").is_dir() for release in RELEASES):
        pytest.skip("KubeRay's resource definitions are not in ../shared/data/kuberay/v*")
    return {release: read_definitions(folder / f"v{release}") for release in RELEASES}


def check(document: dict[str, Any], schemas: Schemas) -> list[str]:
    """What a release does not understand of a job or a cluster."""
    return list_errors(document, schemas["ray.io/v1", document["kind"]])


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("stem", FILES)
def test_every_release_knows_every_field(stem: str, release: str, releases: dict[str, Schemas]) -> None:
    assert check(own(stem), releases[release]) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_needs_the_release_it_names(name: str, releases: dict[str, Schemas]) -> None:
    first = name.rsplit("-", 1)[1]
    assert {release for release in RELEASES if check(overlaid(name), releases[release]) == []} == {
        release for release in RELEASES if release >= first
    }


def test_each_overlay_names_its_release_and_gate() -> None:
    assert {path.stem for path in (FOLDER / "overlays").iterdir()} == set(OVERLAYS)
    for name, gate in OVERLAYS.items():
        said = "".join(
            line for line in (FOLDER / "overlays" / f"{name}.yaml").read_text().splitlines() if line[0] == "#"
        )
        assert f"KubeRay {name.rsplit('-', 1)[1]}" in said and gate in said


def test_kubectl_builds_what_the_overlays_say() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert all((FOLDER / path).is_file() for path in (*listed["resources"], *(p["path"] for p in listed["patches"])))
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True).stdout
    assert overlaid("rayjob-kuberay-1.5") in list(yaml.safe_load_all(made))


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
def test_a_broken_manifest_is_found(break_it: Any, releases: dict[str, Schemas]) -> None:
    broken = copy.deepcopy(own("rayjob"))
    break_it(broken["spec"])
    assert all(check(broken, schemas) for schemas in releases.values())


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
    job = own("rayjob")["spec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert 0 < job["ttlSecondsAfterFinished"] <= 3600
    assert 0 < job["activeDeadlineSeconds"] <= 24 * 3600
    assert job["entrypoint"] == "python tune/round1.py --resume", "so that a second attempt goes on"


def test_a_head_that_is_busy_does_not_end_its_job() -> None:
    """In SidecarMode it does (kuberay #4285); HTTPMode is in every release, and a new head gets the job again."""
    assert own("rayjob")["spec"]["submissionMode"] == "HTTPMode"


def test_a_cluster_s_head_may_be_lost() -> None:
    options = overlaid("raycluster-kuberay-1.7")["spec"]["gcsFaultToleranceOptions"]
    assert options["backend"] == "rocksdb" and options["storage"]["deletionPolicy"] == "DeleteWithCluster"


def test_jobs_need_the_token() -> None:
    assert overlaid("rayjob-kuberay-1.5")["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    token = {"secretKeyRef": {"name": "worldmodel-token", "key": "auth_token"}}
    wanted = [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "RAY_AUTH_TOKEN", "valueFrom": token}]
    assert cluster_of("raycluster")["autoscalerOptions"]["env"] == wanted, "not optional: no pod starts without it"
    assert all(container["env"] == wanted for pod in pods_of("raycluster") for container in pod["containers"])


@pytest.mark.parametrize("stem", FILES)
def test_only_its_pods_and_the_operator_reach_it(stem: str) -> None:
    """The policy is Kubernetes' own, so no release or gate of KubeRay's decides whether it is there."""
    [policy] = [document["spec"] for document in find(stem, "NetworkPolicy")]
    ours, operator = policy["ingress"]
    assert policy["podSelector"] == ours["from"][0]["podSelector"] and policy["policyTypes"] == ["Ingress"]
    assert operator["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert operator["from"][0]["namespaceSelector"] == {} and operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    cluster = cluster_of(stem)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"] == policy["podSelector"]["matchLabels"]
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not cluster["headGroupSpec"].get("enableIngress")


@pytest.mark.parametrize("stem", FILES)
def test_gpu_pods_have_none_of_the_autoscalers_rights(stem: str) -> None:
    head, worker = pods_of(stem)
    assert {account["metadata"]["name"] for account in find(stem, "ServiceAccount")} == {
        head["serviceAccountName"], worker["serviceAccountName"],
    }  # fmt: skip
    assert head["serviceAccountName"] != worker["serviceAccountName"]
    assert "automountServiceAccountToken" not in head, "the autoscaler beside the head needs it"
    assert worker["automountServiceAccountToken"] is False


@pytest.mark.parametrize("stem", FILES)
def test_the_pods_fit_the_nodes_that_are_named(stem: str) -> None:
    text = (FOLDER / f"{stem}.yaml").read_text()
    for node, (count, free) in ALLOCATABLE.items():
        name, disk = node.split(", disk ")
        assert name in text and disk in text
        _check_fit(list(pods_of(stem))[count == 8 or "gpu" in name], count, free)
    [machines] = yaml.safe_load(find(stem, "ConfigMap")[0]["data"]["WORLDMODEL_MACHINES"])
    _, worker = pods_of(stem)
    assert str(machines["CPU"]) == worker["containers"][0]["resources"]["requests"]["cpu"]


def _check_fit(pod: dict[str, Any], count: int, free: tuple[float, ...]) -> None:
    asked = pod["containers"][0]["resources"]["requests"]
    each = [float(str(asked[name]).removesuffix("Gi")) for name in ("cpu", "memory", "ephemeral-storage")]
    if "nvidia.com/gpu" not in asked:
        each = [each[0] + 0.2, each[1] + 0.5, each[2]]  # the autoscaler beside the head
    assert all(one * count < all_ for one, all_ in zip(each, free, strict=True)), (each, count, free)


@pytest.mark.parametrize("stem", FILES)
def test_an_image_is_of_one_commit_and_may_be_private(stem: str) -> None:
    for pod in pods_of(stem):
        assert pod["imagePullSecrets"] == [{"name": "worldmodel-registry"}]
        assert [container["image"] for container in pod["containers"]] == ["CHANGE-ME/worldmodel:COMMIT"]
    readme = (CLUSTER / "README.md").read_text()
    for step in ("worldmodel:$(git rev-parse --short HEAD)", "docker push", "docker-registry worldmodel-registry"):
        assert step in readme
    [change] = re.findall(r'sed -i "s\|(.*?)\|', readme)
    assert len(re.findall(change, (FOLDER / f"{stem}.yaml").read_text())) == 1, "the step sets every image"


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
    del cluster["autoscalerOptions"]["env"]  # the operator must know a job's token, so it makes it
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        del group["template"]["spec"]["containers"][0]["env"]
    assert job == cluster


@pytest.mark.parametrize("stem", FILES)
def test_kueue_does_not_refuse_it(stem: str) -> None:
    """Its webhook refuses a cluster that grows, unless the label comes with the annotation for elastic jobs."""
    metadata = own(stem)["metadata"]
    if "kueue.x-k8s.io/queue-name" in metadata.get("labels", {}):
        assert metadata["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
