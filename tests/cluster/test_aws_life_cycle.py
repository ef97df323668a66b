"""The life of a cluster on AWS, from nothing to a finished grid and back, by the commands that people type.

moto answers the API of EC2, and each instance is a host in namespaces with a real sshd (`lab/`). What a person sets,
the images, CPUs that fit this machine and shorter waits are changed by `lab/aws.yaml`; all else is `cluster/a100.yaml`.
The hosts share this machine's Python environment, as machines of one image do, so `cluster/install.sh` finds every
package and installs nothing. There is no GPU: trials train on the CPUs of what would be a p4d machine.

The cloud is a harsh one: the service-linked role for spot machines is missing; once it exists there is no capacity, so
that a machine on demand comes first; UserData runs after Ray has started, and its `shutdown -h +60` ends a machine
after three minutes unless it is cancelled; then there are spot machines, and one is taken away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.lab.cloud import ENDPOINT, NO_CAPACITY, NO_ROLE, REGION, Cloud, read_tags, run_cloud
from tests.cluster.lab.command import ENDED, Command, has_ended
from tests.cluster.lab.laptop import Laptop
from tests.cluster.lab.machine import make_link, require_lab
from tests.cluster.lab.store import KEY, SECRET, list_keys, read_json, serve_store, upload_folder
from tests.cluster.lab.waiting import Clock, wait_for
from tune.grid import ROUND1
from worldmodel.games.toy import write_toy_games

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]
GAMES = 20
UP_SECONDS, FIRST_STEP_SECONDS, GRID_SECONDS, IDLE_SECONDS, END_SECONDS = 180, 180, 600, 150, 240
REFUSED_SECONDS = 150
SUBMIT = "ray job submit -- python tune/round1.py"
LAB_MINUTE = "3"
"""Seconds of a minute of `shutdown`."""
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

    def find_market(self, record: dict[str, Any]) -> str:
        """Whether the machine of a run is spot or on demand."""
        name = next(iter(record["hosts"]), "")
        return next((self.markets[one] for one, host in self.cloud.hosts.items() if host.name == name), "")

    @property
    def markets(self) -> dict[str, str]:
        """Identity of every instance so far, to spot or on demand."""
        return {one["InstanceId"]: one.get("InstanceLifecycle", "on demand") for one in self.cloud.list_instances()}

    def find_training(self, *markets: str) -> str:
        """The name of a trial that has done a step on a machine of these markets; empty while there is none."""
        keys = [key for key in list_keys(self.store, BUCKET, GRID) if key.endswith("/run.json")]
        records = filter(has_stepped, (read_json(self.store, BUCKET, key) for key in keys))
        return next((record["name"] for record in records if self.find_market(record) in markets), "")

    def list_problems(self) -> str:
        """What the head has noted of machines that did not come."""
        keys = list_keys(self.store, BUCKET, "runs/clusters/")
        return "\n".join(problem for key in keys for problem in read_json(self.store, BUCKET, key)["problems"])

    def wait(self, look: Any, seconds: float, what: str) -> Any:
        """As `wait_for`, with the cloud's state and all hosts' logs where it fails."""
        return wait_for(look, seconds, what, self.cloud.tell)


def has_stepped(record: dict[str, Any]) -> bool:
    """Whether a run trains, and its first step is done and written down."""
    return record.get("state") == "running" and [phase["name"] for phase in record["phases"]][-1:] == ["first step"]


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
        machine = {
            **shared, "WORLDMODEL_KEEPER_SECONDS": "2", "PYTHONPATH": "/root/worldmodel",
            "WORLDMODEL_LAB_MINUTE": LAB_MINUTE,
        }  # fmt: skip
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
def tunnel(up: Life) -> Iterator[Command]:
    """The way to the dashboard, as long as the head is there."""
    tunnel = up.laptop.begin("ray dashboard cluster/a100.yaml")
    wait_for(lambda: up.laptop.try_to("ray job list", 60)[0] == 0, 60, "the tunnel", tunnel.read)
    up.clock.note("the tunnel is there")
    yield tunnel
    tunnel.stop()


@pytest.fixture(scope="module")
def refused(up: Life, tunnel: Command) -> str:
    """The second command's output, in an account without the role for spot machines."""
    up.cloud.refusals["spot"] = NO_ROLE
    status, said = up.laptop.try_to(SUBMIT, REFUSED_SECONDS)
    assert status != 0, f"{up.cloud.tell()}\n{said[-4000:]}"
    up.clock.note("no role: refused")
    return said


