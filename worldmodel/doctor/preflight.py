"""The preflight: every check in order, on this machine alone or on all machines of a Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldmodel.doctor import cluster_files, ray_cluster
from worldmodel.doctor.check import Check, attempt, passed, place_at, skipped
from worldmodel.doctor.cluster_steps import check_steps
from worldmodel.doctor.machine import MachineFacts, read_versions
from worldmodel.doctor.machines import check_clocks, check_versions
from worldmodel.doctor.on_machine import Errand, examine_machine
from worldmodel.doctor.price import check_price
from worldmodel.doctor.store import ACCOUNT, STORE
from worldmodel.doctor.wandb_key import check_wandb
from worldmodel.errors import UserError
from worldmodel.machine.launcher import name_cloud
from worldmodel.storage import Location

Tell = Callable[[Check], None]


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What to check."""

    storage: str = "runs"
    """Folder or URI of runs."""
    data: str = ""
    """Folder or URI of games or blocks; empty: toy games will be made."""
    gpus: float = 0.0
    """GPUs that each trial will ask for."""
    cluster: Path | None = None
    """A cluster's YAML that is about to be used; None: those of the checkout are looked over."""
    fix: bool = False
    """Make what the cluster needs and can be made here: Ray's token, an SSH key."""
    wandb: str = "auto"
    """`tracking.wandb` of the experiment."""
    wait_seconds: float = 0.0
    """How long a machine that a trial fits on is waited for, once it has been asked for."""
    has_rehearsal: bool = False
    """Whether two batches are trained, saved, restored and evaluated."""


def examine(request: Preflight, tell: Tell = lambda check: None) -> list[Check]:
    """All checks, each told as soon as it is known. UserError where the request itself is wrong."""
    Location.of(request.storage)
    if request.data:
        Location.of(request.data)
    if request.cluster:
        cluster_files.require_cluster(request.cluster)
    elif request.fix:
        raise UserError("--fix needs the cluster that it is for: add --cluster FILE, such as cluster/a100.yaml")
    found: list[Check] = []
    for check in _examine(request):
        tell(check)
        found.append(check)
    for check in _rehearse(request, found) if request.has_rehearsal else ():
        tell(check)
        found.append(check)
    return found


def examine_quickly(request: Preflight) -> list[Check]:
    """What takes no time, of this machine alone, for a job on a Ray of its own. Runs say themselves that W&B is offline
    and what is unknown of prices."""
    report = examine_machine(Errand(storage=request.storage, gpus=request.gpus))
    wandb = [check for check in attempt("W&B", lambda: check_wandb(request.wandb)) if check.is_failed]
    return [*report.checks, *wandb]


def _examine(request: Preflight) -> Iterator[Check]:
    files = cluster_files
    chosen = request.cluster
    yield from attempt(files.UNSET, lambda: files.check_file(chosen) if chosen else files.check_folder())
    if chosen:
        yield from attempt("first steps", lambda: check_steps(chosen, fix=request.fix))
        yield from attempt("cloud account", lambda: _examine_accounts(chosen))
    address = os.environ.get("RAY_ADDRESS", "")
    is_cluster = False
    if address:
        joined = attempt(ray_cluster.NAME, lambda: [ray_cluster.join(address)])
        yield from joined
        is_cluster = not any(check.is_failed for check in joined)
    else:
        yield passed(ray_cluster.NAME, f"Ray {read_versions()['Ray']}, none is named: each command starts its own here")
    errand = Errand(
        storage=request.storage,
        data=request.data,
        gpus=0.0 if is_cluster else request.gpus,
        region=_find_region(chosen),
    )
    machines: list[MachineFacts] = []
    if is_cluster:
        yield from _examine_cluster(request, errand, machines)
    else:
        report = examine_machine(errand)
        machines.append(report.facts)
        yield from report.checks
    yield from attempt("W&B", lambda: check_wandb(request.wandb))
    names = [name for machine in machines for name in machine.gpus.names]
    yield from attempt("price", lambda: check_price(names))


def _examine_accounts(cluster: Path) -> Iterator[Check]:
    """The account that `ray up` would use: by AWS's client, or by the command line of Google Cloud or Azure."""
    from worldmodel.doctor.aws_account import examine_account
    from worldmodel.doctor.cloud_commands import examine_azure, examine_google

    ways = {"aws": examine_account, "gcp": examine_google, "azure": examine_azure}
    for document in cluster_files.read_documents(cluster):
        provider = document.get("provider")
        way = ways.get(name_cloud(provider)) if isinstance(provider, dict) else None
        if way and (unset := cluster_files.find_placeholders(provider, "provider")):
            yield skipped("cloud account", f"not asked before {', '.join(unset)} is set")
        elif way:
            yield from way(document)


def _find_region(cluster: Path | None) -> str:
    path = cluster or cluster_files.RUNNING.expanduser()
    if not path.exists():
        return ""
    return next(
        (region for doc in cluster_files.read_documents(path) if (region := cluster_files.read_region(doc))), ""
    )


def _examine_cluster(request: Preflight, errand: Errand, machines: list[MachineFacts]) -> Iterator[Check]:
    """The cluster's settings, the machine that a trial needs, and every machine that is up."""
    import ray

    yield from attempt("token", ray_cluster.check_open)
    yield from attempt(cluster_files.IDLE, cluster_files.check_running)
    needs = {"CPU": 1.0, **({"GPU": request.gpus} if request.gpus else {})}
    yield from attempt(ray_cluster.STARTED, lambda: ray_cluster.check_started(needs, request.wait_seconds))
    own = ray.get_runtime_context().get_node_id()
    has_gpu = any(n["NodeID"] == own and n["Resources"].get("GPU") for n in ray_cluster.list_alive())
    if not has_gpu:  # else in a process that gives the GPU back
        report = examine_machine(errand)
        machines.append(report.facts)
        yield from place_at(socket.gethostname(), report.checks)
    found = ray_cluster.survey(errand, "" if has_gpu else own)
    machines.extend(found.facts)
    yield from found.checks
    yield from attempt("versions", lambda: check_versions(machines, read_versions()))
    yield from attempt("clocks", lambda: check_clocks(found.skews))


def _rehearse(request: Preflight, found: Sequence[Check]) -> Sequence[Check]:
    """Here, or on a machine that a trial fits on; not without a storage, machines or the Ray that is named."""
    from worldmodel.doctor.rehearsal import rehearse

    needed = (STORE, ACCOUNT, ray_cluster.NAME, ray_cluster.STARTED)
    if missing := [check.name for check in found if check.is_failed and check.name in needed]:
        return [skipped("rehearsal", f"left out: mend {missing[0]} first")]
    if not os.environ.get("RAY_ADDRESS"):
        return attempt("rehearsal", lambda: rehearse(request.storage))
    return attempt("rehearsal", lambda: ray_cluster.rehearse_there(request.storage, request.gpus))
