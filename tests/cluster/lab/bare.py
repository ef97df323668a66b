"""A rented machine as it comes: Python 3.10, a driver of 2023, a slow disk, and none of our packages.

Nothing can be downloaded here, so programs that would install something write it down (`bin/bare`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.lab.hosts import BIN, Host

LAB = Path(__file__).parent


def make_bare_host(name: str, address: str, folder: Path, keys: str) -> Host:
    """Such a machine, switched off."""
    return Host(
        name=name, addresses=(address,), folder=folder, keys=keys, programs=BIN / "bare", has_packages=False,
        environment={
            "LD_PRELOAD": f"/root/{build_slow_disk(folder / 'root').name}",
            "WORLDMODEL_LAB_PYTHON": sys.executable,
            "WORLDMODEL_LAB_BASE_PYTHON": sys._base_executable,  # type: ignore[attr-defined]
        },
    )  # fmt: skip


def build_slow_disk(folder: Path) -> Path:
    """The library that makes a disk slow; skips where there is no C compiler."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("not installed: gcc")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "slow_disk.so"
    source = str(LAB / "slow_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True)
    return library
