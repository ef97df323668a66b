"""A process keeps to its part of a GPU, and says why that is too small."""

from __future__ import annotations

import re
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from tests.machine.fake_gpu import GIB, FakeGpu
from worldmodel.errors import UserError
from worldmodel.machine.gpu_memory import CONTEXT_BYTES, GpuMemory, limit_memory
from worldmodel.training.feed import measure_room
from worldmodel.training.loop import Trainer
from worldmodel.training.memory import DeviceFullError, check_model_fits, explain_full_memory, explaining_full_start

GPU = torch.device("cuda", 0)
GAMES_22K = 27_300_000_000
"""Bytes of the frames of 22,000 games."""


@pytest.mark.parametrize("share", [0.5, 0.25, 0.2, 0.1])
def test_shares_and_their_contexts_fill_the_gpu_at_most(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu().install(monkeypatch)
    limit_memory(GPU, share)
    limit = GpuMemory.measure(GPU).limit
    assert (limit + CONTEXT_BYTES) / share <= gpu.total * (1 + 1e-6)
    assert limit >= 0.75 * share * gpu.total


def test_the_next_trial_of_a_process_gets_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu().install(monkeypatch)
    for share in (0.25, 0.5, 1.0):
        limit_memory(GPU, share)
        assert gpu.fraction == pytest.approx(share, abs=0.02)
    assert not GpuMemory.measure(GPU).is_shared


def test_22000_games_stay_on_a_whole_gpu_of_40_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(others=CONTEXT_BYTES).install(monkeypatch)
    assert measure_room(GPU) >= GAMES_22K
    assert gpu.total - CONTEXT_BYTES - measure_room(GPU) >= 8e9


def test_frames_take_half_of_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu().install(monkeypatch)
    limit_memory(GPU, 0.25)
    assert measure_room(GPU) == pytest.approx(0.5 * (0.25 * gpu.total - CONTEXT_BYTES), rel=1e-6)
    gpu.own = 2 * GIB
    assert measure_room(GPU) == pytest.approx(0.5 * (0.25 * gpu.total - CONTEXT_BYTES - 2 * GIB), rel=1e-6)


def test_a_share_below_cuda_s_own_need_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)
    with pytest.raises(UserError, match=r"a share of 0\.02 of NVIDIA A100.* is 0\.8 GiB: expected at least 0\.05"):
        limit_memory(GPU, 0.02)


def test_a_gpu_that_others_fill_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(others=42_000_000_000).install(monkeypatch)
    with pytest.raises(UserError, match=r"other processes hold 38\.4 of 39 GiB; end them \(nvidia-smi"):
        limit_memory(GPU, 1.0)


def test_a_gpu_without_room_for_a_context_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)

    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might ...")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    with pytest.raises(UserError, match=r"takes no other process \(CUDA error: out of memory\): end them"):
        limit_memory(GPU, 0.5)


def test_a_model_larger_than_its_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)
    limit_memory(GPU, 0.1)
    with torch.device("meta"):
        model = nn.Linear(20_000, 20_000)
    with pytest.raises(DeviceFullError, match=r"take 6\.0 GiB, .* are left 3\.2 GiB: use a share of at least 0\.18"):
        check_model_fits(model, GPU)
    limit_memory(GPU, 0.18)
    check_model_fits(model, GPU)


@pytest.mark.parametrize(("others", "said"), [(0, "use a larger share of the GPU"), (39 * GIB, "other processes hold")])
def test_full_memory_before_the_first_step_is_explained(
    others: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(others=others, fraction=0.25).install(monkeypatch)
    expected = f"before the first step .CUDA out of memory.*{said}"
    with pytest.raises(DeviceFullError, match=expected), explaining_full_start(GPU):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="another"), explaining_full_start(GPU):
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("others", "fitting", "said"),
    [
        (0, 16, r"out of memory on a share of NVIDIA A100.* \(9\.1 of 39 GiB\).*16 do.*a share of about 0\.45"),
        (0, 0, r"use a larger share of the GPU \(`tune/grid.py --gpus-per-trial`\), a smaller model"),
        (34 * GIB, 16, r"other processes hold 33\.2 of 39 GiB .*: end them"),
    ],
)
def test_full_memory_in_a_share_says_what_to_ask_for(
    others: int, fitting: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(others=others, allocated=2 * GIB, peak=10 * GIB).install(monkeypatch)
    gpu.fraction = 0.25 - CONTEXT_BYTES / gpu.total
    monkeypatch.setattr("worldmodel.training.memory.measure_pass", lambda plan, parts: 64 // parts)
    monkeypatch.setattr("worldmodel.training.memory.find_fitting", lambda trainer, size: fitting)
    trainer = Mock(spec=Trainer, step=4, device=GPU)
    trainer.training, trainer.workers = Mock(mode="sequence"), Mock(world=1)
    trainer.feed = Mock(plan=Mock(batch_size=64), parts=1)
    if fitting:
        gpu.peak = 2 * GIB + int(14.9 * GIB * fitting / 64)
    text = explain_full_memory(trainer, "CUDA out of memory")
    assert re.search(said, text), text
