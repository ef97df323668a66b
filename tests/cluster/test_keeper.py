"""When the keeper ends a cluster, in which order, and what it leaves behind; clock, Ray and cloud are played."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster import keeper as keeper_module
from cluster.keeper import AutoscalerLog, Keeper, describe_limits
from cluster.ledger import FOLDER, ClusterRecord, load_record, save_record
from cluster.machines import CloudMachines, OwnMachines, find_machines
from cluster.settings import Settings
from tests.cluster.launcher import ROOT, fill_file
from worldmodel.machine.notice import Notice

MINUTE, HOUR = 60.0, 3600.0


@dataclass(kw_only=True)
class World:
    """A cluster over time: what runs when, which machines are there, and what the keeper did to them."""

    busy: Callable[[float], list[str] | None] = lambda now: []
    """Jobs that run at a time (seconds from the start); None: Ray does not answer."""
    kinds: Callable[[float], list[str]] = lambda now: ["head"]
    ended_jobs: float = 0.0
    """When the last job ended."""
    now: float = 0.0
    events: list[str] = field(default_factory=list)
    saved: list[ClusterRecord] = field(default_factory=list)
    stopped: bool = False
    notice_at: float | None = None
    """When this head's machine is announced to be taken away, a minute ahead."""

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Time passes; the test fails where the keeper would go on for ever."""
        self.now += seconds
        assert self.now < 100 * HOUR, "the keeper never ends"

    def look(self) -> tuple[list[str], float] | None:
        """Ray's jobs."""
        live = self.busy(self.now)
        return None if live is None else ([] if self.stopped else live, self.ended_jobs)

    def stop(self, jobs: list[str]) -> None:
        """Jobs were asked to stop."""
        self.events.append(f"stop {' '.join(jobs)}")
        self.stopped = True

    def find_commands(self, jobs: list[str]) -> list[str]:
        """What started them."""
        return [f"python tune/{job}.py --seeds 3" for job in jobs]

    def read_notice(self) -> Notice | None:
        """The note on this head."""
        if self.notice_at is None or self.now < self.notice_at:
            return None
        return Notice(reason="AWS takes this spot machine away", deadline=self.notice_at + MINUTE)

    def list_kinds(self) -> dict[str, str]:
        """The machines that are there."""
        return {str(number): kind for number, kind in enumerate(self.kinds(self.now))}

    def end(self, say: Callable[[str], None]) -> None:
        """All machines were ended."""
        self.events.append("end")

    def save(self, record: ClusterRecord) -> str:
        """The record was written."""
        self.saved.append(record.model_copy(deep=True))
        self.events.append(f"save {record.state}")
        return ""


def watch(world: World, **settings: Any) -> tuple[Keeper, list[str]]:
    """Let the keeper watch until it ends the cluster; what it said."""
    said: list[str] = []
    keeper = Keeper(
        settings=Settings(data="d", storage="s", **settings), record=ClusterRecord(name="c"), jobs=world,
        machines=world, say=said.append, save=world.save, clock=world.clock, sleep=world.sleep,
        read_notice=world.read_notice,
    )  # fmt: skip
    keeper.run()
    return keeper, said


def test_a_head_without_a_job_ends_after_its_idle_minutes_and_says_so() -> None:
    world = World()
    keeper, said = watch(world, head_idle_minutes=30)
    assert 30 * MINUTE <= world.now <= 31 * MINUTE
    assert world.events[-2:] == ["save ended", "end"], "the record is written before the machine is gone"
    assert keeper.record.reason == "there was no job for 30 minutes"
    assert any("there was no job" in line for line in said)


def test_idle_time_counts_from_the_last_job_s_end() -> None:
    world = World(busy=lambda now: ["round1"] if now < 3 * HOUR else [])
    watch(world, head_idle_minutes=30)
    assert 3.5 * HOUR - MINUTE <= world.now <= 3.5 * HOUR + MINUTE
    between = World()
    between.ended_jobs = 20 * MINUTE  # came and went between two looks
    watch(between, head_idle_minutes=30)
    assert 50 * MINUTE <= between.now <= 51 * MINUTE


def test_a_job_keeps_the_cluster_and_a_budget_of_hours_ends_it_nevertheless() -> None:
    world = World(busy=lambda now: ["round1"])
    keeper, _ = watch(world, head_idle_minutes=5, budget_hours=2.0)
    assert 2 * HOUR <= world.now <= 2.1 * HOUR
    assert world.events[-3:] == ["stop round1", "save ended", "end"], "jobs save themselves before the machines go"
    assert "budget of 2 hours" in keeper.record.reason


def test_a_budget_of_dollars_counts_every_machine_by_its_price() -> None:
    world = World(busy=lambda now: ["round1"], kinds=lambda now: ["head", "a100", "a100"] if now > HOUR else ["head"])
    keeper, _ = watch(world, budget_usd=10.0, dollars_per_hour={"head": 1.0, "a100": 4.0})
    assert 2 * HOUR - MINUTE <= world.now <= 2 * HOUR + MINUTE, "1 dollar, then 9 dollars an hour"
    assert keeper.record.cost_usd == pytest.approx(10.0, abs=0.1)
    assert keeper.record.most_machines == {"head": 1, "a100": 2}


