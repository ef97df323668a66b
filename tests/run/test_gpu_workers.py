"""Workers with GPUs, started by a process that has none, each on its own device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray.train
import ray.train.torch
import torch
from torch import nn

from tests.machine.fake_gpu import FakeGpu
from tests.training.tiny_runs import configure, write_blocks
from worldmodel.errors import UserError
from worldmodel.machine.device_state import describe_state
from worldmodel.machine.gpu import Gpu
from worldmodel.run.crew import Crew
from worldmodel.run.prices import HOUR
from worldmodel.run.record import Seconds
from worldmodel.run.run import Run
from worldmodel.run.run_folder import start_run
from worldmodel.run.train import TrainRequest, train
from worldmodel.run.train_worker import find_place, note_price, prepare_kernels
from worldmodel.storage import Location
from worldmodel.training.job import Job, fit_precision
from worldmodel.training.workers import Workers

GPU = torch.device("cuda", 1)


def begin(folder: Path, **facts: Any) -> Run:
    return start_run(Location.of(folder), configure(), **facts)


def test_the_driver_of_workers_with_gpus_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    crews: list[Crew] = []
    monkeypatch.setattr("worldmodel.run.train.work", lambda loop, settings, crew: crews.append(crew))
    places = {"data.dataset_dir": str(write_blocks(tmp_path / "games")), "save_dir": str(tmp_path / "runs")}
    config = configure({**places, "training.device": "cuda", "training.compile": "compile"})
    record = train(TrainRequest(config=config, workers=2), report=lambda line: None)
    assert [(crew.workers, crew.uses_gpu) for crew in crews] == [(2, True)]
    assert record.device == {"type": "cuda"}


def test_one_worker_still_needs_the_gpu_that_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match="finds no GPU here"):
        train(TrainRequest(config=configure({"training.device": "cuda"})), report=lambda line: None)


def test_the_first_worker_records_its_gpu_and_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)
    monkeypatch.setenv(HOUR, "2")
    run = begin(tmp_path, device={"type": "cuda"}, world_size=2)
    note_price(run, Job(config="", run="", blocks="", workers=2, resume=False, init=""), Workers(device=GPU, world=2))
    assert run.record.device["gpu"] == "NVIDIA A100-SXM4-40GB"
    assert run.record.price_per_hour_usd == 4


def test_a_device_that_is_recorded_stays(tmp_path: Path) -> None:
    run = begin(tmp_path, device={"type": "cuda", "gpu": "H100"}, price_per_hour_usd=3.0)
    note_price(run, Job(config="", run="", blocks="", workers=1, resume=False, init=""), Workers(device=GPU))
    assert (run.record.device["gpu"], run.record.price_per_hour_usd) == ("H100", 3.0)


def test_a_run_that_shrinks_costs_less_from_then_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)
    monkeypatch.setenv(HOUR, "2")
    run = begin(
        tmp_path, device={"type": "cuda", "gpu": "A100"}, world_size=3, starts=2, price_per_hour_usd=6.0,
        seconds=Seconds(total=1800.0),
    )  # fmt: skip
    note_price(run, Job(config="", run="", blocks="", workers=3, resume=False, init=""), Workers(device=GPU, world=2))
    found = (run.record.price_per_hour_usd, run.record.cost_before_usd, run.record.price(3600.0))
    assert found == pytest.approx((4.0, 3.0, 5.0), rel=1e-3)


def test_each_worker_computes_on_the_gpu_that_ray_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the current device of the thread is."""
    FakeGpu(number=0).install(monkeypatch)
    ranks = {"get_world_rank": lambda: 3, "get_world_size": lambda: 4, "get_local_world_size": lambda: 2}
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(**ranks))
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: GPU)
    workers, neighbours = find_place(4, "cuda")
    assert (workers.device, workers.rank, workers.world, neighbours) == (GPU, 3, 4, 2)
    assert find_place(4, "cpu")[0].device.type == "cpu"
    assert find_place(1, "cuda")[0].device == torch.device("cuda", 0)


def test_gradients_of_workers_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda model, **options: given.update(options) or model)
    Workers(device=GPU, world=2).wrap(nn.Linear(1, 1))
    assert given == {"device_ids": [GPU], "gradient_as_bucket_view": True}


def test_what_a_thread_reads_of_a_gpu_is_of_the_run_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is kept alive in a thread, whose current device is the first one."""
    FakeGpu(number=0).install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: {GPU: 7}.get(device, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: {GPU: 9}.get(device, 0))
    gpu = Mock(spec=Gpu, device=GPU, **{"read_memory.return_value": 1.0, "read_use.return_value": 0.5})
    found = describe_state(gpu)
    assert (found["torch_bytes"], found["torch_peak_bytes"]) == (7, 9)


def test_a_gpu_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(bfloat16=False).install(monkeypatch)
    monkeypatch.setattr("worldmodel.run.train_worker.explain_missing_compiler", lambda device: None)
    config = configure({"training.amp": True})
    assert not fit_precision(config, GPU).training.amp
    assert fit_precision(config, torch.device("cpu")) is config
    assert any("no bfloat16" in note for note in prepare_kernels(config, GPU))
    gpu.bfloat16 = True
    assert fit_precision(config, GPU) is config and not prepare_kernels(config, GPU)


def test_a_missing_compiler_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)
    states: list[bool] = []
    monkeypatch.setattr("worldmodel.run.train_worker.explain_missing_compiler", lambda device: "TritonMissing: no")
    monkeypatch.setattr("worldmodel.run.train_worker.reset_fusing", lambda *, enabled: states.append(enabled))
    (note,) = prepare_kernels(configure(), GPU)
    assert "TritonMissing" in note and "make gpu" in note and states == [False]
