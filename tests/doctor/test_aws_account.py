"""The account that `ray up` would use: against a stand-in of AWS, and quotas by AWS's documented answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from tests.s3_server import serve_s3, use_s3
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


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


def by_name(document: dict[str, Any]) -> dict[str, Check]:
    return {check.name: check for check in examine_account(document)}


def test_only_kinds_that_may_be_started_count() -> None:
    assert list_kinds(describe()) == [
        Kind(name="head", machine="m5.xlarge", is_spot=False, most=1),
        Kind(name="a100", machine="p4d.24xlarge", is_spot=True, most=2),
    ]


def test_an_account_is_told_with_what_its_region_has(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, endpoint)
    found = by_name(describe())
    assert found[ACCOUNT].outcome is found[TYPES].outcome is Outcome.OK
    assert "arn:aws" in found[ACCOUNT].found and "m5.xlarge, p4d.24xlarge" in found[TYPES].found
    absent = by_name(describe(machine="p4d.25xlarge"))[TYPES]
    assert absent.is_failed and "p4d.25xlarge (a100)" in absent.found and "another region" in absent.remedy


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
    client = boto3.client("service-quotas", "us-west-2", aws_access_key_id="key", aws_secret_access_key="secret")
    stub = Stubber(client)
    if answer is None:
        stub.add_client_error("get_service_quota", "AccessDeniedException")
    else:
        stub.add_response("get_service_quota", answer, {"ServiceCode": "ec2", "QuotaCode": "L-7212CCBC"})
    monkeypatch.setattr(aws_account, "make_client", lambda *words: client)
    with stub:
        kind = Kind(name="a100", machine="p4d.24xlarge", is_spot=True, most=most)
        return aws_account._check_quota("us-west-2", kind, 96)