def test_machines_that_a_silent_cloud_does_not_list_go_on_costing() -> None:
    def list_once(now: float) -> list[str]:
        if now > MINUTE:
            raise TimeoutError("the cloud is silent")
        return ["head", "a100"]

    world = World(busy=lambda now: ["round1"], kinds=list_once)
    _, said = watch(world, budget_usd=10.0, budget_hours=9, dollars_per_hour={"head": 1.0, "a100": 4.0})
    assert 2 * HOUR - MINUTE <= world.now <= 2 * HOUR + MINUTE
    assert any("the cloud is silent" in line for line in said)


def test_a_machine_of_unknown_price_makes_the_cost_unknown_and_never_nothing() -> None:
    world = World(kinds=lambda now: ["head", "new"])
    keeper, said = watch(world, head_idle_minutes=5, budget_usd=0.01, dollars_per_hour={"head": 1.0})
    assert keeper.record.cost_usd is None
    assert "no job" in keeper.record.reason
    assert any("cost unknown" in line for line in said)


def test_a_ray_that_does_not_answer_counts_as_idle() -> None:
    world = World(busy=lambda now: ["round1"] if now < HOUR else None)
    keeper, _ = watch(world, head_idle_minutes=30)
    assert 1.5 * HOUR - MINUTE <= world.now <= 1.5 * HOUR + MINUTE
    assert keeper.record.reason == "there was no answer of Ray's for 30 minutes"


def test_jobs_that_do_not_stop_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "60")
    world = World(busy=lambda now: ["stubborn"])
    world.stop = lambda jobs: world.events.append("asked")  # type: ignore[method-assign]
    watch(world, budget_hours=1.0)
    assert world.events[-1] == "end"
    assert HOUR + 60 <= world.now <= HOUR + 3 * MINUTE


def test_a_head_that_is_taken_away_ends_the_cluster_in_time() -> None:
    """Within the notice: jobs save themselves, and the record has the cause and the command to go on elsewhere."""
    world = World(busy=lambda now: ["round1"], notice_at=HOUR + 5)
    keeper, said = watch(world, head_idle_minutes=30)
    assert HOUR + 5 <= world.now <= HOUR + 10, "a notice does not wait for the next look"
    assert world.events[-4:] == ["save running", "stop round1", "save ended", "end"]
    reason = keeper.record.reason
    assert "AWS takes this spot machine away" in reason and "head" in reason
    assert "ray up" in reason and "ray job submit -- python tune/round1.py --seeds 3 --resume" in reason
    assert any(reason in line for line in said)
    assert reason in world.saved[-2].reason, "it is written before jobs take their time"


def test_jobs_of_a_head_that_is_taken_away_are_not_waited_for_too_long() -> None:
    world = World(busy=lambda now: ["stubborn"], notice_at=HOUR)
    world.stop = lambda jobs: world.events.append("asked")  # type: ignore[method-assign]
    watch(world)
    assert world.events[-1] == "end" and world.now <= HOUR + MINUTE - 15, (
        "workers must be ended before the head is gone"
    )


def test_a_cloud_or_a_storage_that_fails_does_not_end_the_keeper() -> None:
    def fail(now: float) -> list[str]:
        raise RuntimeError("throttled")

    world = World(kinds=fail)
    world.save = lambda record: "no such bucket"  # type: ignore[method-assign]
    _, said = watch(world, head_idle_minutes=1)
    assert world.events == ["end"]
    assert any("throttled" in line for line in said) and any("no such bucket" in line for line in said)


def test_the_record_lies_beside_the_grids_and_is_taken_up_by_the_next_keeper(tmp_path: Path) -> None:
    state, storage = tmp_path / "home" / "keeper.json", tmp_path / "runs"
    record = ClusterRecord(name="c")
    record.add(HOUR, ["head", "a100"], {"head": 1.0, "a100": 2.0})
    assert save_record(record, state, str(storage)) == ""
    [file] = (storage / FOLDER).iterdir()
    assert json.loads(file.read_text())["cost_usd"] == pytest.approx(3.0)
    assert load_record("c", state) == record, "a keeper that is started again counts on"
    assert load_record("other", state).seconds == 0
    record.close("done")
    save_record(record, state, str(storage))
    assert load_record("c", state).seconds == 0, "a cluster that ended is not taken up"
    assert json.loads(file.read_text())["reason"] == "done"


class Provider:
    """A cloud that ends what it is asked to, except what it refuses."""

    def __init__(self, refuses: int = 0) -> None:
        self.nodes = {"w1": "worker", "w2": "worker", "h": "head"}
        self.refuses, self.ended = refuses, list[str]()

    def non_terminated_nodes(self, tags: dict[str, str]) -> list[str]:
        """Machines with these tags."""
        return [node for node, kind in self.nodes.items() if kind in (tags.get("ray-node-type") or kind)]

    def node_tags(self, node: str) -> dict[str, str]:
        """A machine's tags."""
        return {"ray-user-node-type": "head" if node == "h" else "a100"}

    def terminate_nodes(self, nodes: list[str]) -> None:
        """End machines."""
        if self.refuses:
            self.refuses -= 1
            raise RuntimeError("throttled")
        for node in nodes:
            self.ended.append(node)
            del self.nodes[node]


