"""The doctor before a grid: what fails is told and nothing begins; what is fine costs a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.games_on_disk import encode_here, write_games
from tune import grid, health, round1
from tune.health import check_health, wait_for_machine
from tune.record import read_grid
from tune.resources import Cluster, Resources
from tune.round1 import Round1
from tune.timeline import ENCODE, RAY
from worldmodel.doctor.check import Check, failed, passed, warned
from worldmodel.doctor.preflight import Preflight
from worldmodel.errors import UserError
from worldmodel.storage import Location

RESOURCES = Resources(cpus_per_worker=1.0, gpus_per_worker=0.5, workers=1, at_once=2)
ONE, MANY = Cluster(cpus=2.0, gpus=0.0), Cluster(cpus=8.0, gpus=2.0, machines=3)
GOOD, ODD = passed("disk", "room"), warned("price", "unknown", "set it")
BAD = failed("storage", "the credentials have expired", "aws sso login")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Preflight]:
    """What a full preflight was asked for; it finds `found`."""
    requests: list[Preflight] = []
    monkeypatch.setattr(health, "examine", lambda request: requests.append(request) or [GOOD, ODD])
    return requests


def test_a_laptop_is_looked_at_quickly(tmp_path: Path, asked: list[Preflight], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said: list[str] = []
    cpu = Resources(cpus_per_worker=1.0, gpus_per_worker=0.0, workers=1, at_once=2)
    wait_for_machine(cpu, said.append)
    check_health(Round1(storage=str(tmp_path)), cpu, ONE, "disabled", said.append)
    assert not asked
    assert said[-1].startswith("doctor: ") and "checks in" in said[-1]


@pytest.mark.parametrize(("cluster", "rehearses"), [(ONE, False), (MANY, True)])
def test_a_cluster_is_looked_at_wholly(
    cluster: Cluster, rehearses: bool, asked: list[Preflight], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    said: list[str] = []
    check_health(Round1(storage="s3://b/runs", data="s3://b/games"), RESOURCES, cluster, "auto", said.append)
    assert asked == [
        Preflight(storage="s3://b/runs", data="s3://b/games", gpus=0.5, wandb="auto", has_rehearsal=rehearses)
    ]
    assert said[0] == "warning: price: unknown; set it" and "1 warning" in said[1]


def test_a_failure_is_told_with_its_remedy_and_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(health, "examine_quickly", lambda request: [GOOD, BAD])
    with pytest.raises(UserError, match=r"\(storage\).*--skip-doctor"):
        check_health(Round1(storage=str(tmp_path)), RESOURCES, ONE, "auto", lambda text: None)
    shown = capsys.readouterr().err
    assert "the credentials have expired" in shown and "→ aws sso login" in shown


def test_a_grid_whose_trials_would_fail_does_not_begin_unless_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[object] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(grid, "join_ray", lambda: None)
    monkeypatch.setattr(Cluster, "find", classmethod(lambda cls: ONE))
    monkeypatch.setattr(grid, "run_trials", lambda trials, how: ran.extend(trials) or {})
    monkeypatch.setattr(health, "examine_quickly", lambda request: [BAD])
    write_games(tmp_path / "games", range(6), frames=80)
    encode_here(tmp_path / "games", tmp_path / "blocks")
    line = ["--data", str(tmp_path / "blocks"), "--storage", str(tmp_path / "runs"), "--experiments", "baseline"]
    assert round1.main(line) == 2
    assert not ran and not (tmp_path / "runs").exists()
    assert "the credentials have expired" in capsys.readouterr().err
    assert round1.main([*line, "--skip-doctor"]) == 1
    assert len(ran) == 1
    phases = [phase.name for phase in read_grid(Location.of(tmp_path / "runs" / "round1")).phases]
    assert phases == [RAY, ENCODE]


def test_a_machine_that_never_comes_ends_the_job_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    needs: list[object] = []

    def check_started(wanted: object, seconds: float) -> list[Check]:
        needs.append(wanted)
        return [failed("machines", "no machine: quota", "ask for more")]

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(health, "check_started", check_started)
    with pytest.raises(UserError, match="no machine: quota; ask for more"):
        wait_for_machine(RESOURCES, lambda text: None)
    assert needs == [{"CPU": 1, "GPU": 0.5}]
