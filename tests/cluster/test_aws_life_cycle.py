"""The life of a cluster on AWS, from nothing to a finished grid and back, by the commands that people type.

moto answers the API of EC2, and each instance is a host in namespaces with a real sshd (`lab/`). What a person sets,
the images, CPUs that fit this machine and shorter waits are changed by `lab/aws.yaml`; all else is `cluster/a100.yaml`.
The hosts share this machine's Python environment, as machines of one image do, so `cluster/install.sh` finds every
package and installs nothing. There is no GPU: trials train on the CPUs of what would be a p4d machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.lab.cloud import ENDPOINT, REGION, Cloud, run_cloud
from tests.cluster.lab.command import ENDED, Command, has_ended
from tests.cluster.lab.laptop import Laptop
from tests.cluster.lab.machine import make_link, require_lab
from tests.cluster.lab.store import KEY, SECRET, list_keys, read_json, serve_store, upload_folder
from tests.cluster.lab.waiting import Clock, wait_for
from tune.grid import ROUND1
from worldmodel.games.toy import write_toy_games

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
GAMES = 20
UP_SECONDS, FIRST_STEP_SECONDS, GRID_SECONDS, IDLE_SECONDS, END_SECONDS = 180, 120, 420, 150, 240
BUCKET, GRID = "lab", "runs/round1"


@dataclass(kw_only=True)
class Life:
    """A cluster's whole life, stage by stage; the stages are run in order, by the fixtures below."""

    cloud: Cloud
    laptop: Laptop
    store: str
    clock: Clock

    def read_run(self, trial: str) -> dict[str, Any]:
        """A trial's record; empty where there is none yet."""
        return read_json(self.store, BUCKET, f"{GRID}/{trial}/run.json")

    def find_training(self) -> str:
        """The name of a trial that trains; empty while there is none."""
        keys = [key for key in list_keys(self.store, BUCKET, GRID) if key.endswith("/run.json")]
        records = (read_json(self.store, BUCKET, key) for key in keys)
        return next((record["name"] for record in records if record.get("state") == "running"), "")

    def wait(self, look: Any, seconds: float, what: str) -> Any:
        """As `wait_for`, with the cloud's state and all hosts' logs where it fails."""
        return wait_for(look, seconds, what, self.cloud.tell)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A cloud without instances, a store with games, and a laptop."""
    require_lab()
    make_link()
    folder = tmp_path_factory.mktemp("aws")
    write_toy_games(folder / "games", GAMES, seed=0)
    with serve_store(folder / "store", BUCKET) as store:
        upload_folder(store, folder / "games", BUCKET, "games")
        shared = {"AWS_ENDPOINT_URL": ENDPOINT, "AWS_ENDPOINT_URL_S3": store, "AWS_REGION": REGION}
        machine = {**shared, "WORLDMODEL_KEEPER_SECONDS": "2", "PYTHONPATH": "/root/worldmodel"}
        with run_cloud(folder / "cloud", KEY, SECRET, machine) as cloud:
            cloud.add_identities("worldmodel-head", "worldmodel-worker")
            laptop = Laptop(
                folder / "laptop", {**shared, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            )  # fmt: skip
            laptop.write_cluster("a100.yaml", "aws.yaml")
            try:
                yield Life(cloud=cloud, laptop=laptop, store=store, clock=Clock())
            finally:
                laptop.host.stop()


@pytest.fixture(scope="module")
def up(life: Life) -> Life:
    """The first of the two commands."""
    status, said = life.laptop.host.run(
        "ray up cluster/a100.yaml", UP_SECONDS, folder="/root/checkout", answer="y\n"
    )  # fmt: skip
    assert status == 0, f"{said[-6000:]}\n{life.cloud.tell()}"
    life.clock.note("ray up returned")
    return life


@pytest.fixture(scope="module")
def job(up: Life) -> Iterator[Command]:
    """The second, through the tunnel to the dashboard."""
    tunnel = up.laptop.begin("ray dashboard cluster/a100.yaml")
    wait_for(lambda: up.laptop.try_to("ray job list", 60)[0] == 0, 60, "the tunnel", tunnel.read)
    up.clock.note("the tunnel is there")
    submitted = up.laptop.begin("ray job submit -- python tune/round1.py")
    yield submitted
    submitted.stop()
    tunnel.stop()


@pytest.fixture(scope="module")
def trained(up: Life, job: Command) -> str:
    """A trial that trains."""
    found = str(up.wait(lambda: up.find_training() or has_ended(job), 300, "a first step"))
    assert found != ENDED, f"{up.cloud.tell()}\n{job.read()[-4000:]}"
    up.clock.note("first step")
    return found


@pytest.fixture(scope="module")
def reclaimed(up: Life, trained: str) -> tuple[str, str]:
    """A trial, and the spot machine that was taken away while it trained there."""
    trial = up.wait(up.find_training, 60, "a trial that trains")
    host = up.read_run(trial)["hosts"][0]
    identity = next(found for found, one in up.cloud.hosts.items() if one.name == host)
    up.cloud.reclaim(identity)
    up.clock.note(f"{identity} reclaimed while it trained {trial}")
    return trial, identity


@pytest.fixture(scope="module")
def finished(up: Life, job: Command, reclaimed: tuple[str, str]) -> dict[str, Any]:
    """The grid's record, after the job ended well."""
    status = job.wait(GRID_SECONDS, up.cloud.tell)
    assert status == 0, f"{up.cloud.tell()}\n{job.read()[-6000:]}"
    up.clock.note("the grid finished")
    return read_json(up.store, BUCKET, f"{GRID}/grid.json")


