"""What `ray up cluster/a100-gcp.yaml` asks Google Cloud for, with HTTP recorded and answered here.

The client library ships Google's own descriptions of the services, and checks every request against them.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import httplib2
import pytest
from googleapiclient import discovery

from tests.cluster.launcher import prepare, tag_for
from worldmodel.machine.google_zones import Zones
from worldmodel.machine.launcher import make_provider

pytestmark = pytest.mark.xdist_group("launcher")  # what is prepared once serves all
Request = tuple[str, str, Any]
ACCOUNT = {"email": "ray-autoscaler-sa-v1@proj.iam.gserviceaccount.com", "projectId": "proj", "name": "sa"}
ANSWERS: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"/subnetworks$", {"items": [{"name": "default", "selfLink": "https://compute/subnetworks/default"}]}),
    (r"/machineTypes/a2-", {"guestCpus": 12, "memoryMb": 87040, "accelerators": [
        {"guestAcceleratorType": "nvidia-tesla-a100", "guestAcceleratorCount": 1}]}),
    (r"/machineTypes/", {"guestCpus": 8, "memoryMb": 32768}),
    (r"serviceAccounts", ACCOUNT),
    (r":[gs]etIamPolicy$", {"bindings": [], "etag": "x"}),
    (r"cloudresourcemanager.*/projects/[^/]+$", {"projectId": "proj", "lifecycleState": "ACTIVE"}),
    (r"/projects/[^/]+$", {"name": "proj", "commonInstanceMetadata": {"items": []}}),
    (r"/operations/", {"name": "op", "status": "DONE"}),
)  # fmt: skip
"""What Google would say, by the end of the address; the first that fits."""


class Google:
    """Answers every request, and keeps those that change something."""

    def __init__(self, *full: str) -> None:
        """`full`: zones without a free machine."""
        self.requests: list[Request] = []
        self.full = full

    def request(self, uri: str, method: str = "GET", body: Any = None, **_: Any) -> tuple[httplib2.Response, bytes]:
        """An HTTP request of the client library's."""
        path = uri.split("?")[0]
        if method != "GET":
            self.requests.append((method, path, json.loads(body) if body else None))
        found: dict[str, Any] = next((said for end, said in ANSWERS if re.search(end, path)), {"items": []})
        if method == "POST" and "compute" in path:
            found = {"name": path.split("/")[-2], "status": "DONE", "kind": "compute#operation", "targetLink": path}
        if any(f"/{zone}/operations/" in path for zone in self.full):
            found = {"name": "op", "error": {"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED"}]}}
        return httplib2.Response({"status": "200", "content-type": "application/json"}), json.dumps(found).encode()

    def build(self, service: str, version: str) -> Any:
        """A client of one service."""
        return discovery.build(service, version, http=self, static_discovery=True, cache_discovery=False)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Every request that changes something: bootstrap, then one machine of each node type."""
    google = Google()
    start(google, tmp_path_factory.mktemp("home"))
    return google.requests


def start(google: Google, home: Path) -> None:
    """Bootstrap, then one machine of each node type."""
    from ray.autoscaler._private.gcp import config as gcp_config
    from ray.autoscaler._private.gcp import node, node_provider

    def clients(_: Any) -> tuple[Any, ...]:
        services = (("cloudresourcemanager", "v1"), ("iam", "v1"), ("compute", "v1"))
        return *(google.build(*service) for service in services), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setattr(gcp_config, "construct_clients_from_provider_config", clients)
        patch.setattr(node_provider, "construct_clients_from_provider_config", clients)
        patch.setattr(node.GCPCompute, "get_new_authorized_http", lambda *_: google)
        ours = make_provider("gcp")
        config = ours.bootstrap_config(prepare("a100-gcp"))
        provider = ours({**config["provider"], "files_needed": []}, config["cluster_name"])
        for name, kind in config["available_node_types"].items():
            node_config = copy.deepcopy(kind["node_config"])
            if name == "head":  # as `ray up` does: what it made for the head, then what the file says
                node_config = {**config["head_node"], **node_config}
            provider.create_node(node_config, tag_for(config, name), 1)


def machines(requests: list[Request]) -> dict[str, dict[str, Any]]:
    """What is asked for, by node type."""
    asked = [body for method, path, body in requests if method == "POST" and path.endswith("/instances")]
    return {body["labels"]["ray-user-node-type"]: body for body in asked}


def test_no_port_is_opened(requests: list[Request]) -> None:
    """The default network lets SSH in, and nothing else of ours; a network tag could let in more."""
    assert not [path for _, path, _ in requests if "firewall" in path]
    assert not [body for body in machines(requests).values() if body.get("tags")]


def test_each_node_type_asks_for_its_machine(requests: list[Request]) -> None:
    found = {name: body["machineType"].rsplit("/", 1)[-1] for name, body in machines(requests).items()}
    assert found == {"head": "n2-standard-4", "a100": "a2-highgpu-1g", "l4": "g2-standard-8"}


def test_workers_are_spot_and_deleted_when_taken_and_the_head_is_not(requests: list[Request]) -> None:
    spot = {
        "provisioningModel": "SPOT", "instanceTerminationAction": "DELETE", "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
    }  # fmt: skip
    found = {name: body.get("scheduling") for name, body in machines(requests).items()}
    assert found == {"head": None, "a100": spot, "l4": spot}


def test_head_and_workers_have_different_identities(requests: list[Request]) -> None:
    found = {name: [a["email"] for a in body["serviceAccounts"]] for name, body in machines(requests).items()}
    worker = ["worldmodel-worker@proj.iam.gserviceaccount.com"]
    assert found == {"head": ["worldmodel-head@proj.iam.gserviceaccount.com"], "a100": worker, "l4": worker}


def test_disks_go_with_their_machine(requests: list[Request]) -> None:
    for name, size in (("head", 100), ("a100", 200), ("l4", 200)):
        [disk] = machines(requests)[name]["disks"]
        assert disk["autoDelete"] is True and disk["boot"] is True
        assert disk["initializeParams"]["diskSizeGb"] == size


def test_disks_are_balanced_in_the_machines_zone(requests: list[Request]) -> None:
    """The default, pd-standard, writes 12 MB/s at 100 GB, and an L4's machine refuses it."""
    zone = prepare("a100-gcp")["provider"]["availability_zone"].split(",")[0]
    for body in machines(requests).values():
        assert body["disks"][0]["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced"


def test_a_full_zone_is_passed_over(tmp_path: Path) -> None:
    google = Google("us-central1-a", "us-central1-b")
    start(google, tmp_path)
    asked = [(path, body) for method, path, body in google.requests if method == "POST" and path.endswith("/instances")]
    zones = [re.search("zones/([^/]+)/", path)[1] for path, _ in asked]
    assert zones == ["us-central1-a", "us-central1-b", "us-central1-c"] * 3, "for each machine"
    for zone, (_, body) in zip(zones, asked, strict=True):
        assert f"zones/{zone}/" in body["machineType"] and f"zones/{zone}/" in str(body["disks"])


def test_a_machine_is_found_in_its_own_zone() -> None:
    class Part:
        def __init__(self) -> None:
            self.availability_zone = ""

        def list_instances(self, *_: Any) -> list[dict[str, str]]:
            return [{"name": f"node-{self.availability_zone}"}]

        def delete_instance(self, node_id: str) -> tuple[str, str]:
            return self.availability_zone, node_id

    zones = Zones(Part(), "a, b")
    assert [node["name"] for node in zones.list_instances({})] == ["node-a", "node-b"]
    assert zones.delete_instance("node-b") == ("b", "node-b")


def test_images_are_ubuntu_24_04_with_a_driver_where_there_is_a_gpu(requests: list[Request]) -> None:
    for name, body in machines(requests).items():
        image = body["disks"][0]["initializeParams"]["sourceImage"]
        assert "2404" in image and ("nvidia" in image) == (name != "head")


def test_every_machine_is_labelled_as_ours(requests: list[Request]) -> None:
    for body in machines(requests).values():
        assert body["labels"]["worldmodel"] == "cluster" and body["labels"]["ray-cluster-name"] == "worldmodel"


def test_a_machine_that_nobody_sets_up_shuts_down(requests: list[Request]) -> None:
    for body in machines(requests).values():
        assert {"key": "startup-script", "value": "shutdown -h +60"} in body["metadata"]["items"]


def test_what_is_asked_for_is_what_google_describes(requests: list[Request]) -> None:
    """Fields that the service does not know are dropped without a word, so each is looked up in its description."""
    document = Google().build("compute", "v1")._schema
    for body in machines(requests).values():
        _check_known(body, document.get("Instance"), document, "Instance")


def _check_known(value: Any, schema: dict[str, Any], document: Any, place: str) -> None:
    schema = document.get(schema["$ref"]) if "$ref" in schema else schema
    if isinstance(value, dict) and "properties" in schema:
        for name, inner in value.items():
            if (place, name) == ("Instance", "networkConfig"):
                continue  # Ray adds it for TPUs, and Google drops it
            assert name in schema["properties"], f"{place}.{name}"
            _check_known(inner, schema["properties"][name], document, f"{place}.{name}")
    elif isinstance(value, list):
        for inner in value:
            _check_known(inner, schema["items"], document, f"{place}[]")
