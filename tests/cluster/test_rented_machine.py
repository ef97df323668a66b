"""The recipe of `cluster/README.md` for one rented machine, word for word, from a laptop to a bare host and back.

The machine has Python 3.10, an old driver, a slow disk and none of our packages (`lab/bare.py`). What a person sets is
set to two small trials on CPUs.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.lab.bare import make_bare_host
from tests.cluster.lab.hosts import Host
from tests.cluster.lab.laptop import Laptop
from tests.cluster.lab.machine import make_key, make_link, require_lab
from tests.cluster.lab.waiting import Clock, wait_for
from tests.cluster.launcher import CLUSTER
from worldmodel.games.toy import write_toy_games

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
ADDRESS, GAMES = "10.77.0.31", 20
SET = {
    "HOST": f"ubuntu@{ADDRESS}", "GAMES": "/root/games",
    "OPTIONS": "--preset laptop --experiments baseline 1a",
}  # fmt: skip
COPY_SECONDS, INSTALL_SECONDS, START_SECONDS, GRID_SECONDS = 60, 60, 30, 300
SLOW_SECONDS = 0.5


@dataclass(kw_only=True)
class Rented:
    """A laptop, a machine, and what each command of the recipe said."""

    laptop: Laptop
    host: Host
    clock: Clock

    def type(self, command: str, seconds: float) -> str:
        """A command of the recipe, in the laptop's checkout; what it said."""
        exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in SET.items())
        said = self.laptop.run(f"export {exports}\n{command}", seconds)
        self.clock.note(command.split("\n")[0])
        return said

    def read(self, name: str) -> str:
        """A file in the machine's home; empty while there is none."""
        path = self.host.home / name
        return path.read_text(errors="replace") if path.exists() else ""


def read_recipe() -> list[str]:
    """The commands of the README's section, the exports first."""
    section = (CLUSTER / "README.md").read_text().split("## One rented machine\n")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    return "\n".join(lines).replace("\\\n", "\0").replace("\n", "\1").replace("\0", "\\\n").split("\1")


@pytest.fixture(scope="module")
def rented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rented]:
    """A laptop with games, and a machine that its key opens."""
    require_lab()
    make_link()
    folder = tmp_path_factory.mktemp("rented")
    private, public = make_key(folder / "keys")
    host = make_bare_host("rented", ADDRESS, folder / "host", public).start()
    laptop = Laptop(folder / "laptop", {})
    (laptop.host.home / ".ssh/id_ed25519").write_bytes(private.read_bytes())
    (laptop.host.home / ".ssh/id_ed25519").chmod(0o600)
    (laptop.host.home / ".ssh/config").write_text("StrictHostKeyChecking accept-new\n")
    write_toy_games(laptop.host.home / "games", GAMES, seed=0)
    try:
        yield Rented(laptop=laptop, host=host, clock=Clock())
    finally:
        for machine in (host, laptop.host):
            machine.stop()


@pytest.fixture(scope="module")
def installed(rented: Rented) -> str:
    """What `install.sh` said, after code and games were copied."""
    _, code, games, install, _, _ = read_recipe()
    rented.type(code, COPY_SECONDS)
    rented.type(games, COPY_SECONDS)
    return rented.type(install, INSTALL_SECONDS)


@pytest.fixture(scope="module")
def fetched(rented: Rented, installed: str) -> Path:
    """The laptop's folder of results, after the grid ended."""
    *_, start, fetch = read_recipe()
    rented.type(start, START_SECONDS)
    assert not _has_ended(rented), rented.read("round1.log")[-3000:]
    wait_for(lambda: _has_ended(rented), GRID_SECONDS, "the grid's end", lambda: rented.read("round1.log")[-3000:])
    rented.clock.note("the grid ended")
    rented.type(fetch, COPY_SECONDS)
    return rented.laptop.checkout / "runs"


def _has_ended(rented: Rented) -> bool:
    return rented.host.run(["pgrep", "-f", "tune/round1.py"], 60)[0] != 0


def test_the_recipe_is_five_commands() -> None:
    exports, *commands = read_recipe()
    assert exports.startswith("export HOST=")
    assert all(f"{name}=" in exports for name in SET)
    assert len(commands) == 5


def test_python_3_10_and_an_old_driver_get_what_fits_them(rented: Rented, installed: str) -> None:
    asked = rented.read("asked").splitlines()
    assert [line for line in asked if re.fullmatch(r"uv python install .*3\.12", line)], asked
    assert [line for line in asked if "torch" in line and "whl/cu126" in line], asked


def test_the_machine_s_disk_is_slow(rented: Rented, installed: str) -> None:
    """Else the tests here would say nothing of slow disks."""
    _, said = rented.laptop.try_to(f"ssh {SET['HOST']} dd if=/dev/zero of=big bs=1M count=6 conv=fsync", 30)
    [seconds] = re.findall(r"copied, ([\d.]+) s", said)
    assert float(seconds) > SLOW_SECONDS, said


def test_a_grid_s_results_come_back_to_the_laptop(rented: Rented, fetched: Path) -> None:
    assert not (fetched / "blocks").exists(), "encoded games would be gigabytes"
    results = json.loads((fetched / "round1/results.json").read_text())
    assert [trial["name"] for trial in results["trials"]] == ["baseline-seed0", "1a-seed0"]
    assert all(trial["metrics"] for trial in results["trials"])
    shown = json.loads(rented.laptop.run("worldmodel show round1/baseline-seed0 --storage runs --json", 60))
    assert shown["state"] == "finished"


def test_the_same_command_again_changes_nothing(rented: Rented, fetched: Path) -> None:
    before = (fetched / "round1/results.json").read_bytes()
    *_, start, fetch = read_recipe()
    rented.type(start, START_SECONDS)
    wait_for(lambda: _has_ended(rented), 120, "the grid's end", lambda: rented.read("round1.log")[-3000:])
    rented.type(fetch, COPY_SECONDS)
    assert json.loads((fetched / "round1/results.json").read_bytes())["trials"] == json.loads(before)["trials"]
