"""The counted work of a step: operations, kernels and memory traffic."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.run.test_plan_costs import PROBE
from tests.training.tiny_runs import configure
from worldmodel.experiment.config_file import override
from worldmodel.experiment.layers import load_experiment
from worldmodel.model.build import build_model
from worldmodel.run.forecast import GAP, MEMORY_SHARE, Forecast
from worldmodel.run.prices import read_prices
from worldmodel.run.step_work import Recorder, count_kernels, count_operations, count_step
from worldmodel.training.feed import sample_shape

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "tune" / "experiments" / "baseline.yaml"


@pytest.mark.parametrize("mode", ["sequence", "window"])
def test_operations_are_about_six_for_every_weight(mode: str) -> None:
    config = configure({"model.d_model": 128, "model.n_layers": 2, "model.headdim": 32, "training.mode": mode})
    model, shape = build_model(config.model, config.encoding.layout), sample_shape(config)
    weights = {n: p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n}
    heads = sum(count for name, count in weights.items() if "head" in name)
    body = sum(weights.values()) - heads
    per_target = body * shape.inputs / shape.positions + heads
    assert count_operations(config) == pytest.approx(6 * per_target, rel=0.35)
    work = count_step(config)
    assert work.operations == pytest.approx(work.targets * count_operations(config))


@pytest.mark.parametrize("changes", [{"training.mode": "window", "model.arch": "mlp"}, {"training.amp": True}])
def test_every_kind_of_step_is_counted(changes: dict[str, Any]) -> None:
    work = count_step(configure(changes))
    assert min(work.operations, work.memory_bytes, work.products, work.chains) > 0


def test_chain_reads_its_inputs_and_writes_its_outputs() -> None:
    with FakeTensorMode(), Recorder() as recorder:
        row = torch.empty(1, 1000)
        recorder.operations.clear()
        column = (2 * row).exp().add_(1).view(-1, 1)
        torch.mm(row, column)
    size = 4 * 1000
    assert count_kernels(recorder.operations) == (1, (size + size) + (2 * size + 4))


def test_parts_of_a_batch_add_kernels_not_operations() -> None:
    one, two = (count_step(configure({"training.batch_parts": parts})) for parts in (1, 2))
    assert (two.operations, two.products, two.chains) == (one.operations, 2 * one.products, 2 * one.chains)


def test_large_batches_share_the_traffic_of_weights() -> None:
    config = load_experiment(BASELINE)
    small, large = (count_step(override(config, {"training.batch_size": size})) for size in (16, 512))
    assert small.memory_bytes / small.targets > 1.3 * large.memory_bytes / large.targets
    assert (small.products, small.chains) == (large.products, large.chains)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 512])
def test_predicted_step_is_that_of_the_kernels_counted_on_fake_cuda(size: int) -> None:
    python, name = ROOT / ".venv-kernels/bin/python", f"4.28M {size}x64"
    if not python.exists() or not (ROOT / "tests/gpu/step_cost.py").exists():
        pytest.skip("no environment with Triton: make kernels")
    command = [str(python), "-m", "tests.gpu.step_cost", "--json", "--only", name, "--backends", "torch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads(done.stdout)
    config = override(load_experiment(BASELINE), {"training.batch_size": size})
    forecast = Forecast(amp=True, work=count_step(config), probe=PROBE, prices=read_prices(), is_captured=True)
    seconds, basis = forecast.find_step_seconds("A100-40GB")
    moving = 1e3 * row["KB_per_target"] * row["targets"] / (MEMORY_SHARE * 1.555e12)
    assert "(memory)" in basis
    assert seconds == pytest.approx(moving + GAP * (row["aten_total"] + row["fused"] + row["triton"]), rel=0.25)
