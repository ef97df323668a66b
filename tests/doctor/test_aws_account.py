"""The account that `ray up` would use, by answers of AWS that its client library holds to be possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from tests.s3_server import use_s3
from worldmodel.doctor import aws_account
from worldmodel.doctor.aws_account import ACCOUNT, LIMITS, TYPES, Kind, examine_account, list_kinds
from worldmodel.doctor.check import Check, Outcome


def describe(machine: str = "p4d.24xlarge", most: int = 2, region: str = "us-west-2") -> dict[str, Any]:
    """A cluster's YAML."""
    spot = {"InstanceType": machine, "InstanceMarketOptions": {"MarketType": "spot"}}
    return {
        "provider": {"type": "aws", "region": region},
        "head_node_type": "head",
        "available_node_types": {
            "head": {"max_workers": 0, "node_config": {"InstanceType": "m5.xlarge"}},
            "a100": {"max_workers": most, "node_config": spot},
            "off": {"max_workers": 0, "node_config": {"InstanceType": "odd"}},
        },
    }


def by_name(document: dict[str, Any]) -> dict[str, Check]:
    return {check.name: check for check in examine_account(document)}


def test_only_kinds_that_may_be_started_count() -> None:
    assert list_kinds(describe()) == [
        Kind(name="head", machine="m5.xlarge", is_spot=False, most=1),
        Kind(name="a100", machine="p4d.24xlarge", is_spot=True, most=2),
    ]


def test_a_fallback_to_on_demand_needs_its_quota_too() -> None:
    document = describe()
    document["provider"]["on_demand_after_minutes"] = 15
    p4d = [kind.is_spot for kind in list_kinds(document) if kind.name == "a100"]
    assert p4d == [True, False]


@pytest.mark.parametrize("has_p4d", [True, False])
def test_an_account_is_told_with_what_its_region_has(has_p4d: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    types = {"m5.xlarge": 4, **({"p4d.24xlarge": 96} if has_p4d else {})}
    rows = [{"InstanceType": name, "VCpuInfo": {"DefaultVCpus": cpus}} for name, cpus in types.items()]
    wish = {"Filters": [{"Name": "instance-type", "Values": ["m5.xlarge", "p4d.24xlarge"]}]}
    clients, answers = {}, {
        "sts": ("get_caller_identity", {"Arn": "arn:aws:iam::123456789012:user/somebody"}, {}),
        "ec2": ("describe_instance_types", {"InstanceTypes": rows}, wish),
        "service-quotas": None,
    }  # fmt: skip
    for service, answer in answers.items():
        clients[service] = make_client(service)
        stub = Stubber(clients[service])
        if answer:
            stub.add_response(*answer)
        stub.activate()
    monkeypatch.setattr(aws_account, "make_client", lambda service, region: clients[service])
    checks = list(examine_account(describe()))
    found = {check.name: check for check in checks}
    assert found[ACCOUNT].outcome is Outcome.OK and "user/somebody in us-west-2" in found[ACCOUNT].found
    assert [check.name for check in checks].count(LIMITS) == len(types)
    if has_p4d:
        assert found[TYPES].outcome is Outcome.OK and "m5.xlarge, p4d.24xlarge" in found[TYPES].found
    else:
        assert found[TYPES].is_failed and "p4d.24xlarge (a100)" in found[TYPES].found


def make_client(service: str) -> Any:
    """A client that no key of this machine reaches."""
    return boto3.client(service, "us-west-2", aws_access_key_id="key", aws_secret_access_key="secret")


def test_missing_credentials_and_a_region_that_does_not_answer_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    missing = by_name(describe())[ACCOUNT]
    assert missing.is_failed and "no credentials" in missing.found
    use_s3(monkeypatch, "http://127.0.0.1:9")
    silent = by_name(describe(region="us-wset-2"))[ACCOUNT]
    assert silent.is_failed and "us-wset-2" in silent.found and "provider.region" in silent.remedy


@pytest.mark.parametrize(
    ("allowed", "most", "outcome"),
    [(0.0, 2, Outcome.FAILED), (95.0, 2, Outcome.FAILED), (96.0, 2, Outcome.WARNING), (192.0, 2, Outcome.OK)],
)
def test_a_quota_too_small_for_one_machine_fails(
    allowed: float, most: int, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = ask_quota({"Quota": {"Value": allowed}}, most, monkeypatch)
    assert check.name == LIMITS and check.outcome is outcome
    assert f"{allowed:.0f} vCPUs allowed, 96 a machine" in check.found
    assert outcome is Outcome.OK or "L-7212CCBC" in check.remedy


def test_quotas_that_may_not_be_read_fail_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    check = ask_quota(None, 1, monkeypatch)
    assert check.outcome is Outcome.SKIPPED and "AccessDeniedException" in check.found


def ask_quota(answer: dict[str, Any] | None, most: int, monkeypatch: pytest.MonkeyPatch) -> Check:
    """The check of p4d spot machines, where AWS answers so (None: refuses)."""
    client = make_client("service-quotas")
    stub = Stubber(client)
    if answer is None:
        stub.add_client_error("get_service_quota", "AccessDeniedException")
    else:
        stub.add_response("get_service_quota", answer, {"ServiceCode": "ec2", "QuotaCode": "L-7212CCBC"})
    monkeypatch.setattr(aws_account, "make_client", lambda *words: client)
    with stub:
        kind = Kind(name="a100", machine="p4d.24xlarge", is_spot=True, most=most)
        return aws_account._check_quota("us-west-2", kind, 96)
