"""A cluster on one's own machines: `ray up`, a grid as a job on two workers, one of them lost, and `ray down`.

Three hosts in namespaces, each with a real sshd (`lab/`); results lie in SeaweedFS, an S3 store that is not AWS's.
`lab/own_machines.yaml` says what a person sets; all else is `cluster/own-machines.yaml`. The hosts share this machine's
Python environment, so `cluster/install.sh` finds every package and installs nothing. The head is told to offer no CPU
and each worker one, so that two trials run at once, one on each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab.command import ENDED, Command, has_ended
from tests.cluster.lab.hosts import Host
from tests.cluster.lab.laptop import CHECKOUT, DASHBOARD, Laptop
from tests.cluster.lab.machine import make_key, make_link, require_lab
from tests.cluster.lab.store import KEY, SECRET, list_keys, read_json, serve_store
from tests.cluster.lab.waiting import Clock, wait_for
from worldmodel.games.toy import write_toy_games

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
HEAD, WORKERS, STRANGER = "10.77.0.11", ("10.77.0.12", "10.77.0.13"), "10.77.0.66"
GAMES = 20
UP_SECONDS, WORKERS_SECONDS, FIRST_STEP_SECONDS, GRID_SECONDS, DOWN_SECONDS = 150, 120, 120, 420, 90
GONE_SECONDS = 120
"""A worker's Ray ends itself once it has not heard of its head for a minute."""
BUCKET, GRID = "lab", "runs/lost"
CREDENTIALS = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
COMMAND = "ray job submit -- python tune/round1.py --name lost --experiments baseline 1a --preset laptop"


@dataclass(kw_only=True)
class Machines:
    """The lab, and what is known of it."""

    laptop: Laptop
    hosts: dict[str, Host]
    """By address."""
    store: str
    clock: Clock

    def tell(self) -> str:
        """The logs of all hosts."""
        return "".join(host.read_logs() for host in self.hosts.values())

    def read_runs(self) -> dict[str, dict[str, Any]]:
        """The records of the grid's trials, by their names."""
        keys = [key for key in list_keys(self.store, BUCKET, GRID) if key.endswith("/run.json")]
        return {key.split("/")[-2]: read_json(self.store, BUCKET, key) for key in keys}

    def find_training(self) -> str:
        """The name of a trial that trains; empty while there is none."""
        return next((name for name, record in self.read_runs().items() if record.get("state") == "running"), "")

    def list_nodes(self) -> list[str]:
        """Addresses of the machines that Ray has, the head's included."""
        status, said = self.laptop.try_to(
            f"ray list nodes --address {DASHBOARD} --format json --filter state=ALIVE 2>/dev/null", 60
        )
        return [node["node_ip"] for node in json.loads(said)] if status == 0 and said.startswith("[") else []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Three machines, a store, a laptop whose key opens the machines, and a stranger on the same network."""
    require_lab()
    make_link()
    folder = tmp_path_factory.mktemp("own")
    private, public = make_key(folder / "keys")
    with serve_store(folder / "store", BUCKET) as store:
        hosts = {address: _start(folder, address, public) for address in (HEAD, *WORKERS, STRANGER)}
        laptop = Laptop(folder / "laptop", {"AWS_ENDPOINT_URL_S3": store})
        for host in (*hosts.values(), laptop.host):
            (host.home / ".aws").mkdir()
            (host.home / ".aws/credentials").write_text(CREDENTIALS)
        (laptop.host.home / ".ssh/worldmodel_ed25519").write_bytes(private.read_bytes())
        (laptop.host.home / ".ssh/worldmodel_ed25519").chmod(0o600)
        laptop.write_cluster("own-machines.yaml", "own_machines.yaml", {"metadata": {"endpoint": store}})
        try:
            write_toy_games(laptop.host.home / "games", GAMES, seed=0)
            yield Machines(laptop=laptop, hosts=hosts, store=store, clock=Clock())
        finally:
            for host in (*hosts.values(), laptop.host):
                host.stop()


def _start(folder: Path, address: str, public: str) -> Host:
    resources = {"CPU": 0 if address == HEAD else 1}
    return Host(
        name=f"own{address.rsplit('.', 1)[-1]}", addresses=(address,), folder=folder / address, keys=public,
        environment={"RAY_OVERRIDE_RESOURCES": json.dumps(resources), "PYTHONPATH": "/root/worldmodel"},
    ).start()  # fmt: skip


@pytest.fixture(scope="module")
def up(lab: Machines) -> Iterator[Machines]:
    """The cluster, and the tunnel to its dashboard."""
    status, said = lab.laptop.host.run(
        "ray up cluster/own-machines.yaml", UP_SECONDS, folder=CHECKOUT, answer="y\n"
    )  # fmt: skip
    assert status == 0, f"{said[-6000:]}\n{lab.tell()}"
    lab.clock.note("ray up returned")
    tunnel = lab.laptop.begin("ray dashboard cluster/own-machines.yaml")
    wait_for(lambda: HEAD in lab.list_nodes(), 60, "the tunnel", tunnel.read)
    lab.clock.note("the tunnel is there")
    yield lab
    tunnel.stop()


@pytest.fixture(scope="module")
def games(up: Machines) -> str:
    """What `worldmodel upload` said, after both workers joined."""
    wait_for(lambda: set(up.list_nodes()) == {HEAD, *WORKERS}, WORKERS_SECONDS, "both workers", up.tell)
    up.clock.note("both workers are there")
    said = up.laptop.run(f"worldmodel upload /root/games s3://{BUCKET}/games --json", 120)
    up.clock.note("the games are there")
    return said


@pytest.fixture(scope="module")
def job(up: Machines, games: str) -> Iterator[Command]:
    """The grid's job, with a first step done."""
    up.clock.note("submitted")
    submitted = up.laptop.begin(COMMAND)
    found = wait_for(lambda: up.find_training() or has_ended(submitted), 300, "a first step", up.tell)
    assert found != ENDED, f"{up.tell()}\n{submitted.read()[-6000:]}"
    up.clock.note("first step")
    yield submitted
    submitted.stop()


