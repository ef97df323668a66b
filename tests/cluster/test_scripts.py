"""The scripts that run on a cluster's machines: packages, the guard, the wait for a driver. On a home of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.launcher import CLUSTER, ROOT
from worldmodel.machine.mps import find_folder

BIN = Path(sys.executable).parent


def run(*command: str, cwd: Path = ROOT, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command with an environment of its own."""
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=check, timeout=60)


def write_program(folder: Path, name: str, text: str) -> None:
    """A program on the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine's home with the code that `ray up` brings, and programs of its own under bin."""
    checkout = tmp_path / "worldmodel"
    checkout.mkdir()
    shutil.copytree(CLUSTER, checkout / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, checkout / name)
    (tmp_path / "bin").mkdir()
    return tmp_path


def install(home: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """The set-up command, as `ray up` runs it."""
    script = str(home / "worldmodel" / "cluster" / "install.sh")
    return run("bash", script, *arguments, cwd=home, HOME=str(home), PATH=f"{home / 'bin'}:{path}:/usr/bin:/bin")


def test_an_image_that_has_the_packages_is_used_as_it_is(machine: Path) -> None:
    shown = install(machine, path=str(BIN))
    assert "every package" in shown.stdout
    assert not (machine / "worldmodel" / ".venv").exists()


def test_an_image_with_another_version_gets_an_environment_once(machine: Path) -> None:
    """A python that only pretends: it makes an environment whose pip writes down what it is asked."""
    calls = machine / "calls"
    write_program(machine / "bin", "inner", f'[ "$2" = pip ] && echo "$*" >> {calls}\nexit 0')
    fake = f'[ "$1" = -m ] && mkdir -p .venv/bin && cp {machine}/bin/inner .venv/bin/python && exit 0\n[ "$1" = -c ]'
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        write_program(machine / "bin", name, fake)
    install(machine)
    first = calls.read_text().splitlines()
    assert "torch" in first[0] and first[1].endswith("--editable .")
    assert all("--constraint constraints.txt" in call for call in first)
    assert "up to date" in install(machine).stdout and calls.read_text().splitlines() == first, "cached over restarts"
    install(machine, "gcp")
    with (machine / "worldmodel" / "constraints.txt").open("a") as file:
        file.write("something==1\n")
    install(machine)
    assert len(calls.read_text().splitlines()) == 2 * len(first), "another list of packages is another environment"
    assert (machine / ".bashrc").read_text().count("RAY_AUTH_MODE=token") == 1


def test_packages_of_another_version_are_missed(machine: Path) -> None:
    check = [sys.executable, str(machine / "worldmodel" / "cluster" / "packages.py")]
    assert run(*check).returncode == 0
    assert run(*check, "gcp", "azure").returncode == 0
    file = machine / "worldmodel" / "constraints.txt"
    pinned = [line for line in file.read_text().splitlines() if line.startswith("ray==")]
    file.write_text(file.read_text().replace(pinned[0], "ray==1.0"))
    assert run(*check, check=False).returncode == 1


def guard(home: Path, minutes: str = "0") -> None:
    """Start the guard on a machine whose shutdown writes a file."""
    run("bash", str(CLUSTER / "guard.sh"), "start", minutes, HOME=str(home), PATH=f"{home / 'bin'}:/usr/bin:/bin",
        WORLDMODEL_SHUTDOWN=f"touch {home}/down", WORLDMODEL_GUARD_SECONDS="0.1")  # fmt: skip


def wait_for(path: Path, seconds: float) -> bool:
    """Whether a file appears."""
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    return path.exists()


def test_a_machine_without_ray_ends_itself_and_says_so(machine: Path) -> None:
    write_program(machine / "bin", "pgrep", "exit 1")
    guard(machine)
    assert wait_for(machine / "down", 20)
    assert "no Ray for 0 minutes" in (machine / ".worldmodel" / "guard.log").read_text()


def test_a_machine_with_ray_stays_until_ray_is_gone_and_one_guard_is_enough(machine: Path) -> None:
    write_program(machine / "bin", "pgrep", f'[ "$*" = "-x raylet" ] && [ ! -e {machine}/gone ]')
    script = (CLUSTER / "guard.sh").read_text().replace("minutes * 60", "minutes * 2")  # minutes of two seconds
    (machine / "guard.sh").write_text(script)
    environment = {"HOME": str(machine), "PATH": f"{machine / 'bin'}:/usr/bin:/bin",
                   "WORLDMODEL_SHUTDOWN": f"touch {machine}/down", "WORLDMODEL_GUARD_SECONDS": "0.1"}  # fmt: skip
    note = machine / ".worldmodel" / "guard.pid"
    run("bash", str(machine / "guard.sh"), "start", "1", **environment)
    first = int(note.read_text())
    run("bash", str(machine / "guard.sh"), "start", "1", **environment)
    assert not wait_for(machine / "down", 3.5)
    assert not Path(f"/proc/{first}").exists() or "Z" in Path(f"/proc/{first}/stat").read_text()
    (machine / "gone").touch()
    assert wait_for(machine / "down", 20)


def test_the_guard_takes_over_from_the_shutdown_that_the_machine_was_started_with(machine: Path) -> None:
    write_program(machine / "bin", "sudo", f'echo "$*" >> {machine}/asked; [ "$2" = -c ] || touch {machine}/down')
    write_program(machine / "bin", "pgrep", "exit 1")
    environment = {"HOME": str(machine), "PATH": f"{machine / 'bin'}:/usr/bin:/bin", "WORLDMODEL_GUARD_SECONDS": "0.1"}
    run("bash", str(CLUSTER / "guard.sh"), "start", "0", **environment)
    assert wait_for(machine / "down", 20)
    assert (machine / "asked").read_text().splitlines() == ["shutdown -c", "shutdown -h now"]


def test_an_image_without_a_driver_is_named_after_a_bounded_wait(machine: Path) -> None:
    script = str(CLUSTER / "wait_for_driver.sh")
    path = f"{machine / 'bin'}:/usr/bin:/bin"
    shown = run("bash", script, "0", check=False, PATH=path)
    assert shown.returncode == 2 and "no driver" in shown.stderr
    write_program(machine / "bin", "nvidia-smi", "echo GPU 0: A100")
    assert "A100" in run("bash", script, "5", PATH=path).stdout


@pytest.mark.parametrize("gpus", ["GPU 0: A100", "GPU 0: A100\n  MIG 1g.5gb", "", None])
def test_trials_share_a_gpu_at_once_where_mps_can_run(machine: Path, gpus: str | None) -> None:
    calls, path = machine / "calls", f"{machine / 'bin'}:/usr/bin:/bin"
    if gpus is not None:
        write_program(machine / "bin", "nvidia-smi", f"printf '{gpus}'")
        write_program(
            machine / "bin", "nvidia-cuda-mps-control", f'echo "$* $CUDA_MPS_PIPE_DIRECTORY" > {calls}; exit 1'
        )
    shown = run("bash", str(CLUSTER / "mps.sh"), PATH=path)
    assert not shown.stdout + shown.stderr
    expected = [f"-d {find_folder()}\n"] if gpus == "GPU 0: A100" else []
    assert ([calls.read_text()] if calls.exists() else []) == expected


def test_ray_is_started_beside_mps_on_every_launched_machine() -> None:
    assert "\nbash cluster/mps.sh\n" in (CLUSTER / "environment.sh").read_text()
    assert "\n  bash cluster/mps.sh" in (CLUSTER / "skypilot.yaml").read_text()


@pytest.mark.parametrize("script", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_every_script_is_bash_that_parses(script: Path) -> None:
    run("bash", "-n", str(script), PATH=os.environ["PATH"])
