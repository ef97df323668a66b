"""What `ray up cluster/a100-azure.yaml` deploys on Azure, with the SDK's clients replaced: no deployment is shown."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.cluster.launcher import prepare, tag_for
from worldmodel.machine.launcher import make_provider

pytestmark = pytest.mark.xdist_group("launcher")  # what is prepared once serves all
Deployment = dict[str, Any]


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Deployment]:
    """The template and parameters of each deployment, by its name: the network, then one machine of each node type."""
    from ray.autoscaler._private._azure import config as azure_config
    from ray.autoscaler._private._azure import node_provider

    client = MagicMock()
    found: dict[str, Deployment] = {}
    outputs = {name: {"value": f"/subscriptions/s/{name}"} for name in ("msi", "nsg", "subnet")}

    def deploy(*, resource_group_name: str, deployment_name: str, parameters: dict[str, Any]) -> Any:
        assert resource_group_name == "worldmodel"
        found[deployment_name] = copy.deepcopy(parameters["properties"])
        answer = MagicMock()
        answer.result.return_value.properties.outputs = outputs
        return answer

    client.deployments.begin_create_or_update.side_effect = deploy
    client.deployments.create_or_update = client.deployments.begin_create_or_update
    client.resources.list_by_resource_group.return_value = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for module in (azure_config, node_provider):
            patch.setattr(module, "ResourceManagementClient", lambda *_: client)
        for name in ("ComputeManagementClient", "NetworkManagementClient"):
            patch.setattr(node_provider, name, lambda *_: MagicMock())
        patch.setattr(node_provider, "get_cloud_from_metadata_requests", lambda: "none")
        ours = make_provider("azure")
        config = ours.bootstrap_config(prepare("a100-azure"))
        provider = ours({**config["provider"], "files_needed": []}, config["cluster_name"])
        for name, kind in config["available_node_types"].items():
            provider.create_node(copy.deepcopy(kind["node_config"]), tag_for(config, name), 1)
    assert client.resource_groups.method_calls
    return found


def machines(deployments: dict[str, Deployment]) -> dict[str, dict[str, Any]]:
    """The parameters of each machine, by node type."""
    asked = [_unwrap(deployment) for name, deployment in deployments.items() if name != "ray-config"]
    return {values["vmTags"]["ray-user-node-type"]: values for values in asked}


def _unwrap(deployment: Deployment) -> dict[str, Any]:
    return {name: value["value"] for name, value in deployment["parameters"].items()}


def test_only_ssh_is_open_to_the_world(deployments: dict[str, Deployment]) -> None:
    template = deployments["ray-config"]["template"]
    [group] = [part for part in template["resources"] if part["type"].endswith("/networkSecurityGroups")]
    [rule] = group["properties"]["securityRules"]
    asked = {name: rule["properties"][name] for name in ("access", "direction", "protocol", "destinationPortRange")}
    assert asked == {"access": "Allow", "direction": "Inbound", "protocol": "Tcp", "destinationPortRange": "22"}
    assert all(values["nsg"] == "/subscriptions/s/nsg" for values in machines(deployments).values())


def test_no_identity_is_made_but_the_one_of_infra_is_used(deployments: dict[str, Deployment]) -> None:
    """Ray gives head and workers one identity on Azure, with all rights in the cluster's own resource group."""
    asked = _unwrap(deployments["ray-config"])
    assert (asked["createMsi"], asked["msiName"], asked["msiResourceGroup"]) == (False, "worldmodel-head", "worldmodel")
    assert all(values["msi"] == "/subscriptions/s/msi" for values in machines(deployments).values())


def test_each_node_type_asks_for_its_machine(deployments: dict[str, Deployment]) -> None:
    found = {name: values["vmSize"] for name, values in machines(deployments).items()}
    assert found == {"head": "Standard_D4s_v5", "a100": "Standard_NC24ads_A100_v4", "t4": "Standard_NC8as_T4_v3"}


def test_workers_are_spot_and_deleted_when_taken_and_the_head_is_not(deployments: dict[str, Deployment]) -> None:
    found = machines(deployments)
    assert "priority" not in found["head"]
    for name in ("a100", "t4"):
        asked = {key: found[name][key] for key in ("priority", "evictionPolicy", "billingProfile")}
        assert asked == {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}


def test_images_are_ubuntu_24_04_with_a_driver_where_there_is_a_gpu(deployments: dict[str, Deployment]) -> None:
    names = ("imagePublisher", "imageOffer", "imageSku")
    found = {name: tuple(values[key] for key in names) for name, values in machines(deployments).items()}
    gpu = ("microsoft-dsvm", "ubuntu-hpc", "2404")
    assert found == {"head": ("Canonical", "ubuntu-24_04-lts", "server"), "a100": gpu, "t4": gpu}


def test_disks_have_room_and_every_machine_is_tagged_as_ours(deployments: dict[str, Deployment]) -> None:
    for name, values in machines(deployments).items():
        assert values["osDiskSize"] == (100 if name == "head" else 200)
        assert values["vmTags"]["worldmodel"] == "cluster"


def test_every_parameter_is_one_of_the_template_s(deployments: dict[str, Deployment]) -> None:
    import ray.autoscaler._private._azure as azure

    template = json.loads((Path(azure.__path__[0]) / "azure-vm-template.json").read_text())
    for values in machines(deployments).values():
        assert set(values) <= set(template["parameters"])
