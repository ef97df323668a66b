"""A run on three machines loses one with its cloud's notice and one without a word, goes on, and learns the same.

Three hosts in namespaces and a head (`lab/`), brought up by `ray up cluster/own-machines.yaml`; each host's metadata
service is AWS's, played by a server of the tests'. Both times it is the machine of the first worker, which writes the
run's folder. That with a notice is switched off when the notice said.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab.command import ENDED, Command, has_ended
from tests.cluster.lab.laptop import CHECKOUT
from tests.cluster.lab.machine import require_lab
from tests.cluster.lab.spot import BUCKET, HEAD, WORKERS, Machines, serve_machines
from tests.cluster.lab.store import KEY, SECRET
from tests.cluster.lab.waiting import wait_for
from worldmodel.games.toy import write_toy_games
from worldmodel.storage import Location
from worldmodel.training.checkpoint import load_checkpoint

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
GAMES = 20
EXPERIMENT = Path(__file__).parent / "lab" / "three_workers.yaml"
AHEAD_SECONDS = 20.0
"""How far ahead a notice comes: AWS's two minutes, shortened, for nothing happens in the rest of them."""
STEPS = 30
"""Steps between two losses."""
WITH_NOTICE, WITHOUT_NOTICE = 60.0, 90.0
"""Longest time until training goes on. It takes 25 and 29 s where this machine does nothing else, 40 and 42 s where it
does."""
TRIAL = "moved/baseline-seed0"
GRID = (
    "ray job submit -- python tune/round1.py --name moved --experiments baseline --skip-doctor --set "
    "model.d_model=96 model.n_layers=2 training.num_epochs=9 training.max_steps=160 training.threads=1 "
    "training.rollout_starts=0"
)
COMMAND = (
    "ray job submit -- worldmodel train tune/experiments/lost.yaml --workers 1..3 "
    f"--data s3://{BUCKET}/games --storage s3://{BUCKET}/runs"
)


@dataclass(kw_only=True)
class Loss:
    """What was seen from outside of a machine's loss."""

    host: str
    seconds: float
    """From the notice, or the end without one, to the first step after it."""
    pause: float
    """The part of them without training: after a notice training continues until the workers receive it."""
    step: int
    """The last that was said before training went on."""
    resumed: int
    """The step from which it went on."""


@dataclass(kw_only=True)
class Outcome:
    """The run that lost machines."""

    losses: list[Loss] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """The machines, and a laptop with the experiment's file and games."""
    require_lab()
    with serve_machines(tmp_path_factory.mktemp("lost")) as found:
        (found.laptop.checkout / "tune/experiments/lost.yaml").write_bytes(EXPERIMENT.read_bytes())
        write_toy_games(found.laptop.host.home / "games", GAMES, seed=0)
        yield found


@pytest.fixture(scope="module")
def undisturbed(lab: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Command, Path]]:
    """The same run by one worker on this machine, meanwhile: the command, and its folder."""
    runs = tmp_path_factory.mktemp("undisturbed")
    words = ["worldmodel", "train", str(EXPERIMENT), "--run-name", "lost", "--storage", str(runs)]
    words += ["--data", str(lab.laptop.host.home / "games")]
    with (runs / "said").open("wb") as said:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(words[0])), *words[1:]], stdout=said, stderr=said,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    command = Command(name="undisturbed", process=process, said=runs / "said")
    yield command, runs / "lost"
    command.stop()


@pytest.fixture(scope="module")
def up(lab: Machines, undisturbed: tuple[Command, Path]) -> Iterator[Machines]:
    """The cluster with all its machines, and the games in its store."""
    status, said = lab.laptop.host.run("ray up cluster/own-machines.yaml", 150, folder=CHECKOUT, answer="y\n")
    assert status == 0, f"{said[-6000:]}\n{lab.tell()}"
    lab.clock.note("ray up returned")
    tunnel = lab.laptop.begin("ray dashboard cluster/own-machines.yaml")
    lab.laptop.run(f"worldmodel upload /root/games s3://{BUCKET}/games", 120)
    wait_for(lambda: lab.list_nodes() == {HEAD, *WORKERS}, 120, "all machines", lambda: lab.tell() + tunnel.read())
    lab.clock.note("all machines are there")
    yield lab
    tunnel.stop()


@pytest.fixture(scope="module")
def outcome(up: Machines) -> Iterator[Outcome]:
    """The run, which loses the machine of its first worker twice: once with a notice, once without."""
    up.clock.note("submitted")
    job, found = up.laptop.begin(COMMAND), Outcome()
    _wait_for_step(up, job, STEPS)
    name, begun = up.read_run("lost")["hosts"][0], time.monotonic()
    up.announce(name, AHEAD_SECONDS)
    found.losses.append(_wait_for_return(up, job, 1, name, begun))
    time.sleep(max(0.0, begun + AHEAD_SECONDS - time.monotonic()))
    up.hosts[name].stop()
    up.clock.note(f"{name} ended")
    target = found.losses[0].resumed + STEPS
    wait_for(
        lambda: has_ended(job) or _read_steps(job)[-1] >= target, 150, "more steps", lambda: job.read() + up.tell()
    )
    assert has_ended(job) != ENDED, job.read()
    name, begun = up.read_run("lost")["hosts"][0], time.monotonic()
    up.end(name)
    found.losses.append(_wait_for_return(up, job, 2, name, begun))
    status = job.wait(180, up.tell)
    assert status == 0, f"{up.tell()}\n{job.read()[-6000:]}"
    up.clock.note("the run finished")
    found.record = up.read_run("lost")
    yield found
    job.stop()


