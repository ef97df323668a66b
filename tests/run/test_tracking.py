"""Every number reaches the run's own file, and W&B from there; nothing there can hold up or end a run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.s3_server import serve_s3, use_s3
from worldmodel.experiment.config import TrackingConfig
from worldmodel.run import wandb_sink
from worldmodel.run.tracking import NONFINITE, Tracker, read_metrics, render_row
from worldmodel.run.wandb_sink import QUEUE_ROWS, RETRY_SECONDS, WandbSink, choose_mode, has_key
from worldmodel.storage import Location

ROWS = [
    {"loss/total": 1.25, "lr": 5e-4, "batch/loss": math.inf},
    {"loss/total": 1 / 3, "lr": 1e-300, "val_metric/position_mae": 0.1904},
    {"loss/total": math.nan, "val_action/cat_ground": 97.5, "eval/summary_pos_k5": -7.0},
]
BLOCK = 32768
ID = "0123456789abcdef"
"""W&B's files are LevelDB logs: blocks of records [crc32 (4), length (2), type (1), content] after a header of 7."""


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nobody has logged in to W&B."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(wandb_sink, "_last_failure", wandb_sink.LastFailure())


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


def read_wandb(path: Path) -> list[Any]:
    """The records of an offline W&B file."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, part, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        part += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(part))
            part = b""
    return found


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows that an offline W&B file holds."""
    rows = [r.history.item for r in read_wandb(path) if r.WhichOneof("record_type") == "history"]
    return [{i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in row} for row in rows]


def track(location: Location, notes: list[str], rows: list[dict[str, float]] = ROWS) -> Tracker:
    with Tracker(
        location, TrackingConfig(tags=("t",), group="g"), {"training": {"lr": 5e-4}}, notes.append, ID
    ) as tracker:
        for step, row in enumerate(rows, start=1):
            tracker.log(row, step)
    return tracker


def is_equal(left: float | None, right: float) -> bool:
    return not math.isfinite(right) if left is None else left == right


