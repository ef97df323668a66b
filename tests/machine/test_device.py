"""What is said of a device against what the system says of it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import psutil
import pytest
import torch

from tests.machine.fake_gpu import FakeGpu
from worldmodel.errors import UserError
from worldmodel.machine.device import describe_device, has_bfloat16, note_idle_gpu, pick_device, set_up_device


def test_a_cuda_device_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    for wish in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match=r"finds no GPU here; use device 'auto' or 'cpu'"):
            pick_device(wish)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UserError, match="expected 'auto', 'cpu' or 'cuda'"):
        pick_device("cudda")


@pytest.mark.parametrize("number", [0, 1])
def test_a_gpu_is_known_by_its_number(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(number=number).install(monkeypatch)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", number)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert pick_device("cpu").type == "cpu"


def test_a_driver_too_old_is_told_with_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("worldmodel.machine.device._read_driver", lambda: "570.86.15")
    with pytest.raises(UserError, match=r"found NVIDIA driver 570\.86\.15, expected 580 or newer.*Update.*whl/cu126"):
        pick_device("cuda")
    (note,) = note_idle_gpu("auto", pick_device("auto").type)
    assert note.startswith("training on the CPU") and "580" in note
    assert not note_idle_gpu("cpu", "cpu")


@pytest.mark.parametrize("deterministic", [True, False])
def test_training_sets_its_gpu_up_by_number(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu().install(monkeypatch)
    set_up_device(torch.device("cuda", 1), deterministic=deterministic)
    assert gpu.calls == [
        "set_device cuda:1", "set_float32_matmul_precision high", f"use_deterministic_algorithms {deterministic}",
    ]  # fmt: skip
    assert os.environ["MAMBA_DETERMINISTIC"] == os.environ["CAUSAL_CONV1D_DETERMINISTIC"] == str(int(deterministic))
    assert os.environ["TRITON_CACHE_AUTOTUNING"] == str(int(not deterministic))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_cpu_keeps_full_float32_products(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu().install(monkeypatch)
    set_up_device(torch.device("cpu"), deterministic=True)
    assert not gpu.calls


def test_compiled_kernels_stay_on_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pick_device("cuda")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "worldmodel/triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "worldmodel/inductor")


def test_kernels_go_to_the_temporary_folder_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu().install(monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    pick_device("cuda")
    assert os.environ["TRITON_CACHE_DIR"].startswith(tempfile.gettempdir())


def test_the_cpu_is_described_as_the_system_describes_it() -> None:
    found = describe_device(torch.device("cpu"))
    assert found["type"] == "cpu"
    assert found["name"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert found["bfloat16"] == has_bfloat16(torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_gpu_is_described_as_the_driver_describes_it() -> None:
    found = describe_device()
    assert found["gpu"] == torch.cuda.get_device_name()
    assert found["gpu_memory_bytes"] == torch.cuda.get_device_properties(0).total_memory
    assert has_bfloat16(torch.device("cuda")) == (torch.cuda.get_device_capability() >= (8, 0))
    assert json.loads(json.dumps(found)) == found