@pytest.fixture(scope="module")
def ended(up: Life, finished: dict[str, Any]) -> dict[str, Any]:
    """The cluster's record, after its head went by itself."""
    up.wait(lambda: not up.cloud.find("worker"), IDLE_SECONDS, "the end of idle workers")
    up.clock.note("idle workers are gone")
    assert up.cloud.find("head"), "the head ended before its workers"
    up.wait(lambda: not up.cloud.find("head"), END_SECONDS, "the end of an idle head")
    up.clock.note("the head is gone")
    (key,) = list_keys(up.store, BUCKET, "runs/clusters/")
    return read_json(up.store, BUCKET, key)


def test_ray_up_starts_the_head_alone(up: Life) -> None:
    heads, workers = up.cloud.find("head"), up.cloud.find("worker")
    assert [head["InstanceType"] for head in heads] == ["m5.xlarge"]
    assert workers == []


def test_a_job_brings_spot_machines_and_trains_within_two_minutes(up: Life, trained: str) -> None:
    workers = up.cloud.find("worker")
    assert {worker["InstanceType"] for worker in workers} == {"p4d.24xlarge"}
    assert {worker["InstanceLifecycle"] for worker in workers} == {"spot"}
    assert up.clock.moments["first step"] - up.clock.moments["ray up returned"] < FIRST_STEP_SECONDS


def test_a_trial_whose_machine_was_reclaimed_goes_on_on_another(
    up: Life, reclaimed: tuple[str, str], finished: dict[str, Any]
) -> None:
    trial, identity = reclaimed
    record = up.read_run(trial)
    assert [attempt["state"] for attempt in record["attempts"]] == ["lost"]
    assert record["attempts"][0]["step"] < record["total_steps"]
    assert record["state"] == "finished"
    assert record["hosts"][0] != up.cloud.hosts[identity].name


def test_the_grid_finishes_with_all_its_trials(up: Life, finished: dict[str, Any]) -> None:
    assert finished["state"] == "finished"
    results = read_json(up.store, BUCKET, f"{GRID}/results.json")
    assert [trial["name"] for trial in results["trials"]] == [f"{name}-seed0" for name in ROUND1]
    assert all(trial["metrics"] for trial in results["trials"])


def test_the_job_tells_the_time_of_each_phase(up: Life, job: Command, finished: dict[str, Any]) -> None:
    assert "first training step after" in job.read()
    found = json.loads(up.laptop.run(f"worldmodel show s3://{BUCKET}/{GRID} --timeline --json", 60))
    assert found["has_begun"]
    assert {"waiting for machines", "doctor", "first step"} <= {phase["name"] for phase in found["phases"]}
    assert 0 < found["seconds"] < FIRST_STEP_SECONDS


def test_the_head_ends_itself_and_says_why_and_what_it_cost(ended: dict[str, Any]) -> None:
    assert ended["state"] == "ended"
    assert "no job" in ended["reason"]
    assert ended["most_machines"]["head"] == 1
    assert ended["most_machines"]["a100"] in (1, 2)
    assert ended["cost_usd"] > 0


def test_nothing_is_left(up: Life, ended: dict[str, Any]) -> None:
    assert {instance["State"]["Name"] for instance in up.cloud.list_instances()} == {"terminated"}
    assert up.cloud.ec2.describe_volumes()["Volumes"] == []
    up.wait(lambda: not any(host.is_up for host in up.cloud.hosts.values()), 30, "the end of all hosts")
    assert up.cloud.failures == []
