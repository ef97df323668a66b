"""MFU: counted operations over a data sheet's peak, on GPUs of a known peak only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.run.test_journal import train
from tests.training.tiny_runs import CPU, configure, write_blocks
from worldmodel.run.mfu import find_peak_rate
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.run.step_work import count_operations
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location

GPU = torch.device("cuda", 0)


def name_gpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name=name))


@pytest.mark.parametrize("workers", [1, 4])
def test_peak_rate_is_peak_over_operations(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    name_gpu(monkeypatch, "NVIDIA A100-SXM4-40GB")
    config = configure()
    assert find_peak_rate(config, GPU, workers) == pytest.approx(workers * 312e12 / count_operations(config))


@pytest.mark.parametrize(("device", "name"), [(CPU, "NVIDIA A100-SXM4-40GB"), (GPU, "Tesla T4"), (GPU, "GTX 1080")])
def test_no_mfu_without_a_known_peak(monkeypatch: pytest.MonkeyPatch, device: torch.device, name: str) -> None:
    name_gpu(monkeypatch, name)
    assert find_peak_rate(configure(), device, 1) is None


def test_bad_price_file_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    name_gpu(monkeypatch, "NVIDIA A100-SXM4-40GB")
    monkeypatch.setenv("WORLDMODEL_PRICES", "absent.yaml")
    assert find_peak_rate(configure(), GPU, 1) is None


@pytest.mark.parametrize("peak", [None, 1e6])
def test_line_metrics_and_record_have_the_same_mfu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peak: float | None
) -> None:
    monkeypatch.setattr("worldmodel.run.journal.find_peak_rate", lambda config, device, workers: peak)
    config = configure({"training.num_epochs": 1})
    run = start_run(Location.of(tmp_path / "runs"), config)
    shown = train(run, config, write_blocks(tmp_path))
    rows, record = read_metrics(run.location), read_record(run.location)
    found = [row["speed/mfu"] for row in rows if "speed/mfu" in row]
    assert found == [row["speed/targets_per_second"] / peak for row in rows if peak and "batch/loss" in row]
    assert record.metrics.get("speed/mfu") == (found[-1] if peak else None)
    assert ("mfu" in shown) == bool(peak)
