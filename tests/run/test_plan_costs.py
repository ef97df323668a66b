"""A plan's counts are those of the run that it plans, and its dollars are its hours at the price file's prices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny_runs import begin, configure, open_data, write_blocks
from worldmodel.blocks.index import read_index
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig, TrainingConfig
from worldmodel.features.split import sample_games, select_games
from worldmodel.games.tar import pack_games
from worldmodel.run.budget import Budget
from worldmodel.run.extent import Extent, measure_extent
from worldmodel.run.forecast import Forecast
from worldmodel.run.plan_costs import PlanRequest, make_plan, plan_costs
from worldmodel.run.prices import Prices
from worldmodel.run.probe import Probe
from worldmodel.storage import Location
from worldmodel.training.data import filter_of

FIGURE = {"date": "2026-02", "source": "an invoice"}
PRICES = Prices.model_validate({
    "gpus": {
        "fast": {"pattern": "fast", "bf16_tflops": {"value": 100, **FIGURE}, "memory_tb_s": {"value": 2, **FIGURE}},
        "slow": {"pattern": "slow", "bf16_tflops": {"value": 50, **FIGURE},
                 "fp32_tflops": {"value": 5, **FIGURE}, "memory_tb_s": {"value": 1, **FIGURE}},
        "odd": {"pattern": "odd"},
    },
    "providers": {
        "one": {"gpu_hour": {"fast": {"value": 2, **FIGURE}, "odd": {"value": 1, **FIGURE}},
                "storage_gb_month": {"value": 10, **FIGURE}},
        "two": {"gpu_hour": {"fast": {"value": 3, **FIGURE}}, "egress_gb": {"value": 5, **FIGURE}},
    },
})  # fmt: skip
PROBE = Probe(
    device={"name": "Some CPU"}, steps=3, step_seconds=1.0, validation_target_seconds=0.01,
    parameters=1_000_000,
)  # fmt: skip
IS_CAPTURED = TrainingConfig().compile != "off"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks, beside the games and the shards that they are of."""
    found = write_blocks(tmp_path_factory.mktemp("games"), count=12)
    pack_games(str(found.parent / "games"), str(found.parent / "shards"))
    return found


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLDMODEL_PRICES", "WORLDMODEL_PRICE_PER_HOUR", "WORLDMODEL_PROVIDER"):
        monkeypatch.delenv(name, raising=False)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"training.mode": "window", "training.batch_size": 40},
    {"encoding.lookahead": 1, "data.split": "first"},
    {"data.max_games": 5, "training.max_steps": 3},
    {"data.end_method": 2},
    {"training.train_split": 0.4, "training.validation_games": 2},
]


@pytest.mark.parametrize("changes", SETTINGS)
@pytest.mark.parametrize("form", ["blocks", "games"])
def test_counts_are_those_of_the_run(blocks: Path, tmp_path: Path, changes: dict[str, Any], form: str) -> None:
    config = configure(changes)
    found = measure_extent(Location.of(blocks.parent / form), config, tmp_path)
    trainer, dataset = begin(config, blocks), open_data(config, blocks)
    assert found.is_exact
    assert found.games == len(dataset.split.train) + len(dataset.split.validation)
    assert found.work.total_steps == trainer.schedule.total_steps
    assert found.work.steps_per_epoch == trainer.feed.plan.steps_per_epoch
    assert found.work.epoch_targets == trainer.feed.plan.epoch_targets
    first = config.model.context_len + config.encoding.lookahead
    assert found.work.validation_targets == sum(
        game.frames - first for game in sample_games(dataset.split.validation, config.training.validation_games)
    )  # fmt: skip


def count_all(blocks: Path, config: ExperimentConfig) -> int:
    return sum(game.frames for game in select_games(read_index(Location.of(blocks)).games, filter_of(config.data)))


