"""What a machine says of itself: versions, disks, shared memory, GPUs and driver; plain values, sent to others."""

from __future__ import annotations

import platform
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import worldmodel

SHARED_MEMORY = Path("/dev/shm")
SMI = "nvidia-smi"
"""NVIDIA's command line: it comes with the driver, so an image without it has none."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """A place on a disk."""

    path: str
    free: int
    """Bytes."""
    total: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class GpuFacts:
    """What a machine's GPUs are to torch and to the driver."""

    count: int
    """GPUs that torch finds."""
    names: tuple[str, ...]
    """Their names, as torch reports them."""
    built_for: str | None
    """CUDA version that torch was built for; None: a build without CUDA."""
    has_smi: bool
    """Whether nvidia-smi is there."""
    driver: str
    """Version of the driver; empty: it does not answer."""
    failure: str
    """What the driver, or torch starting CUDA, complained of; empty: nothing."""


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """One machine."""

    name: str
    versions: dict[str, str]
    """"Ray", "Python", "worldmodel" (with a hash of its source), "torch" to their versions."""
    rooms: tuple[Room, ...]
    """The disks of the places that a run writes to."""
    shared_memory: Room | None
    """None: the machine has no /dev/shm."""
    gpus: GpuFacts


def describe_machine(places: Sequence[str] = ()) -> MachineFacts:
    """This machine. `places`: local folders that a run will write to, besides the home and temporary folder."""
    folders = [*map(Path, places), Path.home(), Path(tempfile.gettempdir())]
    return MachineFacts(
        name=socket.gethostname(),
        versions=read_versions(),
        rooms=tuple(_measure_disks(folders)),
        shared_memory=measure_room(SHARED_MEMORY) if SHARED_MEMORY.exists() else None,
        gpus=describe_gpus(),
    )


@cache
def read_versions() -> dict[str, str]:
    """The versions that must be the same everywhere."""
    from importlib.metadata import version

    from worldmodel.run.record import hash_source

    return {
        "Ray": version("ray"),
        "Python": platform.python_version(),
        "worldmodel": f"{worldmodel.__version__} ({hash_source()[:12]})",
        "torch": version("torch").partition("+")[0],
    }


def measure_room(path: Path) -> Room:
    """The disk under a path that need not exist yet."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    usage = shutil.disk_usage(there)
    return Room(path=str(path), free=usage.free, total=usage.total)


def _measure_disks(folders: Sequence[Path]) -> list[Room]:
    """One room for each disk: the first folder on it."""
    found: dict[int, Room] = {}
    for folder in folders:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        found.setdefault(there.stat().st_dev, measure_room(folder))
    return list(found.values())


def describe_gpus() -> GpuFacts:
    """The GPUs of this machine, without computing on them."""
    import torch

    driver, failure = _ask_driver()
    count = torch.cuda.device_count()
    names: tuple[str, ...] = ()
    if count:
        try:
            names = tuple(torch.cuda.get_device_name(number) for number in range(count))
        except RuntimeError as error:
            failure = failure or str(error).splitlines()[0]
    return GpuFacts(
        count=count, names=names, built_for=torch.version.cuda, has_smi=shutil.which(SMI) is not None, driver=driver,
        failure=failure,
    )  # fmt: skip


def _ask_driver() -> tuple[str, str]:
    """The driver's version, or what it answers instead."""
    import pynvml

    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return "", str(error)
    return version if isinstance(version, str) else str(version, "ascii"), ""