def test_the_offline_wandb_run_holds_every_number_of_the_metrics_file(tmp_path: Path) -> None:
    notes: list[str] = []
    many = [*ROWS, *({"loss/total": 1 / (k + 1)} for k in range(1500))]
    tracker = track(Location.of(tmp_path), notes, many)
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1
    assert files[0].stat().st_size > 2 * BLOCK
    history = read_history(files[0])
    assert len(history) == len(written) == len(many)
    for row, line in zip(history, written, strict=True):
        odd = line.pop(NONFINITE, [])
        assert all(is_equal(line[name], row[name]) for name in line), (line, row)
        assert all(not math.isfinite(row[name]) for name in odd)
    assert len(notes) == 1
    assert tracker.address is not None
    shown = subprocess.run(f"echo {tracker.address}", shell=True, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["wandb", "sync", str(files[0].parent)]  # as a shell reads it
    assert tracker.address in notes[0]
    assert "no key: set WANDB_API_KEY" in notes[0]


def test_a_resumed_offline_run_repeats_no_note_and_names_both_its_parts(tmp_path: Path) -> None:
    notes: list[str] = []
    addresses = {track(Location.of(tmp_path), notes).address for _ in range(2)}
    assert len(set(notes)) == len(addresses) == 1
    (address,) = addresses
    shown = subprocess.run(f"echo {address}", shell=True, capture_output=True, text=True, check=True).stdout
    parts = [Path(part) for part in shown.split()[2:]]
    assert [len(read_history(next(part.glob("*.wandb")))) for part in parts] == [len(ROWS)] * len(parts)
    ids = {
        r.run.run_id for p in parts for r in read_wandb(next(p.glob("*.wandb"))) if r.WhichOneof("record_type") == "run"
    }
    assert ids == {ID}  # one page


def test_trials_in_a_row_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    """A reused actor trains many trials: threads, open files and helper processes are those of the first."""
    here = psutil.Process()

    def count() -> tuple[int, int, int]:
        return here.num_threads(), here.num_fds(), len(here.children(recursive=True))

    for trial in range(2):
        track(Location.of(tmp_path / str(trial)), [])
    time.sleep(0.5)  # its helper threads end a little later
    first = count()
    for trial in range(2, 7):
        track(Location.of(tmp_path / str(trial)), [])
    deadline = time.monotonic() + 5
    while (last := count()) > first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(now <= then for now, then in zip(last, first, strict=True)), (first, last)


def test_the_offline_run_carries_the_config_the_name_and_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    location = Location.of(tmp_path / "trial")
    track(location, [])
    file = next((tmp_path / "trial").glob("wandb/offline-run-*/*.wandb"))
    run = next(r.run for r in read_wandb(file) if r.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.run_id, run.display_name, run.project, run.run_group) == (
        ID,
        "trial",
        "worldmodel",
        "g",
    )
    assert config["training"] == {"lr": 5e-4}
    found = [p for p in (tmp_path / "trial").rglob("*") if p.is_file() and b"very-secret-value" in p.read_bytes()]
    assert found == []


def test_a_run_in_an_object_store_keeps_its_offline_file_there(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    location = Location.of("s3://games/runs/trial")
    track(location, [])
    assert [row["loss/total"] for row in read_metrics(location)] == [1.25, 1 / 3, None]
    (name,) = [e.name for e in (location / "wandb").list_entries(recursive=True) if e.name.endswith(".wandb")]
    (location / "wandb" / name).copy_to(tmp_path / "copy.wandb")
    assert len(read_history(tmp_path / "copy.wandb")) == len(ROWS)


def fake_wandb(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    fake = SimpleNamespace(init=init, Settings=lambda **given: SimpleNamespace(**given))
    monkeypatch.setitem(sys.modules, "wandb", fake)


class FakeRun:
    """A W&B run whose `log` waits for a gate."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate, self.rows = gate, []
        self.url = "https://wandb.example/run"
        self.settings = SimpleNamespace(sync_dir="/nowhere", mode="offline")

    def define_metric(self, *names: str, **more: str) -> None:
        pass

    def log(self, row: dict[str, float]) -> None:
        self.gate.wait(10)
        self.rows.append(row)

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("failing", ["init", "log"])
def test_a_wandb_that_fails_is_noted_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*given: Any, **more: Any) -> Any:
        raise RuntimeError("broken pipe")

    run = FakeRun(threading.Event())
    run.log = fail  # type: ignore[method-assign]
    fake_wandb(monkeypatch, fail if failing == "init" else lambda **given: run)
    notes: list[str] = []
    track(Location.of(tmp_path), notes)
    assert any("RuntimeError: broken pipe" in note and "metrics.jsonl has everything" in note for note in notes)
    assert len(read_metrics(Location.of(tmp_path))) == len(ROWS)


def test_a_wandb_that_hangs_delays_nothing_and_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    fake_wandb(monkeypatch, lambda **given: release.wait(20))
    monkeypatch.setattr(wandb_sink, "START_SECONDS", 0.0)
    notes: list[str] = []
    began = time.monotonic()
    sink = WandbSink(Location.of(tmp_path), TrackingConfig(), {}, notes.append, ID)
    for step in range(100):
        sink.log({"step": step})
    assert time.monotonic() - began < 2
    sink.close(timeout=0.2)
    assert time.monotonic() - began < 3
    assert [note.split(";")[0] for note in notes] == [
        "W&B has not started in 0 s",
        "W&B did not finish within 0 s",
    ]
    release.set()


def test_a_slow_wandb_gets_the_latest_numbers_and_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    run = FakeRun(gate)
    fake_wandb(monkeypatch, lambda **given: run)
    sink = WandbSink(Location.of(tmp_path), TrackingConfig(), {}, lambda note: None, ID)
    total = QUEUE_ROWS + 500
    for step in range(total):
        sink.log({"step": step, "loss": step / 2})
    assert len(sink._rows) <= QUEUE_ROWS
    gate.set()
    sink.close()
    assert len(run.rows) <= QUEUE_ROWS + 1
    assert run.rows[-1] == {"step": total - 1, "loss": (total - 1) / 2}


def test_without_network_a_run_with_a_key_goes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def init(**given: Any) -> FakeRun:
        opened.append((given["mode"], given["resume"], given["id"]))
        if given["mode"] == "online":
            raise ConnectionError("no route to host")
        return FakeRun(gate)

    gate = threading.Event()
    gate.set()
    fake_wandb(monkeypatch, init)
    sys.modules["wandb"].teardown = lambda: opened.append("teardown")  # type: ignore[attr-defined]
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    notes: list[str] = []
    track(Location.of(tmp_path), notes)
    assert opened == [("online", "allow", ID), "teardown", ("offline", None, ID)]
    assert "offline (ConnectionError: no route to host)" in notes[0]
    track(Location.of(tmp_path / "next"), notes)  # soon after, in the same process: nobody waits for it again
    assert [mode for mode, *_ in opened[3:]] == ["offline"]
    assert "offline (ConnectionError: no route to host)" in notes[1]
    monkeypatch.setattr(wandb_sink.time, "monotonic", lambda now=time.monotonic: now() + RETRY_SECONDS)
    track(Location.of(tmp_path / "later"), notes)
    assert opened[4][0] == "online"


def test_a_server_that_refuses_leaves_a_readable_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With W&B itself: its helper process must let go of the id that the failed start took."""
    with serve_s3() as url:  # any server that is not W&B
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setattr(wandb_sink, "START_SECONDS", 1.0)
        notes: list[str] = []
        track(Location.of(tmp_path), notes)
    assert notes[-1].startswith("W&B is offline (")
    assert len(read_history(next(tmp_path.glob("wandb/offline-run-*/*.wandb")))) == len(ROWS)


def test_credentials_in_wandbs_address_reach_neither_its_files_nor_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://somebody:planted-password@127.0.0.1:1/wandb")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb_sink, "START_SECONDS", 1.0)
    notes: list[str] = []
    track(Location.of(tmp_path), notes)
    assert wandb_sink.os.environ["WANDB_BASE_URL"] == "http://127.0.0.1:1/wandb"
    assert "its user and password are left out" in notes[0]
    found = [p for p in tmp_path.rglob("*") if p.is_file() and b"planted-password" in p.read_bytes()]
    assert found == [] and "planted-password" not in "".join([*notes, *capfd.readouterr()])


def test_the_mode_follows_the_key_the_setting_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not has_key()
    assert [choose_mode(s)[0] for s in ("auto", "offline", "disabled")] == ["offline", "offline", "disabled"]
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    assert has_key()
    assert [choose_mode(s)[0] for s in ("auto", "offline", "disabled")] == ["online", "offline", "disabled"]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode("auto")[0] == "disabled"


def test_disabled_tracking_never_imports_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    notes: list[str] = []
    with Tracker(Location.of(tmp_path), TrackingConfig(wandb="disabled"), {}, notes.append, ID) as tracker:
        tracker.log({"a": 1.0}, 1)
    assert notes == []
    assert (tracker.address, len(read_metrics(Location.of(tmp_path)))) == (None, 1)


@settings(deadline=None)
@given(row=st.dictionaries(st.text(min_size=1).filter(lambda k: k != NONFINITE), st.floats()))
def test_every_line_is_valid_json_and_says_which_numbers_were_not_finite(row: dict[str, float]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = render_row(row)
    assert "\n" not in line
    found = json.loads(line, parse_constant=refuse)
    assert sorted(found.pop(NONFINITE, [])) == sorted(k for k, v in row.items() if not math.isfinite(v))
    assert found == {k: v if math.isfinite(v) else None for k, v in row.items()}


def test_steps_that_a_resumed_run_repeats_are_read_once(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    disabled = TrackingConfig(wandb="disabled")
    with Tracker(location, disabled, {}, print, ID) as tracker:
        for step in (1, 2, 3):
            tracker.log({"loss": float(step)}, step)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    with Tracker(location, disabled, {}, print, ID) as tracker:
        tracker.log({"loss": 30.0}, 3)
        tracker.log({"val_loss/total": 9.0}, 3)
    rows = [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(location)]
    assert rows == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 30.0, "val_loss/total": 9.0},
    ]