@pytest.mark.parametrize("form", ["games", "shards"])
@pytest.mark.parametrize("changes", [{}, {"data.max_games": 6}, {"training.mode": "window"}])
def test_a_sample_tells_about_what_there_is(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("worldmodel.run.extent.SAMPLE_GAMES", 4)
    config = configure(changes)
    found = measure_extent(Location.of(blocks.parent / form), config, tmp_path)
    exact = measure_extent(Location.of(blocks), config, tmp_path)
    assert not found.is_exact
    assert found.frames == pytest.approx(count_all(blocks, config), rel=0.15)
    assert found.games == pytest.approx(exact.games, abs=2)
    assert found.work.epoch_targets + found.work.validation_targets == pytest.approx(
        exact.work.epoch_targets + exact.work.validation_targets, rel=0.15
    )
    assert found.block_bytes > 0


def make_extent(blocks: Path, tmp_path: Path, **changes: Any) -> tuple[ExperimentConfig, Extent]:
    config = configure({"training.amp": True, **changes})
    extent = measure_extent(Location.of(blocks), config, tmp_path)
    work = replace(extent.work, total_steps=3600, steps_per_epoch=1800, epoch_targets=1_800_000, validation_targets=600)
    work = replace(work, rollout_frames=0)
    return config, replace(extent, work=work, block_bytes=10**9)


def test_hours_and_dollars_follow_from_the_probe_and_the_peaks(blocks: Path, tmp_path: Path) -> None:
    config, extent = make_extent(blocks, tmp_path)
    plan = make_plan(
        PlanRequest(config=config, trials=3, budget=Budget(usd=1), probe_seconds=1.0), extent, PROBE, PRICES
    )
    here, one, two, slow, odd = plan.compute
    assert here.hours == pytest.approx((3600 * 1.0 + 2 * 600 * 0.01) / 3600)
    assert (here.usd, odd.hours, odd.usd) == (None, None, None)
    forecast = Forecast(amp=True, work=plan.step, probe=PROBE, prices=PRICES, is_captured=IS_CAPTURED)
    for row, kind in ((one, "fast"), (two, "fast"), (slow, "slow")):
        seconds, basis = forecast.find_step_seconds(kind)
        assert seconds is not None
        assert row.hours == pytest.approx(seconds * (3600 + 2 * 600 / 1000 / 3) / 3600)
        assert row.basis == basis
    assert (one.usd, two.usd, slow.usd) == (pytest.approx(2 * one.hours), pytest.approx(3 * one.hours), None)
    assert (one.grid_hours, one.grid_usd) == (pytest.approx(3 * one.hours), pytest.approx(6 * one.hours))
    assert one.affordable_trials == pytest.approx(1 / (2 * one.hours))
    assert "roofline" in one.basis
    assert "measured here" in here.basis


def test_keeping_costs_blocks_and_checkpoints_and_fetching_one_of_each_run(blocks: Path, tmp_path: Path) -> None:
    config, extent = make_extent(blocks, tmp_path)
    one, two = make_plan(PlanRequest(config=config, trials=3, probe_seconds=1.0), extent, PROBE, PRICES).keeping
    gigabytes = 1 + 3 * 2 * 12e6 / 1e9
    assert (one.storage_usd_month, one.egress_usd) == (pytest.approx(10 * gigabytes), None)
    assert (two.storage_usd_month, two.egress_usd) == (None, pytest.approx(5 * 3 * 12e6 / 1e9))


def test_gpu_at_hand_scales_the_roofline_of_others(blocks: Path, tmp_path: Path) -> None:
    config, extent = make_extent(blocks, tmp_path)
    probe = replace(PROBE, device={"gpu": "NVIDIA fast"}, step_seconds=0.1)
    plan = make_plan(PlanRequest(config=config, probe_seconds=1.0), extent, probe, PRICES)
    here, one, two, slow, _ = plan.compute
    assert here.hours == one.hours == two.hours
    assert one.basis == "measured here"
    forecast = Forecast(amp=True, work=plan.step, probe=PROBE, prices=PRICES, is_captured=IS_CAPTURED)
    fast_seconds, slow_seconds = (forecast.find_step_seconds(kind)[0] for kind in ("fast", "slow"))
    assert fast_seconds is not None and slow_seconds is not None
    assert slow.hours == pytest.approx(0.1 * slow_seconds / fast_seconds * 3600.4 / 3600)


def test_without_a_peak_or_a_file_hours_elsewhere_are_unknown(blocks: Path, tmp_path: Path) -> None:
    config, extent = make_extent(blocks, tmp_path, **{"training.amp": False})
    here, one, two, slow, odd = make_plan(PlanRequest(config=config, probe_seconds=1.0), extent, PROBE, PRICES).compute
    assert here.hours is not None
    assert (one.hours, two.hours, odd.hours) == (None, None, None)
    assert slow.hours is not None
    plan = make_plan(PlanRequest(config=config, probe_seconds=1.0), extent, PROBE, None)
    assert (len(plan.compute), plan.keeping) == (1, [])
    with pytest.raises(UserError, match="--budget-usd 1 needs a price"):
        make_plan(PlanRequest(config=config, budget=Budget(usd=1), probe_seconds=1.0), extent, PROBE, None)


def test_a_probe_trains_and_leaves_nothing_behind(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in blocks.parent.rglob("*")}
    config = configure({"data.dataset_dir": str(blocks.parent / "games"), "save_dir": str(tmp_path / "runs")})
    plan = plan_costs(PlanRequest(config=config, probe_seconds=0.3), report=lambda text: None)
    assert plan.probe.steps >= 3
    assert plan.probe.step_seconds > 0
    assert plan.probe.validation_target_seconds > 0
    assert plan.probe.parameters == sum(p.numel() for p in begin(config, blocks).model.parameters())
    assert {path: path.stat().st_mtime_ns for path in blocks.parent.rglob("*")} == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "trials", "said"),
    [
        ({}, 0, "--trials 0"),
        ({"data.dataset_dir": None}, 1, "no data"),
        ({"data.dataset_dir": "absent"}, 1, "does not exist"),
        ({"data.end_method": 9}, 1, "passes the filters"),
        ({"model.context_len": 9000}, 1, "context_len"),
    ],
)
def test_what_cannot_be_trained_cannot_be_planned(
    blocks: Path, changes: dict[str, Any], trials: int, said: str
) -> None:
    config = configure({"data.dataset_dir": str(blocks), **changes})
    with pytest.raises(UserError, match=said):
        plan_costs(PlanRequest(config=config, trials=trials, probe_seconds=0.1), report=lambda text: None)
