"""What an AWS account lacks before a first `ray up`, against moto: roles, and a bucket near the machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from worldmodel.doctor import aws_steps
from worldmodel.doctor.aws_steps import BUCKET, IDENTITY, SPOT_ROLE, check_buckets, check_roles
from worldmodel.doctor.check import Check, Outcome

HEAD, WORKER = ({"IamInstanceProfile": {"Name": f"worldmodel-{kind}"}} for kind in ("head", "worker"))
CLUSTER: dict[str, Any] = {
    "provider": {"type": "aws", "region": "us-west-2"},
    "metadata": {"data": "s3://near-games/games", "storage": "s3://far-runs/runs"},
    "head_node_type": "head",
    "available_node_types": {
        "head": {"node_config": {"InstanceType": "m5.xlarge", **HEAD}},
        "a100": {"max_workers": 1, "node_config": {
            "InstanceType": "p4d.24xlarge", "InstanceMarketOptions": {"MarketType": "spot"}, **WORKER,
        }},
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty account."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


def roles() -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {SPOT_ROLE: [], IDENTITY: []}
    for check in check_roles(CLUSTER):
        found[check.name].append(check)
    return found


def test_an_empty_account_is_told_what_to_make() -> None:
    [spot] = roles()[SPOT_ROLE]
    assert spot.is_failed
    assert "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com" in spot.remedy
    head, worker = roles()[IDENTITY]
    assert head.is_failed and "worldmodel-head" in head.found and "terraform -chdir=infra/terraform/aws" in head.remedy
    assert worker.is_failed and "worldmodel-worker" in worker.found


def test_roles_that_are_there_pass() -> None:
    iam = boto3.client("iam")
    iam.create_role(RoleName="AWSServiceRoleForEC2Spot", AssumeRolePolicyDocument="{}", Path="/aws-service-role/")
    for kind in ("head", "worker"):
        iam.create_instance_profile(InstanceProfileName=f"worldmodel-{kind}")
    assert {check.outcome for checks in roles().values() for check in checks} == {Outcome.OK}


def test_on_demand_machines_need_no_spot_role() -> None:
    kinds = {"head": CLUSTER["available_node_types"]["head"]}
    assert SPOT_ROLE not in {check.name for check in check_roles({**CLUSTER, "available_node_types": kinds})}


def test_roles_that_may_not_be_read_are_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    def refuse(*_: object) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no iam:GetRole"}}, "GetRole")

    monkeypatch.setattr(aws_steps, "make_client", refuse)
    checks = [check for found in roles().values() for check in found]
    assert {check.outcome for check in checks} == {Outcome.SKIPPED}
    assert "AccessDenied" in checks[0].found and "create-service-linked-role" in checks[0].found


def test_a_bucket_in_another_region_is_told() -> None:
    for name, region in (("near-games", "us-west-2"), ("far-runs", "eu-west-1")):
        boto3.client("s3", region).create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
    near, far = check_buckets(CLUSTER)
    assert near.name == far.name == BUCKET and near.outcome is Outcome.OK
    assert far.outcome is Outcome.WARNING and "eu-west-1" in far.found and "us-west-2" in far.remedy


def test_a_missing_bucket_fails_once() -> None:
    same = {**CLUSTER, "metadata": {"data": "s3://near-games/games", "storage": "s3://near-games/runs"}}
    [check] = check_buckets(same)
    assert check.is_failed and "near-games" in check.found and "no such bucket" in check.found


@pytest.mark.parametrize("more", [{"endpoint": "https://r2.example"}, {"data": "CHANGE-ME", "storage": "gs://b/runs"}])
def test_what_is_no_bucket_of_aws_is_not_asked(more: dict[str, str]) -> None:
    assert list(check_buckets({**CLUSTER, "metadata": {**CLUSTER["metadata"], **more}})) == []
