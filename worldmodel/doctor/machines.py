"""Checks on what machines say of themselves: room on disks, shared memory, GPUs and driver, versions, clocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from worldmodel.doctor.check import Check, failed, passed, skipped, warned
from worldmodel.doctor.machine import GpuFacts, MachineFacts, Room

LEAST_DISK, FAIR_DISK = 1 << 30, 5 << 30
"""Bytes free below which a disk counts as full, and below which it is remarked on."""
RAY_LIMIT = 0.95
"""Share of a disk in use from which Ray creates no more objects on it."""
FAIR_SHARED = 512 << 20
"""Bytes of /dev/shm from which Ray's store and several workers have enough for a start."""
CLOCK_WARNING, CLOCK_LIMIT = 5.0, 60.0
"""Seconds of difference between clocks that are remarked on, and at which runs of other machines look lost."""


def check_room(rooms: Sequence[Room]) -> Iterator[Check]:
    """Every disk that a run writes to."""
    worst = min(rooms, key=lambda room: room.free)
    used = 1 - worst.free / worst.total if worst.total else 1.0
    found = f"{format_bytes(worst.free)} free of {format_bytes(worst.total)} at {worst.path}"
    remedy = "delete what is not needed there, or name a disk with room (--storage, TMPDIR, WORLDMODEL_CACHE)"
    if worst.free < LEAST_DISK:
        yield failed("disk", f"the disk is full: {found}", remedy)
    elif worst.free < FAIR_DISK:
        yield warned("disk", found, remedy)
    elif used > RAY_LIMIT:
        yield warned("disk", f"{found}: above {RAY_LIMIT:.0%} in use Ray refuses to write objects there", remedy)
    else:
        yield passed("disk", found)


def check_shared_memory(room: Room | None) -> Iterator[Check]:
    """/dev/shm, which Ray and several workers of one machine talk through."""
    name = "/dev/shm"
    if room is None:
        yield skipped(name, "this machine has none")
    elif room.free < FAIR_SHARED:
        yield warned(
            name, f"{format_bytes(room.free)} free of {format_bytes(room.total)}: Ray falls back to a disk, and "
            "several workers of one machine may hang",
            "start the container with --shm-size=4g or more (Kubernetes: a memory volume at /dev/shm)",
        )  # fmt: skip
    else:
        yield passed(name, f"{format_bytes(room.free)} free of {format_bytes(room.total)}")


def check_gpus(gpus: GpuFacts, expected: float) -> Iterator[Check]:
    """The GPUs that torch finds. `expected`: how many Ray, or the request, counts on."""
    name = "GPU"
    if gpus.count and gpus.count >= expected and gpus.names:
        found = f"{gpus.count} x {gpus.names[0]}, driver {gpus.driver or 'unknown'}, CUDA {gpus.built_for}"
        yield passed(name, f"{found}; `make gpu-check` measures this GPU: ten minutes")
        return
    if not expected and not gpus.has_smi:
        yield skipped(name, "none here, none asked for")
        return
    found, remedy = _explain_gpus(gpus, expected)
    yield failed(name, found, remedy) if expected else warned(name, found, remedy)


def _explain_gpus(gpus: GpuFacts, expected: float) -> tuple[str, str]:
    wanted = f"{expected:g} expected, torch finds {gpus.count}" if expected else f"torch finds {gpus.count}"
    if not gpus.has_smi and not gpus.driver:
        return (
            f"{wanted}: the image has no NVIDIA driver (nvidia-smi is not there)",
            "use an image with the driver; for a container start it with --gpus all (NVIDIA's container toolkit)",
        )
    if not gpus.driver:
        return (
            f"{wanted}: the driver does not answer ({gpus.failure or 'no reason given'})",
            "wait until its installation has ended, or restart the machine; `nvidia-smi` must list the GPUs",
        )
    if gpus.built_for is None:
        return (
            f"{wanted}: torch was built without CUDA, the driver is {gpus.driver}",
            "install torch's CUDA build (`pip install torch` from PyPI on Linux), or use the project's image",
        )
    if gpus.count and gpus.names:
        return f"{wanted}", "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES: a GPU may be hidden or broken"
    return (
        f"{wanted}: torch for CUDA {gpus.built_for} cannot use driver {gpus.driver} "
        f"({gpus.failure or 'no GPU is listed'})",
        "update the driver, or install a torch built for an older CUDA; look at CUDA_VISIBLE_DEVICES",
    )


def check_versions(machines: Sequence[MachineFacts], own: Mapping[str, str]) -> Iterator[Check]:
    """Every machine's versions against this process's: `own`."""
    for what, wanted in own.items():
        others = {m.name: m.versions.get(what, "none") for m in machines if m.versions.get(what) != wanted}
        name = f"version of {what}"
        if not others:
            yield passed(name, f"{wanted} on {count_machines(len(machines))}")
            continue
        found = f"{wanted} here, " + ", ".join(f"{version} on {machine}" for machine, version in others.items())
        remedy = (
            "submit with `ray job submit --working-dir .`, so that all machines run the same code"
            if what == "worldmodel"
            else "use the same image on all machines (`ray up` again, or rebuild the image)"
        )
        yield warned(name, found, remedy) if what == "torch" else failed(name, found, remedy)


def check_clocks(skews: Mapping[str, float]) -> Iterator[Check]:
    """Clocks against this machine's: machine to seconds ahead."""
    if not skews:
        yield skipped("clocks", "one machine")
        return
    machine, skew = max(skews.items(), key=lambda item: abs(item[1]))
    found = f"{machine} is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
    remedy = "set the clocks (`timedatectl set-ntp true`, or chrony)"
    if abs(skew) >= CLOCK_LIMIT:
        yield failed("clocks", f"{found}: its runs would look lost, and signed requests fail at 15 minutes", remedy)
    elif abs(skew) >= CLOCK_WARNING:
        yield warned("clocks", found, remedy)
    else:
        yield passed("clocks", f"within {abs(skew):.1f} s of this machine's")


def count_machines(count: int) -> str:
    """A number of machines, in words."""
    return f"{count} machine{'s' * (count != 1)}"


def format_bytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
