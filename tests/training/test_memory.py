"""What does not fit into memory: pretended limits on the samples of a pass, and a real one."""

from __future__ import annotations

import subprocess
import sys
from math import lcm
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tests.training.tiny_runs import Log, begin, configure, take_state, write_blocks
from worldmodel.errors import UserError
from worldmodel.experiment.config import PartCount
from worldmodel.features.batch import Inputs
from worldmodel.model.world_model import Mamba2WorldModel
from worldmodel.training.loop import Trainer
from worldmodel.training.memory import (
    DeviceFullError,
    choose_parts,
    explaining_full_memory,
    is_out_of_memory,
    measure_pass,
)

BATCH = {"training.batch_size": 24, "training.num_epochs": 1, "data.split": "md5"}
CPU_WORDS = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 B"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"), count=48)


def limit_samples(monkeypatch: pytest.MonkeyPatch, most: int, *, is_training: bool = True) -> None:
    """Pretend that a pass of more samples does not fit, when the model trains (or when it validates)."""
    forward = Mamba2WorldModel.forward

    def limited(self: Mamba2WorldModel, inputs: Inputs, *args: Any, **options: Any) -> Any:
        if self.training == is_training and len(inputs.floats) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return forward(self, inputs, *args, **options)

    monkeypatch.setattr(Mamba2WorldModel, "forward", limited)


def train(trainer: Trainer) -> Log:
    log = Log()
    with explaining_full_memory(trainer):
        log.run(trainer)
    return log


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError(CPU_WORDS), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_full_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("parts", get_args(PartCount))
def test_a_pass_is_as_large_as_the_largest_part_of_the_feed(blocks: Path, parts: int) -> None:
    feed = begin(configure({**BATCH, "training.batch_parts": parts}), blocks).feed
    seen = [len(batch.inputs.floats) for step in range(feed.plan.steps_per_epoch) for batch in feed.batches(step)]
    assert measure_pass(feed.plan, feed.parts) == max(seen)


@pytest.mark.parametrize("most", [17, 9, 7])
def test_the_parts_that_are_proposed_fit_and_learn_the_same(
    blocks: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    expected = take_state(train(begin(configure(BATCH), blocks)).trainer)
    limit_samples(monkeypatch, most)
    with pytest.raises(DeviceFullError, match=r"24 sequences at a time do not fit, (\d+) do \(tried\)") as caught:
        train(begin(configure(BATCH), blocks))
    said = str(caught.value)
    assert "Tried to allocate 3.00 GiB" in said and "at step 1 " in said and "--auto-batch" in said
    parts = int(said.split("training.batch_parts to ")[1].split(",")[0])
    found = take_state(train(begin(configure({**BATCH, "training.batch_parts": parts}), blocks)).trainer)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("most", [24, 17, 9, 7])
def test_auto_batch_takes_the_fewest_parts_that_fit(
    blocks: Path, monkeypatch: pytest.MonkeyPatch, most: int, workers: int
) -> None:
    limit_samples(monkeypatch, most)
    trainer, lines = begin(configure(BATCH), blocks), list[str]()
    parts = choose_parts(trainer, workers, lines.append)
    sizes = {p: measure_pass(trainer.feed.plan, lcm(p, workers)) for p in get_args(PartCount)}
    assert sizes[parts] <= most
    assert all(size > most for p, size in sizes.items() if p < parts)
    assert f"training.batch_parts {parts}: up to {sizes[parts]} of a batch's 24 sequences" in lines[0]


def test_where_no_part_fits_the_batch_that_would_is_named(blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_samples(monkeypatch, 1)
    with pytest.raises(DeviceFullError, match=r"even the smallest parts .* training.batch_size 1 \(which learns diff"):
        choose_parts(begin(configure(BATCH), blocks), 1, print)
    with pytest.raises(DeviceFullError, match=r"1 do \(tried\)\. Set training.batch_size to 1"):
        train(begin(configure(BATCH), blocks))
    limit_samples(monkeypatch, 0)
    with pytest.raises(DeviceFullError, match="not even one of the sequences fits: use a smaller model"):
        train(begin(configure(BATCH), blocks))


def test_a_validation_that_does_not_fit_is_not_blamed_on_the_batch(
    blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_samples(monkeypatch, 1, is_training=False)
    with pytest.raises(DeviceFullError, match=r"pass of 24 sequences fits .* set training.eval_batch_size lower"):
        train(begin(configure(BATCH), blocks))


def test_other_errors_pass_unchanged(blocks: Path) -> None:
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError) as caught, explaining_full_memory(begin(configure(BATCH), blocks)):
        raise error
    assert caught.value is error
    assert not isinstance(caught.value, UserError)


REAL = """
import resource, sys
from pathlib import Path
import torch
from tests.training.tiny_runs import Log, begin, configure
from worldmodel.errors import UserError
from worldmodel.training.memory import explaining_full_memory
torch.set_num_threads(1)
changes = {"training.batch_size": 2048, "model.d_model": 512, "training.max_steps": 1, "training.sequence_length": 32}
trainer = begin(configure(changes), Path(sys.argv[1]))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), resource.RLIM_INFINITY))
try:
    with explaining_full_memory(trainer):
        Log().run(trainer)
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS holds on Linux")
def test_memory_that_is_really_full_is_explained(tmp_path: Path) -> None:
    blocks = write_blocks(tmp_path, count=16, frames=2000)
    root = Path(__file__).parents[2]
    asked = [sys.executable, "-c", REAL, str(blocks)]
    run = subprocess.run(asked, cwd=root, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr
    assert "can't allocate memory" in run.stdout
    assert "sequences at a time do not fit" in run.stdout
    fitting = int(run.stdout.split("do not fit, ")[1].split(" do (tried)")[0])
    assert 0 < fitting < 2048
