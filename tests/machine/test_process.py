"""Memory that ended work has left is given back."""

from __future__ import annotations

import gc
import weakref

import psutil
import pytest

from tests.machine.fake_gpu import FakeGpu
from worldmodel.machine.process import release_memory


class Node:
    """Something that can hold itself."""

    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_collected() -> None:
    gc.disable()
    try:
        node = Node()
        seen = weakref.ref(node)
        del node
        assert seen() is not None
        release_memory()
        assert seen() is None
    finally:
        gc.enable()


def test_gpu_memory_that_torch_keeps_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu().install(monkeypatch)
    release_memory()
    assert gpu.calls == ["empty_cache"]


@pytest.mark.skipif(not psutil.LINUX, reason="malloc_trim is glibc's")
def test_pages_that_malloc_keeps_are_given_back() -> None:
    kept = []
    for _ in range(100_000):  # too small to be mapped alone; the last one of each ten keeps the heap's top where it is
        kept.append(bytearray(1000))
    kept = kept[::10]
    before = psutil.Process().memory_info().rss
    release_memory()
    assert before - psutil.Process().memory_info().rss > 10 << 20
    assert kept
