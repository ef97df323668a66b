"""What passes before a run's first step is measured without a gap, told once, and kept."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.training.tiny_runs import configure, write_blocks
from worldmodel.run.run_folder import read_record
from worldmodel.run.timeline import (
    CHECKS,
    DATA,
    FIRST_STEP,
    MODEL,
    PROGRAM,
    WORKER,
    Phase,
    Timeline,
    continue_in_worker,
    describe_timeline,
    is_complete,
    note_first_step,
)
from worldmodel.run.train import TrainRequest, train
from worldmodel.storage import Location
from worldmodel.training.loop import Hooks


def test_phases_follow_each_other_without_a_gap() -> None:
    timeline = Timeline(since=1000.0)
    timeline.mark("a", at=1002.5)
    timeline.mark("b", at=1002.0)  # a clock that was set back
    timeline.mark("c", at=1004.0)
    assert [(phase.name, phase.seconds) for phase in timeline.phases] == [("a", 2.5), ("b", 0.0), ("c", 1.5)]
    ends = [phase.ended_at for phase in timeline.phases]
    assert [phase.began.timestamp() for phase in timeline.phases] == [1000.0, *ends[:-1]]
    assert timeline.seconds == 4.0
    assert Timeline(timeline.phases).phases == timeline.phases


def test_a_worker_goes_on_where_the_command_ended_and_begins_again_when_restarted() -> None:
    timeline = Timeline(since=time.time() - 5)
    timeline.mark(DATA, at=time.time() - 3)
    worker = continue_in_worker(timeline.phases)
    assert [phase.name for phase in worker.phases] == [DATA, WORKER]
    assert worker.phases[1].seconds == pytest.approx(3, abs=0.2)
    worker.mark(MODEL)
    worker.mark(FIRST_STEP)
    assert [phase.name for phase in continue_in_worker(worker.phases).phases] == [DATA, WORKER]


@pytest.mark.parametrize("several", [False, True])
def test_the_first_step_is_told_once(several: bool) -> None:
    """With several workers the loop seldom asks, so the first interval tells."""
    kept: list[list[Phase]] = []
    heard: list[str] = []
    hooks = note_first_step(
        Hooks(on_interval=lambda i, v: heard.append("interval"), stop_reason=lambda: heard.append("asked")),  # type: ignore[func-returns-value]
        Timeline(), lambda phases: kept.append(list(phases)),
    )  # fmt: skip
    hooks.stop_reason()
    assert not kept
    for _ in range(2):
        if several:
            hooks.on_interval(None, {})  # type: ignore[arg-type]
        else:
            hooks.stop_reason()
    hooks.on_interval(None, {})  # type: ignore[arg-type]
    assert len(kept) == 1 and is_complete(kept[0])
    assert heard.count("asked") == (1 if several else 3) and heard.count("interval") == (3 if several else 1)


def test_a_run_keeps_its_phases_and_says_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = write_blocks(tmp_path)
    config = configure({"name": "timed", "save_dir": str(tmp_path), "data.dataset_dir": str(blocks)},
                       **{"training.max_steps": 2})  # fmt: skip
    began = time.time() - 1
    train(TrainRequest(config=config, since=began))
    record = read_record(Location.of(tmp_path / "timed"))
    assert [phase.name for phase in record.phases] == [PROGRAM, DATA, CHECKS, WORKER, MODEL, FIRST_STEP]
    assert 1 < record.phases[-1].ended_at - began < time.time() - began
    assert sum(phase.seconds for phase in record.phases) == pytest.approx(record.phases[-1].ended_at - began, abs=0.05)
    assert describe_timeline(record.phases) in capsys.readouterr().out
    assert describe_timeline(record.phases) in (tmp_path / "timed" / "log.txt").read_text()
