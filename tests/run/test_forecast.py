"""The time of a step on another GPU: a roofline, or an earlier run's own pace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.run.test_plan_costs import PROBE
from tests.training.tiny_runs import configure
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment
from worldmodel.run.forecast import (
    GAP,
    LAUNCH,
    MEMORY_SHARE,
    PEAK_SHARE,
    TRITON_LAUNCH,
    Forecast,
    find_paces,
)
from worldmodel.run.prices import read_prices
from worldmodel.run.record import Seconds, State
from worldmodel.run.run_folder import start_run
from worldmodel.run.step_work import StepWork, count_step
from worldmodel.storage import Location

BASELINE = Path(__file__).parents[2] / "tune" / "experiments" / "baseline.yaml"
A100 = {"gpu": "NVIDIA A100-SXM4-80GB"}
WORK = StepWork(targets=100, operations=1e12, memory_bytes=10**9, products=100, chains=200)


IDLE = replace(WORK, products=0, chains=0)


def predict(work: StepWork, kind: str = "A100-80GB", *, is_captured: bool = True) -> tuple[float, str]:
    found = Forecast(amp=True, work=work, probe=PROBE, prices=read_prices(), is_captured=is_captured)
    seconds, basis = found.find_step_seconds(kind)
    assert seconds is not None
    return seconds, basis


def test_gaps_of_a_graph_add_to_the_gpus_time() -> None:
    assert predict(WORK)[0] - predict(IDLE)[0] == pytest.approx(300 * GAP)


def test_launches_overlap_with_the_gpus_time() -> None:
    launches, small = 100 * LAUNCH + 200 * TRITON_LAUNCH, replace(WORK, memory_bytes=1, operations=1.0)
    assert predict(small, is_captured=False)[0] == pytest.approx(launches)
    large = replace(WORK, memory_bytes=10**11)
    assert predict(large, is_captured=False)[0] == predict(large)[0]


def test_slower_of_memory_and_arithmetic_limits() -> None:
    moving, computing = replace(IDLE, operations=0.0), replace(IDLE, memory_bytes=0)
    assert predict(IDLE) == predict(computing) == (pytest.approx(1e12 / (PEAK_SHARE * 312e12)), predict(IDLE)[1])
    assert "(arithmetic)" in predict(IDLE)[1]
    assert predict(moving)[0] == pytest.approx(1e9 / (MEMORY_SHARE * 2.039e12))
    assert predict(moving, "L4")[0] > predict(moving)[0] > predict(moving, "H100")[0]


def record_run(folder: Path, config: ExperimentConfig, **facts: Any) -> None:
    """A finished run of 100 steps in 2 seconds of training."""
    run = start_run(Location.of(folder), config, device=A100)
    run.update(**{"state": State.FINISHED, "step": 100, "seconds": Seconds(training=2.0, total=9.0), **facts})
    run.write()


def test_a_finished_run_on_that_gpu_replaces_the_roofline(tmp_path: Path) -> None:
    config = configure()
    record_run(tmp_path, override(config, {"name": "earlier", "training.lr": 0.5, "training.num_epochs": 9}))
    paces = find_paces(Location.of(tmp_path), config, read_prices())
    found = Forecast(amp=True, work=WORK, probe=PROBE, prices=read_prices(), is_captured=True, paces=paces)
    assert found.find_step_seconds("A100-80GB") == (0.02, "measured by run earlier")
    assert "roofline" in found.find_step_seconds("A100-40GB")[1]


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"training.batch_size": 7}, {}),
        ({"model.d_model": 64}, {}),
        ({}, {"state": State.STOPPED}),
        ({}, {"world_size": 2}),
        ({}, {"device": {"name": "Some CPU"}}),
    ],
)
def test_other_runs_do_not_count(tmp_path: Path, changes: dict[str, Any], facts: dict[str, Any]) -> None:
    record_run(tmp_path, configure({"name": "earlier", **changes}), **facts)
    assert find_paces(Location.of(tmp_path), configure(), read_prices()) == {}


def test_an_empty_storage_has_no_paces(tmp_path: Path) -> None:
    assert find_paces(Location.of(tmp_path / "absent"), configure(), read_prices()) == {}


EPOCH = 186_000_000
"""Targets of an epoch of 22,000 games."""


@pytest.mark.parametrize(
    ("preset", "kind", "minutes"), [("a100", "A100-80GB", 3), ("h100", "H100", 3), ("l4", "L4", 15)]
)
def test_epoch_of_22_000_games_takes_minutes(preset: str, kind: str, minutes: float) -> None:
    config = load_experiment(BASELINE, preset)
    work = count_step(config)
    seconds = predict(work, kind)[0]
    assert EPOCH / work.targets * seconds < 60 * minutes
    assert GAP * (work.products + work.chains) < 0.1 * seconds, "the preset's batch is too small for this GPU"
