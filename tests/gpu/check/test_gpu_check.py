"""Whatever happens to a part, the others have their results, and the files are whole."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.gpu.check import __main__ as command
from tests.gpu.check.page import render_page
from tests.gpu.check.parts import PARTS, TOTAL_SECONDS
from tests.gpu.check.report import Failed, Report, Skipped
from tests.gpu.check.runner import ROOT
from tests.gpu.check.training import WATCHED, count_events

FAKE = """
import json, os, signal, subprocess, sys, time
name, folder = sys.argv[1], sys.argv[2]
with open(f"{folder}/{name}.rows", "w") as rows:
    rows.write(json.dumps({"case": "first", "ms": 1.5}) + "\\n")
print("a line of", name, flush=True)
if name == "parity":
    sys.exit("raised")
if name == "fused":
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    open(f"{folder}/child", "w").write(str(child.pid))
    time.sleep(60)
if name == "losses":
    os.kill(os.getpid(), signal.SIGSEGV)
with open(f"{folder}/{name}.end", "w") as end:
    json.dump({"state": "skipped" if name == "steps" else "passed", "summary": "<well>"}, end)
"""


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "gpu-check.json").read_text())
    return found


@pytest.fixture(scope="module")
def faked(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A whole check whose parts are stand-ins: one raises, one hangs, one dies by a signal."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.gpu.check.runner.WITHOUT_GPU", 1)
        patch.setattr(command, "PARTS", [replace(p, seconds=2) if p.name == "fused" else p for p in PARTS])
        status = command.main(["--out", str(out)], [sys.executable, "-c", FAKE])
    return status, out


def test_a_part_that_ends_badly_leaves_all_results(faked: tuple[int, Path]) -> None:
    status, out = faked
    parts = {part["name"]: part for part in read(out)["parts"]}
    states = {name: part["state"] for name, part in parts.items()}
    expected = dict.fromkeys(states, "passed") | {"parity": "failed", "losses": "failed", "steps": "skipped"}
    assert list(parts) == [part.name for part in PARTS] and states == expected | {"fused": "timed out"}
    assert "exit status 1" in parts["parity"]["summary"] and "raised" in parts["parity"]["error"]
    assert "SIGSEGV" in parts["losses"]["summary"] and "a line of losses" in parts["losses"]["error"]
    assert all(part["rows"] == [{"case": "first", "ms": 1.5}] for part in parts.values())
    assert status == 1


def test_a_part_that_hangs_ends_with_its_children(faked: tuple[int, Path]) -> None:
    _, out = faked
    child = int((out / "parts" / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_page_names_each_part_and_its_state(faked: tuple[int, Path]) -> None:
    page = (faked[1] / "gpu-check.html").read_text()
    assert page == render_page(read(faked[1]))
    for part in read(faked[1])["parts"]:
        assert f'<h2 id="{part["name"]}">' in page and f">{part['state']}</span>" in page
    assert "&lt;well&gt;" in page and "<well>" not in page and "http" not in page


def test_results_are_written_before_the_next_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the machine went away during the second part."""

    def go_away(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "PARTS", PARTS[:2])
    monkeypatch.setattr("tests.gpu.check.runner.run_process", lambda *_: 0)
    check = command.Check(folder=tmp_path, command=[])
    command.run_part(check, PARTS[0], tmp_path)
    monkeypatch.setattr("tests.gpu.check.runner.run_process", go_away)
    with pytest.raises(KeyboardInterrupt):
        command.run_part(check, PARTS[1], tmp_path)
    assert [part["name"] for part in read(tmp_path)["parts"]] == [PARTS[0].name]


def test_time_limits_sum_to_ten_minutes_at_most() -> None:
    assert sum(part.seconds for part in PARTS) <= TOTAL_SECONDS == 600


def test_each_part_has_a_function() -> None:
    assert all(callable(part.load()) for part in PARTS)


def test_a_failing_case_is_a_row_and_not_the_end(tmp_path: Path) -> None:
    report, wrong = Report(folder=tmp_path, name="some", seconds=60), ["raise", "fail", "skip", "work"]

    def work(what: str) -> dict[str, Any]:
        if what == "raise":
            raise RuntimeError("CUDA error: an illegal memory access")
        if what == "fail":
            raise Failed("expected less", {"difference": float("nan")})
        if what == "skip":
            raise Skipped("needs two GPUs")
        return {"ms": 1 / 3}

    report.go([{"what": what} for what in wrong], work)
    rows = [json.loads(line) for line in (tmp_path / "some.rows").read_text().splitlines()]
    assert "illegal memory" in rows[0]["error"] and (rows[1]["error"], rows[1]["difference"]) == (
        "expected less",
        "nan",
    )
    assert "error" not in rows[2] and "two GPUs" in rows[2]["note"] and rows[3]["ms"] == 0.333333


def test_cases_without_time_are_left_out(tmp_path: Path) -> None:
    report = Report(folder=tmp_path, name="some", seconds=1)
    report.go([{"what": 1}], lambda what: {}, reserve=5)
    assert "left out" in (tmp_path / "some.rows").read_text()


def test_launches_are_counted_by_name() -> None:
    from types import SimpleNamespace

    host, device = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA
    names = ["cudaLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch", "cudaMemcpyAsync", "aten::mm"]
    events = [SimpleNamespace(name=name, device_type=host) for name in names]
    events += [SimpleNamespace(name="gemm", device_type=device, time_range=SimpleNamespace(elapsed_us=lambda: 7.2))]
    found = count_events(events * WATCHED)
    assert (found["launches"], found["graph launches"], found["copies"]) == (2, 1, 1)
    assert found["kernels ms"] == 0.007 and found["top"] == ["gemm 7 us"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: `make gpu-check` measures it")
def test_without_a_gpu_nothing_fails(tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "tests.gpu.check", "--out", str(tmp_path)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=890)
    assert done.returncode == 0, done.stdout[-3000:]
    states = {part["name"]: (part["state"], part["summary"]) for part in read(tmp_path)["parts"]}
    assert states.pop("compiled") == ("skipped", "needs a GPU")
    assert {state for state, _ in states.values()} == {"passed"}
    assert not (tmp_path / "parts" / "scratch").exists()
