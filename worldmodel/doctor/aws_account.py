"""Before `ray up` on AWS: who asks, whether the region has the machine types, and whether the quota allows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from worldmodel.doctor.aws_steps import check_buckets, check_roles
from worldmodel.doctor.check import Check, failed, passed, skipped, warned
from worldmodel.doctor.store import make_client
from worldmodel.doctor.store_errors import QUOTA, UNREACHABLE, explain_refusal
from worldmodel.machine.launcher import PATIENCE

ACCOUNT, TYPES, LIMITS = "cloud account", "machine types", "cloud quota"
QUOTAS = {
    ("p5", True): "L-C4BD4855", ("p", True): "L-7212CCBC", ("p", False): "L-417A185B",
    ("g", True): "L-3819A6DF", ("g", False): "L-DB2E81BA",
    ("", True): "L-34B43A08", ("", False): "L-1216C47A",
}  # fmt: skip
"""Family of machine types (beginning of its name) and whether they are spot, to AWS's quota of their vCPUs."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A node type of a cluster's YAML."""

    name: str
    machine: str
    """AWS's machine type."""
    is_spot: bool
    most: int
    """Machines that may run at once."""


def list_kinds(document: Mapping[str, Any]) -> list[Kind]:
    """The node types of which any machine may be started; on spot and on demand, where one falls back to the other."""
    found, may_fall_back = [], bool(document["provider"].get(PATIENCE))
    for name, kind in document.get("available_node_types", {}).items():
        config = kind.get("node_config") or {}
        most = 1 if name == document.get("head_node_type") else int(kind.get("max_workers", 0))
        if most and config.get("InstanceType"):
            market = (config.get("InstanceMarketOptions") or {}).get("MarketType")
            kind = Kind(name=name, machine=config["InstanceType"], is_spot=market == "spot", most=most)
            found += [kind, replace(kind, is_spot=False)] if kind.is_spot and may_fall_back else [kind]
    return found


def examine_account(document: Mapping[str, Any]) -> Iterator[Check]:
    """The account behind the credentials, in the region of a cluster's YAML."""
    region, kinds = str(document["provider"].get("region")), list_kinds(document)
    try:
        who = make_client("sts", region).get_caller_identity()["Arn"]
        types = _find_types(region, kinds)
    except Exception as error:  # noqa: BLE001  (the edge to a library that raises many kinds: each one is told)
        yield _explain(region, error)
        return
    yield passed(ACCOUNT, f"{who} in {region}")
    absent = list(dict.fromkeys(f"{kind.machine} ({kind.name})" for kind in kinds if kind.machine not in types))
    if absent:
        yield failed(TYPES, f"{region} has no {', '.join(absent)}", "choose another region, or another machine type")
    else:
        yield passed(TYPES, f"{region} has {', '.join(sorted(types))}")
    for kind in kinds:
        if kind.machine in types:
            yield _check_quota(region, kind, types[kind.machine])
    yield from check_roles(document)
    yield from check_buckets(document)


def _find_types(region: str, kinds: list[Kind]) -> dict[str, int]:
    """The machine types that the region has, and their vCPUs."""
    names = sorted({kind.machine for kind in kinds})
    wish = [{"Name": "instance-type", "Values": names}]
    found = make_client("ec2", region).describe_instance_types(Filters=wish)["InstanceTypes"]
    return {kind["InstanceType"]: int(kind["VCpuInfo"]["DefaultVCpus"]) for kind in found}


def _explain(region: str, error: Exception) -> Check:
    refusal = explain_refusal(error)
    if refusal is UNREACHABLE:
        return failed(
            ACCOUNT, f"AWS does not answer in region {region!r}: it may not exist, or the network is in the way",
            "check provider.region in the YAML, and the network",
        )  # fmt: skip
    if refusal is None:
        return failed(ACCOUNT, f"{region}: {' '.join(str(error).split())}", "see the message")
    return failed(ACCOUNT, f"{region}: {refusal.found}", refusal.remedy)


def _check_quota(region: str, kind: Kind, cpus: int) -> Check:
    """vCPUs that may run at once against those of all machines of the kind; others of the account share them."""
    family = next(family for family, spot in QUOTAS if spot is kind.is_spot and kind.machine.startswith(family))
    code, market = QUOTAS[family, kind.is_spot], "spot" if kind.is_spot else "on demand"
    name = f"{kind.machine} {market}"
    remedy = (
        f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {code} --region {region} "
        f"--desired-value {cpus * kind.most}, or lower max_workers"
    )
    try:
        client = make_client("service-quotas", region)
        allowed = int(client.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
    except Exception as error:  # noqa: BLE001  (who may start machines need not be allowed to read quotas)
        return skipped(
            LIMITS, f"{name}: cannot be read ({' '.join(str(error).split())[:160]}); new accounts have none: {remedy}"
        )
    found = f"{name}: {allowed} vCPUs allowed, {cpus} a machine, up to {kind.most} machines"
    if allowed < cpus:
        return failed(LIMITS, f"{found}: {QUOTA.found}", remedy)
    return warned(LIMITS, found, remedy) if allowed < cpus * kind.most else passed(LIMITS, found)
