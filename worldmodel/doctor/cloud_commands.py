"""Checks of Google Cloud and Azure before `ray up`: services and quota, through `gcloud` and `az`.

A remedy is the command to run, or the page of the quota. Where the cloud cannot be asked, both are shown as well.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from worldmodel.doctor.check import Check, failed, passed, skipped, warned
from worldmodel.errors import UserError

SERVICES, LIMITS = "cloud services", "cloud quota"
SECONDS = 30
"""Time that a command may take."""
APIS = tuple(f"{name}.googleapis.com" for name in ("cloudresourcemanager", "compute", "iam", "secretmanager"))
"""APIs that Terraform, Ray's launcher and the head use."""
NAMESPACES = ("Microsoft.Compute", "Microsoft.ManagedIdentity", "Microsoft.Network", "Microsoft.Storage")
"""Resource providers that they use on Azure; a Key Vault adds its own."""
SPOT_CORES = "lowPriorityCores"
"""Azure's "Total Regional Spot vCPUs"; a spot machine needs it and the quota of its family."""


def examine_google(document: Mapping[str, Any]) -> Iterator[Check]:
    """Check the project's APIs, and its quota of GPUs in the region."""
    provider = document["provider"]
    project, region = str(provider.get("project_id")), str(provider.get("region"))
    at = ["--project", project]
    command = f"gcloud services enable {' '.join(APIS)} --project {project}"
    try:
        enabled = _ask(["gcloud", "services", "list", "--enabled", *at, "--format", "value(config.name)"]).split()
        yield _judge_services([api for api in APIS if api not in enabled], command, "APIs of the project")
    except UserError as error:
        yield skipped(SERVICES, f"not checked ({error}); run once: {command}")
    page = f"https://console.cloud.google.com/iam-admin/quotas?project={project}"
    try:
        listed = json.loads(_ask(["gcloud", "compute", "regions", "describe", region, *at, "--format", "json(quotas)"]))
        limits = {quota["metric"]: float(quota["limit"]) for quota in listed["quotas"]}
    except UserError as error:
        yield skipped(LIMITS, f"not checked ({error}); see {page}")
        return
    for metric, each, most in _list_google_gpus(document):
        remedy = f"raise {metric} in {region} and GPUS_ALL_REGIONS to {each * most:g} at {page}"
        yield _judge_quota(f"{metric} in {region}", limits.get(metric, 0.0), each, most, remedy)


def _list_google_gpus(document: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Quota, GPUs of one machine, and machines, of each node type that may be started."""
    for kind in document.get("available_node_types", {}).values():
        resources, most = kind.get("resources") or {}, int(kind.get("max_workers", 0))
        names = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
        scheduling = (kind.get("node_config") or {}).get("scheduling") or {}
        market = "PREEMPTIBLE_" if scheduling.get("provisioningModel") == "SPOT" else ""
        for name in names if most else ():
            yield f"{market}NVIDIA_{name.replace('-', '_')}_GPUS", float(resources["GPU"]), most


def examine_azure(document: Mapping[str, Any]) -> Iterator[Check]:
    """Check the subscription's resource providers, and its quota of spot cores in the location."""
    provider = document["provider"]
    at, location = ["--subscription", str(provider.get("subscription_id"))], str(provider.get("location"))
    has_vault = bool((document.get("metadata") or {}).get("key_vault"))
    wanted = [*NAMESPACES, *(["Microsoft.KeyVault"] if has_vault else [])]
    state = "[?registrationState=='Registered'].namespace"
    try:
        registered = _ask(["az", "provider", "list", *at, "--query", state, "--output", "tsv"]).split()
        missing = [name for name in wanted if name not in registered]
        command = _register(missing, at[1])
        yield _judge_services(missing, command, "resource providers of the subscription")
    except UserError as error:
        yield skipped(SERVICES, f"not checked ({error}); run once: {_register(wanted, at[1])}")
    page = "https://portal.azure.com/#view/Microsoft_Azure_Capacity/QuotaMenuBlade/~/myQuotas"
    query = f"[?name.value=='{SPOT_CORES}'].limit"
    try:
        limit = float(
            _ask(["az", "vm", "list-usage", *at, "--location", location, "--query", query, "--output", "tsv"])
        )
    except (UserError, ValueError) as error:
        yield skipped(LIMITS, f"not checked ({error}); see {page}")
        return
    for name, kind in document.get("available_node_types", {}).items():
        parameters = (kind.get("node_config") or {}).get("azure_arm_parameters") or {}
        cores, most = float((kind.get("resources") or {}).get("CPU", 0)), int(kind.get("max_workers", 0))
        if most and parameters.get("priority") == "Spot":
            target = f"to {cores * most:g} at {page}"
            remedy = f"raise Total Regional Spot vCPUs and the family's spot quota in {location} {target}"
            yield _judge_quota(f"spot vCPUs in {location} ({name})", limit, cores, most, remedy)


def _register(namespaces: list[str], subscription: str) -> str:
    return " && ".join(f"az provider register --namespace {name} --subscription {subscription}" for name in namespaces)


def _judge_services(missing: list[str], command: str, what: str) -> Check:
    if missing:
        return failed(SERVICES, f"{what}: {', '.join(missing)} not enabled", command)
    return passed(SERVICES, f"{what}: all that are needed are enabled")


def _judge_quota(what: str, limit: float, each: float, most: int, remedy: str) -> Check:
    found = f"{what}: {limit:g} allowed, {each:g} a machine, up to {most} machines"
    if limit < each:
        return failed(LIMITS, f"{found}: not one machine can start", remedy)
    return warned(LIMITS, found, remedy) if limit < each * most else passed(LIMITS, found)


def _ask(words: list[str]) -> str:
    """Output of a cloud's command line. UserError if it is missing or refuses."""
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=SECONDS).stdout
    except FileNotFoundError as error:
        raise UserError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{words[0]} did not answer in {SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[:160]
        raise UserError(f"{' '.join(words[:3])}: {said or f'exit status {error.returncode}'}") from error
