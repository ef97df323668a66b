"""What is looked at on each machine, by a process there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from worldmodel.doctor.check import Check, attempt
from worldmodel.doctor.games import examine_data
from worldmodel.doctor.kernel_case import check_kernels
from worldmodel.doctor.machine import MachineFacts, describe_machine
from worldmodel.doctor.machines import check_gpus, check_room, check_shared_memory
from worldmodel.doctor.store import examine_storage
from worldmodel.storage import Location


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What to look at."""

    storage: str
    """Folder or URI of runs."""
    data: str = ""
    """Folder or URI of games or blocks; empty: none."""
    gpus: float = 0.0
    """GPUs that torch must find."""
    region: str = ""
    """Where the machines stand, as far as it is known."""

    def for_node(self, resources: Mapping[str, float]) -> Errand:
        """The same for a machine of Ray's, which counts on its own GPUs."""
        return replace(self, gpus=resources.get("GPU", 0.0))


@dataclass(frozen=True, kw_only=True)
class MachineReport:
    """What was found on a machine."""

    facts: MachineFacts
    checks: tuple[Check, ...]


def examine_machine(errand: Errand) -> MachineReport:
    """Look at this machine."""
    local = Location.of(errand.storage).local_path()
    facts = describe_machine([str(local)] if local else [])
    return MachineReport(facts=facts, checks=tuple(_examine(errand, facts)))


def _examine(errand: Errand, facts: MachineFacts) -> Iterator[Check]:
    yield from attempt("disk", lambda: check_room(facts.rooms))
    yield from attempt("/dev/shm", lambda: check_shared_memory(facts.shared_memory))
    yield from attempt("GPU", lambda: check_gpus(facts.gpus, errand.gpus))
    yield from attempt("kernels", check_kernels)
    yield from attempt("storage", lambda: examine_storage(errand.storage, errand.region))
    yield from attempt("data", lambda: examine_data(errand.data))
