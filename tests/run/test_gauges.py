"""What Prometheus is told of a run: the run's own numbers, of its own GPU, and never at the run's cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.run.test_journal import train
from tests.training.tiny_runs import CPU, configure, write_blocks
from worldmodel.machine.gpu import Gpu
from worldmodel.run.gauges import GAUGES, PREFIX, TAGS, Gauges
from worldmodel.run.run_folder import read_record, start_run
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location

GPU = torch.device("cuda", 0)
MINE, OTHERS = "11111111-aaaa", "22222222-bbbb"


class FakeRay:
    """`ray` and `ray.util.metrics`, initialised; keeps what every gauge was set to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.series: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
        metrics = SimpleNamespace(Gauge=self.make)
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
        monkeypatch.setitem(sys.modules, "ray.util.metrics", metrics)

    def make(self, name: str, description: str, tag_keys: tuple[str, ...]) -> Any:
        assert description

        def set_value(value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(tag_keys)
            self.series.setdefault((name, tuple(sorted(tags.items()))), []).append(value)

        return SimpleNamespace(set=set_value)

    def read(self, name: str) -> list[float]:
        """All values of a gauge that has one series."""
        (found,) = [values for (key, _), values in self.series.items() if key == PREFIX + name]
        return found


class FakeLibrary:
    """NVML of a machine with two GPUs, of which CUDA_VISIBLE_DEVICES leaves the second, as number 0."""

    class NVMLError(Exception):
        pass

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, kind: str = "GPU", has_driver: bool = True) -> None:
        self.kind, self.has_driver, self.opened = kind, has_driver, 0
        monkeypatch.setitem(sys.modules, "pynvml", self)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=MINE))

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise self.NVMLError("driver not loaded")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        if name not in (f"{self.kind}-{MINE}", f"{self.kind}-{OTHERS}"):
            raise self.NVMLError("not found")
        return name

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        if handle.startswith("MIG"):
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu={MINE: 37, OTHERS: 99}[handle.split("-", 1)[1]], memory=5)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used={MINE: 3 * 2**30, OTHERS: 2**30}[handle.split("-", 1)[1]], total=80 * 2**30)


def test_gauges_say_what_the_runs_own_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = write_blocks(tmp_path)
    ray = FakeRay(monkeypatch)
    config = configure({"name": "one", "tracking.group": "grid", "training.seed": 7, "training.log_interval": 3})
    run = start_run(Location.of(tmp_path / "runs"), config, price_per_hour_usd=3600.0)
    train(run, config, blocks)
    rows, record = read_metrics(run.location), read_record(run.location)
    assert record.notes == []
    steps = [row for row in rows if "batch/loss" in row]
    for gauge, metric in {
        "loss": "batch/loss", "targets_per_second": "speed/targets_per_second", "data_share": "speed/data_share",
    }.items():  # fmt: skip
        assert ray.read(gauge) == [row[metric] for row in steps]
    assert record.best is not None
    assert (ray.read("step")[-1], ray.read("epoch")[-1]) == (record.total_steps, config.training.num_epochs)
    assert ray.read("best_metric")[-1] == record.best.value
    assert sorted(ray.read("seconds")) == ray.read("seconds")
    assert ray.read("cost_usd") == ray.read("seconds")  # a dollar a second
    assert ray.read("seconds")[-1] <= record.seconds.total
    own = {"run": "one", "grid": "grid", "seed": "7"}
    for name, tags in ray.series:
        assert {tag: dict(tags)[tag] for tag in TAGS} == own
        assert ("metric", config.training.best_metric) in tags or name != PREFIX + "best_metric"
    assert {name.removeprefix(PREFIX) for name, _ in ray.series} == {
        g for g in GAUGES if not g.startswith(("gpu", "host", "device", "mfu"))
    }


def test_without_a_price_there_is_no_cost_and_without_validation_no_best(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(monkeypatch)
    Gauges(configure(), CPU, pytest.fail).show({"step": 1.0, "cost_usd": None, "best_metric": None})
    assert [name for name, _ in ray.series] == [PREFIX + "step"]


def test_the_gpu_that_is_asked_is_the_one_that_is_computed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, library = FakeRay(monkeypatch), FakeLibrary(monkeypatch)
    gauges = Gauges(configure(), GPU, pytest.fail)
    gauges.show({"step": 1.0})
    gauges.show({"step": 2.0})
    assert ray.read("gpu_use") == [0.37, 0.37]
    assert ray.read("gpu_memory_bytes") == [3 * 2**30, 3 * 2**30]
    gauges.close()
    assert library.opened == 0


def test_a_part_of_a_gpu_has_memory_and_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeLibrary(monkeypatch, kind="MIG")
    gpu = Gpu.open(GPU)
    assert gpu is not None
    assert (gpu.read_use(), gpu.read_memory()) == (None, 3 * 2**30)


@pytest.mark.parametrize("settings", [{"has_driver": False}, {"kind": "unknown"}])
def test_a_gpu_that_the_library_does_not_know_is_absent(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    ray, library = FakeRay(monkeypatch), FakeLibrary(monkeypatch, **settings)
    Gauges(configure(), GPU, pytest.fail).show({"step": 1.0})
    assert [name for name, _ in ray.series] == [PREFIX + "step"]
    assert library.opened == 0


def test_a_failure_is_noted_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = write_blocks(tmp_path)
    FakeRay(monkeypatch)

    def fail(*given: Any, **more: Any) -> Any:
        raise ValueError("no such metric")

    monkeypatch.setattr(sys.modules["ray.util.metrics"], "Gauge", fail)
    config = configure()
    run = start_run(Location.of(tmp_path / "runs"), config)
    train(run, config, blocks)
    record = read_record(run.location)
    assert record.step == record.total_steps
    assert [note for note in record.notes if "Prometheus" in note] == [
        "no gauges for Prometheus any more (ValueError: no such metric)"
    ]


def test_a_run_without_ray_neither_imports_nor_starts_it() -> None:
    script = (
        "import sys\n"
        "from tests.training.tiny_runs import CPU, configure\n"
        "from worldmodel.run.gauges import Gauges\n"
        "Gauges(configure(), CPU, print).show({'step': 1.0})\n"
        "assert 'ray' not in sys.modules, 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
