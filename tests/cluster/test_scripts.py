"""The scripts that run on a cluster's machines: packages, the guard, the wait for a driver. On a home of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.launcher import CLUSTER, ROOT, read_file
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


def install(home: Path, *arguments: str, path: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """The set-up command, as `ray up` runs it."""
    script, paths = str(home / "worldmodel" / "cluster" / "install.sh"), f"{home / 'bin'}:{path}:/usr/bin:/bin"
    return run("bash", script, *arguments, cwd=home, check=check, HOME=str(home), PATH=paths)


def test_an_image_that_has_the_packages_is_used_as_it_is(machine: Path) -> None:
    shown = install(machine, path=str(BIN))
    assert "every package" in shown.stdout
    assert not (machine / "worldmodel" / ".venv").exists()


@pytest.fixture
def bare(machine: Path) -> Path:
    """Pythons that only pretend: they make environments whose pip writes down what it is asked, in `calls`."""
    write_program(machine / "bin", "inner", f'[ "$2" = pip ] && echo "$0 $*" >> {machine}/calls\nexit 0')
    fake = f'[ "$1" = -m ] && for last; do :; done && mkdir -p $last/bin && cp {machine}/bin/inner $last/bin/python'
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        write_program(machine / "bin", name, f'{fake} && exit 0\n[ "$1" = -c ]')
    return machine


def add_gpu(home: Path, driver: str, capability: str = "8.0") -> None:
    """A machine with an NVIDIA driver of some version, which can compile."""
    answers = f"case $1 in *driver*) echo {driver} ;; *) echo {capability} ;; esac"
    write_program(home / "bin", "nvidia-smi", answers)
    write_program(home / "bin", "gcc", "exit 0")


DRIVERS = {"": "whl/cpu", "595.58.03": "", "580.65.06": "", "570.86.15": "whl/cu126", "525.60.13": "whl/cu126"}


@pytest.mark.parametrize(("driver", "index"), DRIVERS.items())
def test_torch_is_built_for_the_machine_s_driver(driver: str, index: str, bare: Path) -> None:
    if driver:
        add_gpu(bare, driver)
    shown = install(bare).stdout
    [torch] = [call for call in (bare / "calls").read_text().splitlines() if call.endswith(" torch")]
    assert (index in torch) if index else ("index" not in torch)
    assert ("torch's" in shown) == bool(index), "another build than PyPI's is said"


@pytest.mark.parametrize(("driver", "capability"), [("470.57.02", "8.0"), ("570.86.15", "12.0")])
def test_a_driver_that_no_build_runs_on_is_one_message(driver: str, capability: str, bare: Path) -> None:
    add_gpu(bare, driver, capability)
    shown = install(bare, check=False)
    assert shown.returncode == 2 and not (bare / "calls").exists()
    assert f"found NVIDIA driver {driver[:3]}, expected 525" in shown.stderr.splitlines()[-1]


def test_another_driver_is_another_environment(bare: Path) -> None:
    add_gpu(bare, "570.86.15")
    install(bare)
    add_gpu(bare, "580.65.06")
    assert "up to date" not in install(bare).stdout
    assert "up to date" in install(bare).stdout


def make_old(home: Path, fetched: bool) -> None:
    """A machine whose Python is 3.10, and where uv can bring a newer one, or not."""
    for name in ("python3.13", "python3.12", "python3.11"):
        write_program(home / "bin", name, "exit 127")
    new = f"echo {home}/bin/new" if fetched else "exit 1"
    write_program(home / "bin", "new", (home / "bin" / "python3").read_text().split("\n", 1)[1])
    write_program(home / "bin", "uv", f'[ "$2" = install ] || {new}')
    old = f'[ "$1" = -m ] && mkdir -p .uv/bin && cp {home}/bin/inner .uv/bin/python && cp {home}/bin/uv .uv/bin/uv'
    write_program(home / "bin", "python3", f"{old} && exit 0\nexit 1")
    write_program(home / "bin", "apt-get", "exit 0")
    write_program(home / "bin", "sudo", 'exec "$@"')


def test_a_machine_with_an_old_python_gets_a_newer_one(bare: Path) -> None:
    make_old(bare, fetched=True)
    assert "older than 3.11" in install(bare).stdout
    calls = (bare / "calls").read_text().splitlines()
    assert re.search(r"\.uv/bin/python .*install .*uv==[\d.]+$", calls[0])
    assert calls[1].startswith(".venv/bin/python") and calls[1].endswith("torch")


def test_an_old_python_that_cannot_be_replaced_is_one_message(bare: Path) -> None:
    make_old(bare, fetched=False)
    shown = install(bare, check=False)
    assert shown.returncode == 2 and "choose a newer image" in shown.stderr.splitlines()[-1]


def test_a_head_with_unset_settings_installs_nothing(bare: Path) -> None:
    (bare / "ray_bootstrap_config.yaml").write_text(json.dumps(read_file("own-machines")))
    shown = install(bare, check=False)
    assert shown.returncode == 2 and not (bare / "calls").exists()
    assert "worldmodel doctor --cluster FILE" in shown.stderr


def test_an_image_with_another_version_gets_an_environment_once(bare: Path) -> None:
    machine, calls = bare, bare / "calls"
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