@pytest.fixture(scope="module")
def lost(up: Machines, job: Command) -> tuple[str, str]:
    """A trial, and the worker that was lost while it trained there."""
    trial = up.find_training()
    name = up.read_runs()[trial]["hosts"][0]
    address = next(found for found, host in up.hosts.items() if host.name == name)
    up.hosts[address].stop()
    up.clock.note(f"{address} lost while it trained {trial}")
    return trial, address


@pytest.fixture(scope="module")
def finished(up: Machines, job: Command, lost: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """The records of all trials, after the job ended well."""
    status = job.wait(GRID_SECONDS, up.tell)
    assert status == 0, f"{up.tell()}\n{job.read()[-6000:]}"
    up.clock.note("the grid finished")
    return up.read_runs()


def test_games_go_to_a_store_that_is_not_amazons(up: Machines, games: str) -> None:
    assert json.loads(games)["sent"] >= 1
    assert list_keys(up.store, BUCKET, "games/")


def test_the_doctor_finds_all_machines_and_their_storage_in_order(up: Machines, games: str) -> None:
    status, said = up.laptop.try_to("ray job submit -- worldmodel doctor --no-rehearse", 120)
    up.clock.note("the doctor is done")
    assert status == 0, said
    assert all(up.hosts[address].name in said for address in WORKERS), said


def test_a_machine_without_the_token_is_refused(up: Machines) -> None:
    """The dashboard listens to the head alone; who gets there needs the token, and so does who joins Ray."""
    submit = "timeout 50 ray job submit -- echo hello"
    stranger, head = up.hosts[STRANGER], up.hosts[HEAD]
    status, said = stranger.run(f"RAY_ADDRESS=http://{HEAD}:8265 {submit}", 60)
    assert status != 0 and "hello" not in said, said
    status, said = head.run(f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN=another RAY_ADDRESS={DASHBOARD} {submit}", 60)
    assert status != 0 and "hello" not in said, said
    join = f"import ray; ray.init('{HEAD}:6379'); print(ray.nodes())"
    status, said = stranger.run(["timeout", "50", "python", "-c", join], 60)
    assert status != 0 and "NodeID" not in said, said
    assert HEAD in up.list_nodes()


def test_the_first_step_comes_within_two_minutes_of_the_submission(up: Machines, job: Command) -> None:
    assert up.clock.moments["first step"] - up.clock.moments["submitted"] < FIRST_STEP_SECONDS


def test_the_other_trial_stays_where_it_was(
    up: Machines, finished: dict[str, dict[str, Any]], lost: tuple[str, str]
) -> None:
    trial, address = lost
    others = [record["hosts"][0] for name, record in finished.items() if name != trial]
    assert set(others) <= {up.hosts[worker].name for worker in WORKERS if worker != address}


def test_a_trial_whose_machine_was_lost_goes_on_on_another(
    up: Machines, finished: dict[str, dict[str, Any]], lost: tuple[str, str]
) -> None:
    trial, address = lost
    assert {record["state"] for record in finished.values()} == {"finished"}
    assert [attempt["state"] for attempt in finished[trial]["attempts"]] == ["lost"]
    assert finished[trial]["attempts"][0]["step"] < finished[trial]["total_steps"]
    assert finished[trial]["hosts"][0] != up.hosts[address].name
    assert len(finished) == 2


def test_the_time_of_each_phase_is_told(up: Machines, job: Command, finished: dict[str, dict[str, Any]]) -> None:
    """By the job, at its first step; the record's phases are those of each trial's newest attempt."""
    [told] = re.findall(r"first training step after ([\d.]+) s", job.read())
    assert 0 < float(told) < FIRST_STEP_SECONDS
    found = json.loads(up.laptop.run(f"worldmodel show s3://{BUCKET}/{GRID} --timeline --json", 60))
    assert found["has_begun"]


def test_ray_down_leaves_no_ray_behind(up: Machines, finished: dict[str, dict[str, Any]]) -> None:
    up.laptop.run("ray down --yes cluster/own-machines.yaml", DOWN_SECONDS)
    up.clock.note("ray down returned")
    hosts = [host for host in up.hosts.values() if host.is_up]

    def find_ray() -> str:
        return "".join(host.run("pgrep -x raylet; pgrep -x gcs_server", 10)[1] for host in hosts)

    wait_for(lambda: not find_ray(), GONE_SECONDS, "the end of Ray on all machines", find_ray)
    up.clock.note("no machine runs Ray")