def _read_steps(job: Command, start: int = 0) -> list[int]:
    """Steps of the lines that a run has said since it went on for the `start`th time."""
    parts = re.split(r"^resumed from", job.read(), flags=re.MULTILINE)
    return [int(step) for step in re.findall(r"^step (\d+)/", "".join(parts[start:]), flags=re.MULTILINE)]


def _wait_for_step(up: Machines, job: Command, step: int) -> None:
    """Wait until the run has reached a step."""
    tell = lambda: f"{job.read()[-4000:]}\n{up.tell()}"  # noqa: E731
    wait_for(lambda: has_ended(job) or max(_read_steps(job), default=0) >= step, 150, f"step {step}", tell)
    assert not has_ended(job), tell()
    up.clock.note(f"step {step}")


def _wait_for_return(up: Machines, job: Command, count: int, host: str, begun: float) -> Loss:
    """Wait until the run has resumed `count` times."""
    tell = lambda: f"{job.read()[-4000:]}\n{up.tell()}"  # noqa: E731
    moments: dict[int, float] = {}

    def look() -> bool:
        moments.setdefault(len(_read_steps(job)), time.monotonic())
        return bool(has_ended(job) or _read_steps(job, count))

    wait_for(look, 150, "the next step", tell)
    assert not has_ended(job), tell()
    *_, last, first = [begun, *moments.values()]
    said = re.split(r"^resumed from", job.read(), flags=re.MULTILINE)
    resumed = int(re.findall(r"step (\d+) of", said[count])[0])
    before = [int(step) for step in re.findall(r"^step (\d+)/", said[count - 1], flags=re.MULTILINE)]
    loss = Loss(host=host, seconds=first - begun, pause=first - last, step=max(before), resumed=resumed)
    up.clock.note(f"training goes on: {loss}")
    return loss


def test_training_goes_on_in_time_after_each_loss(outcome: Outcome) -> None:
    notice, silent = outcome.losses
    assert notice.pause < WITH_NOTICE and silent.seconds < WITHOUT_NOTICE, outcome.losses


def test_a_notice_costs_no_step(outcome: Outcome) -> None:
    assert outcome.losses[0].resumed >= outcome.losses[0].step


def test_the_record_says_how_often_why_and_at_what_cost(outcome: Outcome) -> None:
    first, second = outcome.record["interruptions"]
    print(json.dumps(outcome.record["interruptions"], indent=1))
    assert "notice" in first["reason"] and "lost" in second["reason"]
    assert (first["workers"], second["workers"]) == (2, 1)
    assert first["resumed_step"] == first["step"], "no step is lost"
    assert all(0 < entry["seconds"] < WITHOUT_NOTICE for entry in (first, second))
    assert outcome.record["state"] == "finished"


def test_the_weights_are_those_of_the_run_that_lost_nothing(
    up: Machines, outcome: Outcome, undisturbed: tuple[Command, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("ENDPOINT_URL_S3", up.store)):
        monkeypatch.setenv(f"AWS_{name}", value)
    command, folder = undisturbed
    assert command.wait(120) == 0, command.read()
    wanted = json.loads((folder / "run.json").read_text())
    assert outcome.record["step"] == wanted["step"] == wanted["total_steps"]
    ours = load_checkpoint(Location.of(f"s3://{BUCKET}/runs/lost") / outcome.record["checkpoint"]).weights
    theirs = load_checkpoint(Location.of(str(folder)) / wanted["checkpoint"]).weights
    assert ours.keys() == theirs.keys()
    worst = max((ours[key].float() - theirs[key].float()).abs().max().item() for key in ours)
    print(f"largest difference of a weight: {worst:.1e}")
    assert worst < 1e-4


@pytest.fixture(scope="module")
def moved(up: Machines, outcome: Outcome) -> tuple[str, dict[str, Any]]:
    """A grid's trial whose machine is taken away with a notice: that machine, and the trial's record after its end."""
    up.replace(outcome.losses[0].host)
    job = up.laptop.begin(GRID)
    begun = lambda: up.read_run(TRIAL).get("step", 0) > 0  # noqa: E731
    wait_for(lambda: has_ended(job) or begun(), 150, "a trial's first step", lambda: job.read() + up.tell())
    assert not has_ended(job), job.read()
    name = up.read_run(TRIAL)["hosts"][0]
    told = time.monotonic()
    up.announce(name, AHEAD_SECONDS)
    is_elsewhere = lambda: name not in up.read_run(TRIAL)["hosts"] and up.read_run(TRIAL)["state"] == "running"  # noqa: E731
    wait_for(lambda: has_ended(job) or is_elsewhere(), 150, "the trial elsewhere", lambda: job.read() + up.tell())
    up.clock.note(f"the trial goes on elsewhere after {time.monotonic() - told:.1f} s")
    time.sleep(max(0.0, told + AHEAD_SECONDS - time.monotonic()))
    up.end(name)
    assert job.wait(180, up.tell) == 0, f"{job.read()[-6000:]}\n{up.tell()}"
    up.clock.note("the grid finished")
    return name, up.read_run(TRIAL)


def test_a_trial_with_a_notice_moves_and_loses_no_step(moved: tuple[str, dict[str, Any]]) -> None:
    name, record = moved
    print(json.dumps(record["attempts"], indent=1))
    assert record["state"] == "finished" and name not in record["hosts"]
    [attempt] = record["attempts"]
    assert "notice" in attempt["reason"] and attempt["step"] > 0
