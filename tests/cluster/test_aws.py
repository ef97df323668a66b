"""What `ray up cluster/a100.yaml` asks AWS for, to the letter, against moto."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import botocore.client
import pytest
from moto import mock_aws

from tests.cluster.launcher import lend_credentials, prepare, read_aws_machines, tag_for
from worldmodel.machine.launcher import make_provider

pytestmark = pytest.mark.xdist_group("launcher")  # what is prepared once serves all
Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    """Every request that changes something: bootstrap, then one machine of each node type."""
    found: Calls = []
    send = botocore.client.BaseClient._make_api_call
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()

    def record(self: Any, name: str, arguments: dict[str, Any]) -> Any:
        if not name.startswith(("Describe", "Get", "List")):
            found.append((name, copy.deepcopy(arguments)))
        return send(self, name, arguments)

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("HOME", str(home))
        lend_credentials(patch)
        patch.setattr(botocore.client.BaseClient, "_make_api_call", record)
        _start(found)
        yield found


def _start(found: Calls) -> None:
    import boto3

    iam = boto3.client("iam")
    for name in ("worldmodel-head", "worldmodel-worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    found.clear()
    ours = make_provider("aws")
    config = ours.bootstrap_config(prepare("a100"))
    provider = ours({**config["provider"], "files_needed": []}, config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        provider.create_node(copy.deepcopy(kind["node_config"]), tag_for(config, name), 1)


def machines(calls: Calls) -> dict[str, dict[str, Any]]:
    """What is asked for, by node type."""
    asked = [arguments for name, arguments in calls if name == "RunInstances"]
    return {tags(arguments, "instance")["ray-user-node-type"]: arguments for arguments in asked}


def tags(arguments: dict[str, Any], kind: str) -> dict[str, str]:
    """The tags that one kind of resource gets."""
    [found] = [spec["Tags"] for spec in arguments["TagSpecifications"] if spec["ResourceType"] == kind]
    return {tag["Key"]: tag["Value"] for tag in found}


def test_nothing_but_a_key_pair_a_group_and_machines_is_made(calls: Calls) -> None:
    assert [name for name, _ in calls] == [
        "CreateKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress", *["RunInstances"] * 3,
    ], "no role of Ray's own, which could do anything with EC2 and S3"  # fmt: skip


def test_only_ssh_is_open_to_the_world(calls: Calls) -> None:
    [rules] = [arguments["IpPermissions"] for name, arguments in calls if name == "AuthorizeSecurityGroupIngress"]
    inside, ssh = rules
    assert inside.get("IpRanges", []) == [] and len(inside["UserIdGroupPairs"]) == 1, "between the machines themselves"
    assert (ssh["FromPort"], ssh["ToPort"], ssh["IpProtocol"]) == (22, 22, "tcp")
    [group] = [arguments["GroupId"] for name, arguments in calls if name == "AuthorizeSecurityGroupIngress"]
    assert all(asked["SecurityGroupIds"] == [group] for asked in machines(calls).values())


def test_each_node_type_asks_for_its_machine(calls: Calls) -> None:
    found = {name: asked["InstanceType"] for name, asked in machines(calls).items()}
    assert found == {"head": "m5.xlarge", "a100": "p4d.24xlarge", "l4": "g6.2xlarge"}


def test_workers_are_spot_and_the_head_is_not(calls: Calls) -> None:
    found = {name: asked.get("InstanceMarketOptions") for name, asked in machines(calls).items()}
    assert found == {"head": None, "a100": {"MarketType": "spot"}, "l4": {"MarketType": "spot"}}


def test_head_and_workers_have_different_identities(calls: Calls) -> None:
    found = {name: asked["IamInstanceProfile"] for name, asked in machines(calls).items()}
    worker = {"Name": "worldmodel-worker"}
    assert found == {"head": {"Name": "worldmodel-head"}, "a100": worker, "l4": worker}


def test_disks_are_encrypted_and_go_with_their_machine(calls: Calls) -> None:
    for name, size in (("head", 100), ("a100", 400), ("l4", 400)):
        [disk] = machines(calls)[name]["BlockDeviceMappings"]
        assert disk["DeviceName"] == "/dev/sda1"
        assert disk["Ebs"] == {"VolumeSize": size, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}


def test_every_machine_and_disk_is_tagged_as_ours(calls: Calls) -> None:
    for asked in machines(calls).values():
        assert tags(asked, "instance")["worldmodel"] == tags(asked, "volume")["worldmodel"] == "cluster"
        assert tags(asked, "instance")["ray-cluster-name"] == "worldmodel"


def test_images_are_ubuntu_24_04_with_a_driver_where_there_is_a_gpu(calls: Calls) -> None:
    for name, asked in machines(calls).items():
        assert asked["ImageId"].startswith("resolve:ssm:/aws/service/"), "not Ray's own of 2020"
        assert "24.04" in asked["ImageId"]
        assert ("nvidia-driver" in asked["ImageId"]) == (name != "head")


def test_a_machine_s_credentials_cannot_be_fetched_by_a_simple_request(calls: Calls) -> None:
    for asked in machines(calls).values():
        assert asked["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


def test_a_machine_that_shuts_down_is_gone_and_one_that_nobody_sets_up_shuts_down(calls: Calls) -> None:
    for asked in machines(calls).values():
        assert asked["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert asked["UserData"] == "#!/bin/sh\nshutdown -h +60\n"


def test_what_the_file_says_of_a_machine_is_what_aws_says() -> None:
    config = prepare("a100")
    for name in ("a100", "l4"):
        kind = config["available_node_types"][name]
        facts = read_aws_machines()[kind["node_config"]["InstanceType"]]
        [gpus] = facts["GpuInfo"]["Gpus"]
        assert kind["resources"]["CPU"] == facts["VCpuInfo"]["DefaultVCpus"]
        assert (kind["resources"]["GPU"], gpus["Name"].lower()) == (gpus["Count"], name)
        assert kind["resources"][f"accelerator_type:{gpus['Name']}"] == 1
