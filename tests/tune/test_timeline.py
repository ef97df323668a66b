"""A grid's way to its first step: its own phases, then those of the trial that was first."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune import timeline as grid_timeline
from tune.record import GridRecord, write_grid
from tune.timeline import RAY, SUBMITTED, TRIALS, FirstStep, find_submission, join_phases, prepend_submission
from worldmodel.cli.main import main
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.record import RunRecord
from worldmodel.run.run_folder import start_run
from worldmodel.run.timeline import FIRST_STEP, PROGRAM, WORKER, Phase, Timeline
from worldmodel.storage import Location

START = 1_000_000.0


def make_grid() -> GridRecord:
    timeline = Timeline(since=START)
    timeline.mark(PROGRAM, at=START + 2)
    timeline.mark(RAY, at=START + 6)
    return GridRecord(name="grid", phases=timeline.phases)


def make_phases(began: float, *, is_done: bool = True) -> list[Phase]:
    timeline = Timeline(since=began)
    timeline.mark(WORKER, at=began + 3)
    if is_done:
        timeline.mark(FIRST_STEP, at=began + 4)
    return timeline.phases


def make_run(name: str, began: float, *, is_done: bool = True) -> RunRecord:
    return RunRecord(name=name, phases=make_phases(began, is_done=is_done), command="", commit=None)


def test_the_trial_that_was_first_completes_the_grids_phases() -> None:
    runs = [make_run("b", START + 20), make_run("a", START + 10), make_run("c", START + 5, is_done=False)]
    phases = join_phases(make_grid(), runs)
    assert [(p.name, p.seconds) for p in phases] == [
        (PROGRAM, 2), (RAY, 4), (TRIALS, 4), (WORKER, 3), (FIRST_STEP, 1),
    ]  # fmt: skip
    assert sum(p.seconds for p in phases) == 14
    assert join_phases(make_grid(), runs[2:]) == make_grid().phases
    assert join_phases(GridRecord(name="older"), runs) == []


def test_the_first_step_of_a_grid_is_said_once() -> None:
    said: list[str] = []
    first = FirstStep(make_grid(), said.append)
    for runs in ([], [make_run("a", START + 10, is_done=False)], [make_run("a", START + 10)], [make_run("a", START)]):
        first.look(runs)
    (line,) = said
    assert line.startswith("first training step after 14.0 s: program start 2.0 s, Ray 4.0 s, trials start 4.0 s")


def test_a_job_counts_from_its_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = Timeline(make_grid().phases)
    monkeypatch.setattr(grid_timeline, "find_submission", lambda: START - 7)
    prepend_submission(timeline)
    assert (timeline.phases[0].name, timeline.phases[0].seconds) == (SUBMITTED, 7)
    assert timeline.phases[0].began == datetime.fromtimestamp(START - 7, UTC)


def test_a_submission_that_ray_does_not_tell_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert find_submission() is None
    job = {"metadata": {"job_submission_id": "raysubmit_x"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    assert find_submission() is None


def test_show_tells_the_timeline_of_a_run_and_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Location.of(tmp_path / "grid")
    start_run(folder, ExperimentConfig(name="a-seed0"), phases=make_phases(START + 10))
    write_grid(folder, make_grid())
    assert main(["show", "grid", "--storage", str(tmp_path), "--timeline"]) == 0
    shown = capsys.readouterr().out
    assert "trials start" in shown and "first training step after 14.0 s" in shown
    assert main(["show", "grid/a-seed0", "--storage", str(tmp_path), "--timeline", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [phase["name"] for phase in found["phases"]] == [WORKER, FIRST_STEP]
    assert found["seconds"] == 4 and found["has_begun"]
    start_run(Location.of(tmp_path), ExperimentConfig(name="older"))
    assert main(["show", "older", "--storage", str(tmp_path), "--timeline"]) == 0
    assert "no times are known" in capsys.readouterr().out
