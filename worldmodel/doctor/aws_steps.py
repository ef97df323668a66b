"""Checks of an AWS account before `ray up`: its roles, and that buckets are in the machines' region."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from worldmodel.doctor.check import Check, failed, passed, skipped
from worldmodel.doctor.store import REGION as BUCKET
from worldmodel.doctor.store import compare_regions, make_client
from worldmodel.doctor.store_errors import explain_refusal, read_region

SPOT_ROLE, IDENTITY = "spot role", "machines' identity"
MAKE_SPOT_ROLE = "once, as somebody who may: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
MAKE_IDENTITIES = "terraform -chdir=infra/terraform/aws apply (infra/README.md)"


def check_roles(document: Mapping[str, Any]) -> Iterator[Check]:
    """Check the account's role for spot machines, where the YAML asks for any, and the identities that it names."""
    configs = [kind.get("node_config") or {} for kind in document.get("available_node_types", {}).values()]
    if any((config.get("InstanceMarketOptions") or {}).get("MarketType") == "spot" for config in configs):
        yield _find(
            SPOT_ROLE, "the account's service-linked role for spot machines", MAKE_SPOT_ROLE,
            lambda: _iam().get_role(RoleName="AWSServiceRoleForEC2Spot"),
        )  # fmt: skip
    profiles = [(config.get("IamInstanceProfile") or {}).get("Name") for config in configs]
    for name in dict.fromkeys(filter(None, profiles)):
        yield _find(
            IDENTITY, f"instance profile {name}", MAKE_IDENTITIES,
            partial(lambda name: _iam().get_instance_profile(InstanceProfileName=name), name),
        )  # fmt: skip


def _iam() -> Any:
    return make_client("iam", "us-east-1")


def _find(name: str, what: str, remedy: str, ask: Callable[[], Any]) -> Check:
    try:
        ask()
    except Exception as error:  # noqa: BLE001  (who may start machines need not be allowed to read roles)
        code = (getattr(error, "response", None) or {}).get("Error", {}).get("Code")
        if code == "NoSuchEntity":
            return failed(name, f"{what} is missing", remedy)
        text = " ".join(str(error).split())[:160]
        return skipped(name, f"{what}: cannot be read ({text}); where it is missing: {remedy}")
    return passed(name, f"{what} is there")


def check_buckets(document: Mapping[str, Any]) -> Iterator[Check]:
    """Check that the buckets of games and runs exist, in the region of the machines."""
    settings = document.get("metadata") or {}
    places = [str(settings.get(name, "")) for name in ("data", "storage")]
    buckets = [place.removeprefix("s3://").partition("/")[0] for place in places if place.startswith("s3://")]
    for bucket in dict.fromkeys(buckets) if not settings.get("endpoint") else ():
        yield from _check_bucket(bucket, str(document["provider"].get("region")))


def _check_bucket(bucket: str, machine_region: str) -> Iterator[Check]:
    try:
        headers = make_client("s3", machine_region).head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
        region = headers.get("x-amz-bucket-region", "")
    except Exception as error:  # noqa: BLE001  (the edge to a library that raises many kinds)
        region = read_region(error)
        if not region:
            refusal = explain_refusal(error)
            found, remedy = (refusal.found, refusal.remedy) if refusal else (str(error), "see the message")
            yield failed(BUCKET, f"bucket {bucket}: {found}", remedy)
            return
    yield from compare_regions(bucket, region, (None, None), machine_region)
