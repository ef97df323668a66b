"""`python cluster/up.py` on a real machine: a failed start, a good one, what a job finds, and the keeper's end."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.lab.hosts import Host
from tests.cluster.lab.laptop import Laptop
from tests.cluster.lab.machine import make_key, make_link, require_lab
from tests.cluster.lab.waiting import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
HEAD = "10.77.0.21"
FILE = "cluster/own-machines.yaml"
UP = f"python {FILE.replace('own-machines.yaml', 'up.py')} {FILE}"
SETTINGS = """
cluster_name: alone
metadata: {data: "", storage: /root/runs, head_idle_minutes: 0.6}
provider: {head_ip: 10.77.0.21, worker_ips: []}
auth: {ssh_user: root}
"""
KEY = "a-key-that-stands-in-no-file"
SHOW = (
    "import json, os; print('SHOWN', json.dumps([os.getcwd(), os.environ['WORLDMODEL_STORAGE'],"
    " os.environ['RAY_JOB_STOP_WAIT_TIME_S'], len(os.environ['WANDB_API_KEY']), os.path.exists('tune/round1.py')]))"
)


class Pair:
    """A laptop and one machine."""

    def __init__(self, folder: Path) -> None:
        private, public = make_key(folder / "keys")
        self.head = Host(
            name="alone", addresses=(HEAD,), folder=folder / "head", keys=public,
            environment={"PYTHONPATH": "/root/worldmodel", "WANDB_API_KEY": KEY,
                         "WORLDMODEL_KEEPER_SECONDS": "2"},
        ).start()  # fmt: skip
        self.laptop = Laptop(folder / "laptop", {})
        key = self.laptop.host.home / ".ssh/worldmodel_ed25519"
        key.write_bytes(private.read_bytes())
        key.chmod(0o600)
        self.laptop.write_cluster("own-machines.yaml", str(self._write(folder)))
        self.set_up(None)

    @staticmethod
    def _write(folder: Path) -> Path:
        (folder / "settings.yaml").write_text(SETTINGS)
        return folder / "settings.yaml"

    def set_up(self, command: str | None) -> None:
        """Let the set-up be one command; None: what the file ships."""
        path = self.laptop.checkout / FILE
        config = yaml.safe_load(path.read_text())
        config["setup_commands"] = [command or "bash ~/worldmodel/cluster/install.sh"]
        path.write_text(yaml.safe_dump(config, sort_keys=False))

    @property
    def keeper_log(self) -> str:
        """What the keeper said."""
        file = self.head.home / ".worldmodel/keeper.log"
        return file.read_text() if file.exists() else ""

    def count_raylets(self) -> int:
        """How many Rays run on the machine."""
        return int(self.head.run("pgrep -xc raylet", 20)[1].split()[0])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A laptop without a token, and a machine that nobody has set up."""
    require_lab()
    make_link()
    found = Pair(tmp_path_factory.mktemp("alone"))
    for file in (found.laptop.host.home / ".ray").iterdir():
        file.unlink()
    yield found
    for host in (found.head, found.laptop.host):
        host.stop()


def test_a_failed_start_says_why_and_leaves_no_ray(pair: Pair) -> None:
    pair.set_up("echo no room >&2; exit 3")
    status, said = pair.laptop.try_to(UP, 180)
    assert status != 0 and "set-up failed" in said, said[-3000:]
    assert "no room" in said and f"ray down {FILE}" in said
    assert pair.count_raylets() == 0
    pair.set_up(None)


@pytest.fixture(scope="module")
def up(pair: Pair) -> Pair:
    """The cluster, and the tunnel to it."""
    status, said = pair.laptop.try_to(UP, 240)
    assert status == 0, said[-6000:]
    assert "ray job submit -- python tune/round1.py" in said
    return pair


def test_laptop_and_head_have_the_same_token_which_their_owners_alone_can_read(up: Pair) -> None:
    files = [host.home / ".ray/auth_token" for host in (up.laptop.host, up.head)]
    assert len({file.read_text() for file in files}) == 1 and len(files[0].read_text()) == 64
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)


def test_a_job_runs_in_the_checkout_with_the_settings_and_the_head_s_own_keys(up: Pair) -> None:
    (up.laptop.checkout / "show.py").write_text(SHOW)
    said = up.laptop.run(f'ray job submit -- python -c "{SHOW}"', 120)
    shown = json.loads(next(line for line in said.splitlines() if line.startswith("SHOWN")).removeprefix("SHOWN "))
    assert shown == ["/root/worldmodel", "/root/runs", "60", len(KEY), True]


def test_neither_the_key_nor_the_token_stands_in_a_file_of_ray_s(up: Pair) -> None:
    """After a job that had both: Ray's logs, its state, the keeper's and the settings; the token has its one place."""
    token = (up.head.home / ".ray/auth_token").read_text()
    files = [path for top in ("root", "tmp") for path in (up.head.folder / top).rglob("*") if path.is_file()]
    assert any(path.name == "raylet.out" for path in files)
    holding = {str(path.relative_to(up.head.folder)) for path in files if _holds(path, KEY) or _holds(path, token)}
    assert holding == {"root/.ray/auth_token", "root/.bashrc"}, "the latter is where this machine's shells have the key"


def _holds(path: Path, text: str) -> bool:
    return not path.is_symlink() and text.encode() in path.read_bytes()


def test_the_dashboard_is_on_the_head_s_loopback_alone(up: Pair) -> None:
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{HEAD}:8265/api/version", timeout=5)


def test_the_keeper_lets_a_job_end_and_then_ends_ray_and_says_why(up: Pair) -> None:
    up.laptop.run('ray job submit -- python -c "import time; time.sleep(45)"', 120)  # longer than the idle time
    assert "ending the cluster" not in up.keeper_log
    wait_for(lambda: up.count_raylets() == 0, 120, "the end of Ray", lambda: up.keeper_log)
    assert "there was no job for 1 minutes" in up.keeper_log
    [record] = (up.head.home / "runs/clusters").glob("alone-*.json")
    found = json.loads(record.read_text())
    assert (found["state"], found["reason"]) == ("ended", "there was no job for 1 minutes")
