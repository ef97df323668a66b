"""Our Triton kernels for short sequences, without a GPU: interpreted, and compiled for one."""

from __future__ import annotations

import pytest

from tests.model.test_kernels import TOLERANCE, run_comparison
from worldmodel.model import short_scan
from worldmodel.model.short_scan import LONGEST, WIDEST, Shape


@pytest.mark.slow
def test_interpreted_kernels_equal_plain_torch() -> None:
    found = run_comparison("interpret_short_scan.py", TRITON_INTERPRET="1")
    assert len(found) == 5
    for case, differences in found.items():
        for name, difference in differences.items():
            assert difference < 5 * TOLERANCE, (case, name, difference)


@pytest.mark.slow
def test_kernels_compile_for_every_gpu_we_name() -> None:
    found = run_comparison("compile_kernels.py")
    assert {f"{gpu} {kind}" for gpu in ("A100", "L4", "H100") for kind in ("bf16", "fp32")} == found.keys()
    assert all(size > 1000 for sizes in found.values() for size in sizes.values())


def test_long_sequences_and_wide_heads_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_scan, "is_installed", lambda: True)
    shape = Shape(heads=12, width=64, state=64)
    assert short_scan.fits(shape, LONGEST)
    assert not short_scan.fits(shape, LONGEST + 1)
    assert not short_scan.fits(shape._replace(width=2 * WIDEST), 10)
    assert not short_scan.fits(shape._replace(state=2 * WIDEST), 10)
