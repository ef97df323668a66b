"""A run is brought here whole: while it lives, and over a network that breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cutting_proxy import cutting
from tests.s3_server import serve_s3, use_s3
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.run_copy import fetch_run
from worldmodel.run.run_folder import start_run
from worldmodel.run.tracking import METRICS
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, CheckpointState, load_checkpoint, save_checkpoint
from worldmodel.training.checkpoint_files import fetch_checkpoint


def make_checkpoint(size: int) -> Checkpoint:
    dice = torch.Generator().manual_seed(1)
    weights = {"w": torch.randn(size, generator=dice)}
    return Checkpoint(weights=weights, optimizer={"step/w": torch.ones(1)}, state=CheckpointState(step=3))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


def test_a_run_that_writes_meanwhile_is_fetched_as_it_is_at_a_moment(tmp_path: Path) -> None:
    run = start_run(Location.of(tmp_path / "runs"), ExperimentConfig(name="a"), total_steps=9)
    place = save_checkpoint(run.location, make_checkpoint(100))
    is_over = threading.Event()

    def live() -> None:
        with (tmp_path / "runs/a" / METRICS).open("a") as stream:
            while not is_over.is_set():
                stream.write('{"step": 1}\n' * 500)
                stream.flush()
                run.note_step(1)
                run.write()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        for _ in range(10):
            fetch_run(run.location, place, tmp_path / "copy")
    finally:
        is_over.set()
        thread.join()
    copied = (tmp_path / "copy" / METRICS).read_bytes()
    assert copied
    assert (tmp_path / "runs/a" / METRICS).read_bytes().startswith(copied)


class Breaking:
    """A stream of a file whose connection breaks after some bytes."""

    def __init__(self, stream: Any, after: int) -> None:
        self._stream, self._left = stream, after

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            raise OSError("curlCode: 56, Failure when receiving data from the peer")
        content: bytes = self._stream.read(min(size, 1_000_000))
        self._left -= len(content)
        return content

    def seek(self, place: int) -> None:
        self._stream.seek(place)

    def __enter__(self) -> Breaking:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


def test_a_fetch_that_broke_off_goes_on_from_the_bytes_that_it_has(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    run = start_run(Location.of("s3://games/fetched"), ExperimentConfig(name="a"))
    place, target = save_checkpoint(run.location, make_checkpoint(3_000_000)), tmp_path / "copy"
    opened, open_input = [], Location.open_input

    def break_off(self: Location) -> Any:
        opened.append(self.name)
        return Breaking(open_input(self), 5_000_000) if self.name == "weights.safetensors" else open_input(self)

    monkeypatch.setattr(Location, "open_input", break_off)
    folder = target / "checkpoints" / place.name
    told: list[tuple[str, int, int]] = []
    fetch_run(run.location, place, target, tell=lambda *progress: told.append(progress))
    (whole,) = {whole for _, _, whole in told}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1] == ("fetching", whole, whole) and whole > 12_000_000
    assert opened.count("weights.safetensors") == 3  # each brings its 5 MB of the 12
    monkeypatch.setattr(Location, "open_input", open_input)
    assert load_checkpoint(Location.of(folder)).digest == make_checkpoint(3_000_000).digest
    assert list(folder.glob(".*.part")) == []


def test_a_store_that_brings_nothing_ends_a_fetch_and_what_it_brought_stays(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    run = start_run(Location.of("s3://games/fetched"), ExperimentConfig(name="c"))
    place, folder = (
        save_checkpoint(run.location, make_checkpoint(3_000_000)),
        tmp_path / "copy/checkpoints/step-00000003",
    )
    open_input, left = Location.open_input, [5_000_000]

    def break_off(self: Location) -> Any:
        if self.name != "weights.safetensors":
            return open_input(self)
        after, left[0] = left[0], 0
        return Breaking(open_input(self), after)

    with monkeypatch.context() as patch:
        patch.setattr(Location, "open_input", break_off)
        with pytest.raises(UserError, match="curlCode"):
            fetch_checkpoint(place, folder)
    assert [path.stat().st_size for path in folder.glob(".weights*.part")] == [5_000_000]
    assert not (folder / "manifest.json").exists()  # what is not whole is no checkpoint
    fetch_checkpoint(place, folder)
    assert load_checkpoint(Location.of(folder)).digest == make_checkpoint(3_000_000).digest


def test_connections_that_break_do_not_end_a_fetch(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    run = start_run(Location.of("s3://games/fetched"), ExperimentConfig(name="b"))
    place = save_checkpoint(run.location, make_checkpoint(3_000_000))
    with cutting(endpoint, after=3_000_000, times=3) as (url, cuts):
        use_s3(monkeypatch, url)
        fetch_run(run.location, place, tmp_path / "copy")
    assert cuts.made > 0
    assert load_checkpoint(Location.of(tmp_path / "copy/checkpoints" / place.name)).digest == (
        make_checkpoint(3_000_000).digest
    )