@pytest.fixture(scope="module")
def job(up: Life, refused: str) -> Iterator[Command]:
    """The second command again, with the role, while there is no spot capacity until a machine on demand came."""
    up.cloud.refusals["spot"] = NO_CAPACITY
    submitted = up.laptop.begin(SUBMIT)
    up.clock.note("submitted again")
    up.wait(lambda: "no such machine free" in up.list_problems(), REFUSED_SECONDS, "the words on capacity")
    up.clock.note("no capacity: told")
    up.wait(lambda: up.cloud.find("worker") or has_ended(submitted), REFUSED_SECONDS, "a machine on demand")
    up.cloud.refusals.clear()
    up.clock.note("a machine on demand is there, and spot machines are to be had")
    yield submitted
    submitted.stop()


@pytest.fixture(scope="module")
def trained(up: Life, job: Command) -> str:
    """A trial that trains."""
    found = str(up.wait(lambda: up.find_training("spot", "on demand") or has_ended(job), 300, "a first step"))
    assert found != ENDED, f"{up.cloud.tell()}\n{job.read()[-4000:]}"
    up.clock.note("first step")
    return found


@pytest.fixture(scope="module")
def reclaimed(up: Life, trained: str) -> tuple[str, str]:
    """A trial, and the spot machine that was taken away while it trained there."""
    trial = up.wait(lambda: up.find_training("spot"), 120, "a trial on a spot machine")
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


def test_a_missing_role_ends_the_job_with_its_command(up: Life, refused: str) -> None:
    assert "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com" in " ".join(refused.split())
    assert "create-service-linked-role" in up.list_problems()


def test_a_job_waits_for_capacity_and_the_record_says_so(up: Life, job: Command) -> None:
    assert "try again later" in up.list_problems()
    assert has_ended(job) != ENDED


def test_without_spot_a_machine_comes_on_demand_and_trains(up: Life, trained: str) -> None:
    workers = [one for one in up.cloud.list_instances() if read_tags(one)["ray-node-type"] == "worker"]
    assert {worker["InstanceType"] for worker in workers} == {"p4d.24xlarge"}
    assert "InstanceLifecycle" not in min(workers, key=lambda one: one["LaunchTime"])
    came = up.clock.moments["a machine on demand is there, and spot machines are to be had"]
    assert up.clock.moments["first step"] - came < FIRST_STEP_SECONDS


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


def test_user_data_that_runs_after_ray_ends_no_machine(up: Life, finished: dict[str, Any]) -> None:
    logs = {name: host.home / "shutdown.log" for name, host in up.cloud.hosts.items()}
    asked = {name: path.read_text().splitlines() for name, path in logs.items() if path.exists()}
    assert not [name for name, lines in asked.items() if "ended" in lines]
    [head] = [asked[instance["InstanceId"]] for instance in up.cloud.find("head")]
    planned = head.index("-h +60")
    assert "-c" in head[:planned], "the lab's UserData was not late"
    assert "-c" in head[planned:]


def test_the_job_tells_the_time_of_each_phase(up: Life, job: Command, finished: dict[str, Any]) -> None:
    """The job tells it once, at the first step; the record's phases are those of each trial's newest attempt."""
    [told] = re.findall(r"first training step after ([\d.]+) s", job.read())
    assert 0 < float(told) < up.clock.moments["first step"] - up.clock.moments["submitted again"]
    found = json.loads(up.laptop.run(f"worldmodel show s3://{BUCKET}/{GRID} --timeline --json", 60))
    assert found["has_begun"]
    assert {"waiting for machines", "doctor", "first step"} <= {phase["name"] for phase in found["phases"]}


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
