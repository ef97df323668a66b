"""What is said of a device against what the system says of it."""

from __future__ import annotations

import json
import os

import psutil
import pytest
import torch

from worldmodel.errors import UserError
from worldmodel.machine.device import describe_device, has_bfloat16, pick_device


def test_a_cuda_device_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    for wish in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match=r"finds no GPU here; use device 'auto' or 'cpu'"):
            pick_device(wish)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UserError, match="expected 'auto', 'cpu' or 'cuda'"):
        pick_device("cudda")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    assert pick_device("cpu").type == "cpu"


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
