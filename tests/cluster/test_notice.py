"""From a cloud's notice to the note and Ray's drain: against a server that plays three clouds, and a real Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import metadata, notice
from cluster.metadata import Aws, Azure, Cloud, Google, find_cloud
from cluster.notice import Raylet, Watcher, drain, find_raylets
from tests.cluster.lab.metadata import Announcer, MetadataServer, serve_metadata
from worldmodel.machine.notice import Notice, read_notice

CLOUDS: dict[str, Callable[[], Cloud]] = {"aws": Aws, "gcp": Google, "azure": Azure}
WORKER = Raylet(node="w", head="head:6379", is_head=False)


@pytest.fixture(scope="module")
def server() -> Iterator[MetadataServer]:
    """The clouds' services."""
    with serve_metadata() as found:
        yield found


@pytest.fixture(params=CLOUDS)
def machine(server: MetadataServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Announcer:
    """The service of a machine in each cloud; our code asks it."""
    announcer, url = server.add("m", request.param)
    monkeypatch.setattr(metadata, "METADATA", url)
    return announcer


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the note appears."""
    monkeypatch.setenv("WORLDMODEL_NOTICE", str(tmp_path / "home" / "notice.json"))
    return tmp_path / "home" / "notice.json"


class Watched:
    """A watcher whose Ray is played, and what it did."""

    def __init__(self, cloud: Cloud, raylets: Sequence[Raylet] = (WORKER,)) -> None:
        self.said, self.drained, self.raylets, self.problem = list[str](), list[str](), list(raylets), ""
        self.watcher = Watcher(cloud=cloud, find_raylets=lambda: self.raylets, drain=self._drain, say=self.said.append)

    def _drain(self, raylet: Raylet, _: Notice) -> str:
        if not self.problem:
            self.drained.append(raylet.node)
        return self.problem

    def look(self, times: int = 1) -> None:
        """Look so often."""
        for _ in range(times):
            self.watcher.look()


def recognise(machine: Announcer) -> Cloud:
    """The cloud that a machine takes itself to be of."""
    cloud = find_cloud()
    assert cloud is not None and cloud.name == machine.cloud
    return cloud


def test_a_notice_becomes_a_note_and_a_drain_once(machine: Announcer, note: Path) -> None:
    watched = Watched(recognise(machine))
    watched.look(2)
    assert not note.exists() and not watched.drained
    machine.announce(30)
    watched.look(3)
    found = read_notice()
    assert found is not None and found.deadline - time.time() == pytest.approx(30, abs=2)
    assert "takes this" in found.reason and json.loads(note.read_text())["cloud"] == machine.cloud
    assert watched.drained == ["w"] and len(watched.said) == 2, watched.said


def test_a_withdrawn_notice_takes_its_note_and_is_said(machine: Announcer, note: Path) -> None:
    watched = Watched(recognise(machine))
    machine.announce(60)
    watched.look()
    machine.ends = None
    watched.look(2)
    assert not note.exists()
    assert "withdrew" in watched.said[-1] and "until Ray is started again" in watched.said[-1]
    machine.announce(60)
    watched.look()
    assert note.exists(), "another one counts again"


@pytest.mark.parametrize("garbage", ["<html>error</html>", "[]", '{"Events": [1]}', '{"action": "x", "time": "soon"}'])
def test_garbage_is_said_once_and_changes_nothing(machine: Announcer, note: Path, garbage: str) -> None:
    watched = Watched(recognise(machine))
    machine.garbage = garbage
    watched.look(3)
    assert not note.exists() and len(watched.said) == 1 and "asked again" in watched.said[0]
    machine.garbage = ""
    machine.announce(60)
    watched.look()
    machine.garbage = garbage
    watched.look()
    assert note.exists(), "a service that fails withdraws no notice"


def test_a_service_that_hangs_is_asked_again(
    machine: Announcer, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    watched = Watched(recognise(machine))
    monkeypatch.setattr(metadata, "ANSWER_SECONDS", 0.2)
    machine.silence = 1.0
    machine.announce(60)
    begun = time.monotonic()
    watched.look()
    assert time.monotonic() - begun < 0.9 and not note.exists()
    machine.silence = 0.0
    watched.look()
    assert note.exists()


def test_a_notice_for_another_machine_is_not_ours(server: MetadataServer, note: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Azure tells all machines that belong together; and two machines may be told at once."""
    announcer, url = server.add("mine", "azure")
    monkeypatch.setattr(metadata, "METADATA", url)
    watched = Watched(recognise(announcer))
    announcer.others = ["other"]
    watched.look()
    assert not note.exists() and not watched.said
    announcer.announce(60)
    watched.look()
    assert json.loads(note.read_text())["deadline"] - time.time() > 50


def test_an_earlier_end_replaces_a_later_one(machine: Announcer, note: Path) -> None:
    watched = Watched(recognise(machine))
    machine.announce(100)
    watched.look()
    machine.announce(10)
    watched.look(2)
    is_timed = machine.cloud != "gcp"
    assert json.loads(note.read_text())["deadline"] - time.time() == pytest.approx(10 if is_timed else 30, abs=2)
    assert watched.drained == (["w", "w"] if is_timed else ["w"]), "Ray learns the new time"


def test_ray_that_starts_late_or_refuses_is_told_later(machine: Announcer, note: Path) -> None:
    watched = Watched(recognise(machine), raylets=())
    machine.announce(60)
    watched.look(3)
    assert note.exists() and [line for line in watched.said if "no Ray runs here" in line] == watched.said[1:]
    watched.raylets, watched.problem = [WORKER], "connection refused"
    watched.look(3)
    assert sum("connection refused" in line for line in watched.said) == 1
    watched.problem = ""
    watched.look(2)
    assert watched.drained == ["w"]


def test_the_head_is_left_to_its_keeper(machine: Announcer, note: Path) -> None:
    watched = Watched(recognise(machine), [Raylet(node="h", head="head:6379", is_head=True)])
    machine.announce(60)
    watched.look(2)
    assert note.exists() and not watched.drained
    assert sum("keeper" in line for line in watched.said) == 1


def test_a_machine_of_no_cloud_is_not_watched(
    monkeypatch: pytest.MonkeyPatch, note: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note.parent.mkdir()
    note.write_text("{}")
    monkeypatch.setattr(metadata, "METADATA", "http://127.0.0.1:9")
    monkeypatch.setattr(metadata, "FIND_SECONDS", 0.0)
    assert notice.watch() == 0
    assert "no cloud metadata service" in capsys.readouterr().out
    assert not note.exists(), "a note of an earlier life would stop every run here"


def test_a_ray_that_is_gone_is_a_problem_and_not_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "DRAIN_SECONDS", 3.0)
    gone = Raylet(node="ab" * 28, head="127.0.0.1:9", is_head=False)
    assert drain(gone, Notice(reason="spot", deadline=time.time() + 60))


@pytest.mark.ray
def test_a_real_ray_takes_the_machine_for_draining(monkeypatch: pytest.MonkeyPatch, note: Path) -> None:
    import ray
    from ray._private.state import state
    from ray.cluster_utils import Cluster

    room: dict[str, Any] = {"object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **room})
    try:
        node = cluster.add_node(num_cpus=1, **room)
        ray.init(address=cluster.address, log_to_driver=False)
        busy = ray.remote(lambda: time.sleep(60)).remote()  # a node without work would end at once
        raylets = [raylet for raylet in find_raylets() if raylet.head == cluster.address]
        assert [raylet.node for raylet in raylets if not raylet.is_head] == [node.node_id]
        assert len(raylets) == 2
        while ray.available_resources().get("CPU"):
            time.sleep(0.1)
        ends = time.time() + 60
        watched = Watcher(cloud=Played(ends), find_raylets=lambda: raylets)
        watched.look()
        assert state.get_draining_nodes() == {node.node_id: pytest.approx(ends * 1000, abs=20_000)}
        ray.cancel(busy, force=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


class Played:
    """A cloud with a notice."""

    name = "aws"

    def __init__(self, ends: float) -> None:
        self._ends = ends

    def recognise(self) -> None:
        """It is."""

    def look(self) -> Notice | None:
        """It stands."""
        return Notice(reason="spot", deadline=self._ends)