@pytest.mark.parametrize("refuses", [0, 3])
def test_workers_end_before_the_head_and_a_cloud_that_refuses_is_asked_again(
    refuses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    provider = Provider(refuses)
    machines = make_machines(provider, monkeypatch, ran)
    assert machines.list_kinds() == {"w1": "a100", "w2": "a100", "h": "head"}
    machines.end(lambda text: None)
    assert provider.ended == ["w1", "w2", "h"]
    assert ran[0] == ["ray", "stop", "--force"], "its autoscaler would start workers again"
    assert ran[-1] == ["shut", "down"], "where the cloud has not ended this machine, it ends itself"


def make_machines(provider: Provider, monkeypatch: pytest.MonkeyPatch, ran: list[list[str]]) -> CloudMachines:
    """The machines of such a cloud; `ran` takes the commands that would run."""
    from ray.autoscaler._private import providers

    def run(command: list[str], **_: Any) -> Any:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(providers, "_get_node_provider", lambda *_: provider)
    monkeypatch.setattr("cluster.machines.subprocess.run", run)
    monkeypatch.setattr("cluster.machines.time.sleep", lambda seconds: None)
    return CloudMachines({"provider": {}, "cluster_name": "c"}, "shut down")


def test_own_machines_cost_nothing_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    make_machines(Provider(), monkeypatch, ran)
    machines = find_machines(fill_file("own-machines"), "shut down")
    assert isinstance(machines, OwnMachines) and machines.list_kinds() == {}
    machines.end(lambda text: None)
    assert ran == [["ray", "stop", "--force"]]


def test_why_no_machine_comes_is_said_once_and_kept(tmp_path: Path) -> None:
    """The autoscaler's log is all that names a refusal: a job waits, and nobody would know why."""
    log = tmp_path / "monitor.log"
    log.write_text("starting\n")
    news = AutoscalerLog(tmp_path)
    refusal = "An error occurred (VcpuLimitExceeded) when calling the RunInstances operation: vCPU limit of 0\n"
    world = World(busy=lambda now: ["round1"])

    def read() -> str:
        if world.now in (300.0, 600.0):
            log.write_text(log.read_text() + refusal)
        return news.read_news()

    said: list[str] = []
    keeper = Keeper(
        settings=Settings(data="d", storage="s", budget_hours=0.5), record=ClusterRecord(name="c"), jobs=world,
        machines=world, say=said.append, save=world.save, clock=world.clock, sleep=world.sleep, read_news=read,
    )  # fmt: skip
    keeper.run()
    [problem] = keeper.record.problems
    assert "quota" in problem and "max_workers" in problem
    assert sum("quota" in line for line in said) == 1
    first = next(record for record in world.saved if record.problems)
    assert first.seconds <= 330, "it is written at once"


def test_a_log_is_read_once_and_a_new_one_from_its_start(tmp_path: Path) -> None:
    log, news = tmp_path / "monitor.out", AutoscalerLog(tmp_path)
    assert news.read_news() == ""
    log.write_text("one two")
    assert (news.read_news(), news.read_news()) == ("one two", "")
    log.write_text("new")
    assert news.read_news() == "new"


def test_what_it_will_do_is_said_at_its_start() -> None:
    settings = Settings(data="d", storage="s", head_idle_minutes=30, budget_hours=24, budget_usd=300)
    assert describe_limits(settings) == "ends after 30 minutes without a job, after 24 hours, at $300"
    assert "never" in describe_limits(Settings(data="d", storage="s", head_idle_minutes=0))


def test_it_runs_in_the_background_and_a_second_start_takes_its_place(tmp_path: Path) -> None:
    """The real process, on a home of its own, with own machines and no Ray: it is started, replaced, and ends."""
    import yaml

    config = fill_file("own-machines")
    config["metadata"] |= {"storage": str(tmp_path / "runs"), "head_idle_minutes": 60}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "HOME": str(tmp_path), "WORLDMODEL_KEEPER_SECONDS": "0.2"}

    def start() -> int:
        command = [sys.executable, "-m", "cluster.keeper", "start"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        return int((tmp_path / ".worldmodel" / "keeper.pid").read_text())

    first = start()
    second = start()
    log = tmp_path / ".worldmodel" / "keeper.log"
    try:
        end = time.monotonic() + 60
        while "watching worldmodel" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.1)
        assert "ends after 60 minutes without a job" in log.read_text()
        assert not _is_alive(first) and _is_alive(second)
    finally:
        os.killpg(second, 15)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def test_it_refuses_settings_that_are_not_set(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from tests.cluster.launcher import read_text

    file = tmp_path / "config.yaml"
    file.write_text(read_text("a100"))
    read = keeper_module.read_config
    monkeypatch.setattr(keeper_module, "read_config", lambda: read(file))
    monkeypatch.setattr(sys, "argv", ["keeper", "start"])
    assert keeper_module.main() == 2
    assert "storage" in capsys.readouterr().err
