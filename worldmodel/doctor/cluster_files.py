"""What a cluster's YAML leaves unset, and whether its machines go when nobody uses them.

Three kinds are told apart: those of Ray's launcher (`ray up`), manifests of KubeRay, and tasks of SkyPilot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from worldmodel.doctor.check import Check, failed, passed, skipped, warned
from worldmodel.errors import UserError

PLACEHOLDER = "CHANGE-ME"
"""How a value begins that a person must set."""
FOLDER = Path("cluster")
"""Where a checkout keeps them."""
RUNNING = Path("~/ray_bootstrap_config.yaml")
"""Where Ray's launcher leaves a cluster's YAML on its head."""
KEEPER = Path("~/.worldmodel/keeper.pid")
"""Where the process that ends an idle head leaves its number."""
IDLE, HEAD, UNSET = "idle timeout", "head's end", "cluster settings"
KUBERAY = ("RayCluster", "RayJob")


def require_cluster(path: Path) -> None:
    """UserError where a file is missing, no YAML, or not one that starts a cluster."""
    if not any(_is_cluster(document) for document in read_documents(path)):
        raise UserError(
            f"{path} starts no cluster: expected a file with `provider` (ray up), `kind: RayCluster` or `RayJob` "
            "(KubeRay) or `resources` (SkyPilot), such as cluster/a100.yaml"
        )


def _is_cluster(document: Mapping[str, Any]) -> bool:
    return isinstance(document.get("provider"), Mapping) or document.get("kind") in KUBERAY or "resources" in document


def check_file(path: Path) -> Iterator[Check]:
    """One file that is about to be used: nothing unset, and machines that go when idle.

    Raises:
        UserError: it cannot be read.
    """
    documents = read_documents(path)
    unset = [place for document in documents for place in find_placeholders(document)]
    if unset:
        yield failed(UNSET, f"{path} leaves unset: {', '.join(unset)}", f"replace each {PLACEHOLDER} in {path}")
    else:
        yield passed(UNSET, f"{path}: all is set")
    for document in documents:
        yield from check_idle(document, str(path))


def check_folder(folder: Path = FOLDER) -> Iterator[Check]:
    """All files of a checkout, of which one may be used: what each leaves unset is told, and fails nothing."""
    files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    counts = {}
    for path in files:
        try:
            unset = [place for document in read_documents(path) for place in find_placeholders(document)]
        except UserError as error:
            yield warned(UNSET, str(error), f"mend {path}")
            continue
        if unset:
            counts[str(path)] = len(unset)
    if counts:
        listed = ", ".join(f"{path} ({count})" for path, count in counts.items())
        yield skipped(UNSET, f"to be set before use: {listed}; `--cluster FILE` checks one")
    elif files:
        yield passed(UNSET, f"{len(files)} files in {folder}, nothing unset")


def check_running(path: Path = RUNNING, keeper: Path = KEEPER) -> Iterator[Check]:
    """The cluster on whose head this runs, where Ray's launcher made it, and the keeper that is to end it."""
    found = path.expanduser()
    if not found.exists():
        yield skipped(IDLE, "this cluster was not made by `ray up` from here: see that its machines end when idle")
        return
    for document in read_documents(found):
        yield from check_idle(document, "this cluster")
        if (document.get("metadata") or {}).get("head_idle_minutes") and not _is_alive(keeper):
            yield warned(
                HEAD, "this cluster: the keeper, which ends it when idle or at its budget, does not run",
                "start it on the head: python -m cluster.keeper start",
            )  # fmt: skip


def _is_alive(pid_file: Path) -> bool:
    """Whether the process runs whose number a file holds."""
    try:
        return psutil.pid_exists(int(pid_file.expanduser().read_text()))
    except (OSError, ValueError):
        return False


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The mappings of a YAML file. UserError where it is none."""
    try:
        found = list(yaml.safe_load_all(path.expanduser().read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from error
    return [document for document in found if isinstance(document, dict)]


def find_placeholders(value: Any, place: str = "") -> list[str]:
    """Where values stand that a person must set, as dotted keys; the same place inside a list counts once."""
    if isinstance(value, Mapping):
        return [
            found for key, inner in value.items() for found in find_placeholders(inner, f"{place}.{key}".strip("."))
        ]
    if isinstance(value, list):
        return list(dict.fromkeys(found for inner in value for found in find_placeholders(inner, place)))
    is_null = value is None and place.startswith("envs.")  # as SkyPilot has it
    return [place] if is_null or (isinstance(value, str) and value.startswith(PLACEHOLDER)) else []


def read_region(document: Mapping[str, Any]) -> str:
    """The region of a launcher's cluster; empty: unknown."""
    provider = document.get("provider")
    return str(provider.get("region") or "") if isinstance(provider, Mapping) else ""


def check_idle(document: Mapping[str, Any], name: str) -> Iterator[Check]:
    """Whether the machines of one document go when nobody uses them."""
    if "available_node_types" in document or document.get("provider"):
        yield from _check_launcher(document, name)
    elif document.get("kind") in KUBERAY:
        yield _check_kuberay(document, name)
    elif "resources" in document and ("run" in document or "setup" in document):
        yield _check_sky(document, name)


def _check_launcher(document: Mapping[str, Any], name: str) -> Iterator[Check]:
    provider = document.get("provider") or {}
    if provider.get("type") == "local":
        yield skipped(IDLE, f"{name}: own machines, nothing to pay for by the hour")
        return
    minutes, head = document.get("idle_timeout_minutes"), (document.get("metadata") or {}).get("head_idle_minutes")
    if minutes is None:
        yield warned(IDLE, f"{name}: idle_timeout_minutes is not set; Ray's default is 5", "set idle_timeout_minutes")
    else:
        yield passed(IDLE, f"{name}: idle workers end after {minutes:g} minutes")
    if head == 0:
        yield warned(HEAD, f"{name}: the head never ends itself", "set head_idle_minutes above 0, or run `ray down`")
    elif head is not None:
        yield passed(HEAD, f"{name}: it ends itself after {head:g} minutes without a job")


def _check_kuberay(document: Mapping[str, Any], name: str) -> Check:
    spec = document.get("spec") or {}
    cluster = spec.get("rayClusterSpec") or spec
    where = f"{name} ({document['kind']})"
    if document["kind"] == "RayJob" and spec.get("shutdownAfterJobFinishes"):
        return passed(IDLE, f"{where}: the cluster ends with its job")
    seconds = (cluster.get("autoscalerOptions") or {}).get("idleTimeoutSeconds")
    if cluster.get("enableInTreeAutoscaling") and seconds is not None:
        return passed(IDLE, f"{where}: idle workers end after {seconds} s")
    return warned(IDLE, f"{where}: no idle timeout", "set enableInTreeAutoscaling and idleTimeoutSeconds")


def _check_sky(document: Mapping[str, Any], name: str) -> Check:
    resources = document["resources"]
    stop = resources.get("autostop") if isinstance(resources, Mapping) else None
    if stop:
        return passed(IDLE, f"{name}: the machine ends itself when idle (autostop)")
    return warned(
        IDLE, f"{name}: no autostop", "set resources.autostop, or launch with `sky launch --idle-minutes-to-autostop`"
    )
