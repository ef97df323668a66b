"""Whatever interrupts a run, and at whatever step: going on gives the run that was never interrupted, to the last bit.

`FAULTS=long make test-faults` tries many more interruptions than the short form.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.interruptions import ENDINGS, Ending, Outcome, Place
from tests.training.tiny_runs import Log, begin, configure, write_blocks
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.run.record import State

IS_LONG = os.environ.get("WORLDMODEL_FAULTS") == "long"
EVERY_STEP = 1e-6
"""Minutes between two checkpoints: one after each step."""
KINDS: dict[str, dict[str, Any]] = {
    "sequence": {"model.dropout": 0.2, "training.warmup_pct": 0.3, "training.swap_players": True},
    "bfloat16": {"model.dropout": 0.1, "training.amp": True, "encoding.lookahead": 1},
    "window": {"training.mode": "window", "training.batch_size": 40, "training.schedule": "epoch_cosine"},
    "parts": {"training.batch_parts": 4, "model.dropout": 0.1, "training.schedule": "constant", "training.amp": True},
    "mlp": {"model.arch": "mlp", "training.mode": "window", "training.batch_size": 60, "model.dropout": 0.3},
    "self-forcing": {
        "self_forcing.enabled": True, "self_forcing.ratio": 1, "self_forcing.curriculum": (2, 3), "model.dropout": 0.1,
        "model.kinematic_head": True, "training.swap_players": True,
    },
}  # fmt: skip
"""Experiments whose resumption is tried; one more is one line."""
STATES = {
    "killed": {State.LOST}, "killed after a sign of life": {State.LOST},
    "killed while saving": {State.LOST, State.FINISHED}, "out of memory": {State.FAILED},
    "error": {State.FAILED},
}  # fmt: skip
"""How a run is found after each ending; all others stop it well."""


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_blocks(tmp_path_factory.mktemp("games"))
    Log().run(begin(configure({"training.max_steps": 1}), folder))  # what is imported late is imported for all children
    return folder


def train_whole(blocks: Path, config: ExperimentConfig, workers: int = 1) -> Outcome:
    """What a run finds that nothing interrupts."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(blocks=blocks, storage=Path(folder))
        assert place.run(config, workers=workers) == [0] * workers
        assert place.read(config).state is State.FINISHED
        return place.take(config)


def interrupt(place: Place, config: ExperimentConfig, endings: list[Ending], workers: int = 1) -> Outcome:
    """Interrupt a run again and again, then let it end."""
    for ending in endings:
        place.run(config, ending, workers)
        record = place.read(config)
        assert record.state in STATES.get(ending.kind, {State.STOPPED}) | {State.FINISHED}
        if record.state is State.FINISHED:  # it had passed that step
            break
        assert record.reason
        if "killed" not in ending.kind:
            assert record.step == ending.step + (ending.kind not in ("out of memory", "error"))  # that step is done
    if place.read(config).state is not State.FINISHED:
        assert place.run(config, workers=workers) == [0] * workers
    assert place.read(config).state is State.FINISHED
    return place.take(config)


def draw_endings(data: st.DataObject, total: int) -> list[Ending]:
    """Up to three endings, each at a later step than the one before."""
    steps = sorted(data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=3, unique=True)))
    kinds = st.sampled_from(list(ENDINGS))
    return [Ending(kind=data.draw(kinds, label=f"ending at step {step}"), step=step) for step in steps]


@pytest.fixture(scope="module")
def wholes(blocks: Path) -> dict[str, Outcome]:
    """Uninterrupted runs, made when they are first asked for."""
    return {}


def find_whole(wholes: dict[str, Outcome], blocks: Path, kind: str, workers: int = 1) -> Outcome:
    key = f"{kind} {workers}"
    if key not in wholes:
        wholes[key] = train_whole(blocks, configure(KINDS[kind]), workers)
    return wholes[key]


def check(blocks: Path, wholes: dict[str, Outcome], data: st.DataObject, kind: str, workers: int) -> None:
    expected = find_whole(wholes, blocks, kind, workers)
    config = configure(KINDS[kind])
    if data.draw(st.booleans(), label="a checkpoint at every step"):
        config = override(config, {"training.checkpoint_minutes": EVERY_STEP})
    endings = draw_endings(data, expected.checkpoint.state.step)
    with tempfile.TemporaryDirectory() as folder:
        found = interrupt(Place(blocks=blocks, storage=Path(folder)), config, endings, workers)
    assert found.differs(expected) == []


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=60 if IS_LONG else 5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_interrupts_a_run_it_goes_on_as_if_nothing_had(
    blocks: Path, wholes: dict[str, Outcome], kind: str, data: st.DataObject
) -> None:
    check(blocks, wholes, data, kind, workers=1)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@settings(max_examples=20 if IS_LONG else 3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_two_workers_go_on_as_if_nothing_had(blocks: Path, wholes: dict[str, Outcome], data: st.DataObject) -> None:
    """All workers gone at once is what a lost machine looks like."""
    kind = data.draw(st.sampled_from(["sequence", "parts"]))
    config = override(configure(KINDS[kind]), {"training.checkpoint_minutes": EVERY_STEP})
    expected = find_whole(wholes, blocks, kind, 2)
    total = expected.checkpoint.state.step
    steps = sorted(data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=2, unique=True)))
    with tempfile.TemporaryDirectory() as folder:
        place = Place(blocks=blocks, storage=Path(folder))
        for step in steps:
            assert place.run(config, Ending(kind="killed", step=step), 2) == [-9, -9]
            assert place.read(config).state is State.LOST
        assert place.run(config, workers=2) == [0, 0]
        assert place.take(config).differs(expected) == []


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "rank", "state"),
    [
        ("SIGTERM", 0, State.STOPPED), ("stop file", 0, State.STOPPED), ("budget", 0, State.STOPPED),
        ("out of memory", 0, State.FAILED), ("out of memory", 1, State.LOST), ("killed", 1, State.LOST),
    ],
)  # fmt: skip
def test_two_workers_of_which_one_is_ended_go_on_as_if_nothing_had(
    blocks: Path, tmp_path: Path, kind: str, rank: int, state: State
) -> None:
    config = configure({**KINDS["parts"], "training.num_epochs": 5})  # steps enough to ask worker 0 within them
    expected = train_whole(blocks, config, workers=2)
    place = Place(blocks=blocks, storage=tmp_path)
    place.run(config, Ending(kind=kind, step=3, rank=rank), 2)
    record = place.read(config)
    assert record.state is state and record.reason
    assert 3 <= record.step < expected.checkpoint.state.step or state in (State.FAILED, State.LOST)
    assert place.run(config, workers=2) == [0, 0]
    assert place.take(config).differs(expected) == []


@pytest.mark.parametrize(
    ("kind", "workers", "sign"), [("SIGTERM", 1, 2), ("SIGTERM", 2, 12), ("stop file", 2, 30), ("budget", 1, 70)]
)
def test_a_run_stopped_in_its_validation_goes_on_there(
    blocks: Path, wholes: dict[str, Outcome], kind: str, workers: int, sign: int
) -> None:
    """In the first epoch's or the last one's; of several workers one is asked."""
    expected, config = find_whole(wholes, blocks, "parts", workers), configure(KINDS["parts"])
    steps, total = expected.checkpoint.state.step // 2, expected.checkpoint.state.step
    with tempfile.TemporaryDirectory() as folder:
        place = Place(blocks=blocks, storage=Path(folder))
        assert place.run(config, Ending(kind=kind, rank=0, sign=sign), workers) == [0] * workers
        record = place.read(config)
        assert (record.state, record.validation_due) == (State.STOPPED, True)
        assert (record.step, record.epoch) in [(steps, 0), (total, 1)]
        assert place.run(config, workers=workers) == [0] * workers
        assert (place.read(config).state, place.read(config).validation_due) == (State.FINISHED, False)
        assert place.take(config).differs(expected) == []


@pytest.fixture(scope="module")
def shareable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of so many games that each of four workers has a part."""
    return write_blocks(tmp_path_factory.mktemp("shareable"), count=16)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@settings(max_examples=30 if IS_LONG else 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_numbers_of_workers_learn_what_one_learns(
    shareable: Path, wholes: dict[str, Outcome], data: st.DataObject
) -> None:
    """A run that shrinks and grows: to 1e-4 after 50 steps, and to the last bit where its parts are the same ones."""
    has_parts = data.draw(st.booleans())
    changes = {
        "training.num_epochs": 12, "training.max_steps": 50, "training.swap_players": True,
        "training.batch_parts": 2 if has_parts else 1,
    }  # fmt: skip
    config = configure(changes)
    if (key := f"elastic {has_parts}") not in wholes:
        wholes[key] = train_whole(shareable, config)
    worlds = data.draw(st.lists(st.integers(1, 2 if has_parts else 4), min_size=2, max_size=3))
    steps = sorted(data.draw(st.lists(st.integers(4, 45), min_size=2, max_size=2, unique=True)))
    with tempfile.TemporaryDirectory() as folder:
        place = Place(blocks=shareable, storage=Path(folder))
        for step, world in zip(steps, worlds[:-1], strict=False):
            place.run(
                override(config, {"training.checkpoint_minutes": EVERY_STEP}), Ending(kind="killed", step=step), world
            )
        assert place.run(config, workers=worlds[-1]) == [0] * worlds[-1]
        found, expected = place.take(config).checkpoint, wholes[key].checkpoint
    assert found.state.step == expected.state.step == 50
    for name, value in expected.weights.items():
        torch.testing.assert_close(
            found.weights[name], value, atol=0.0 if has_parts else 1e-4, rtol=0.0 if has_parts else 1e-4
        )


@pytest.mark.faults
def test_one_epoch_and_then_two_is_the_run_of_two(blocks: Path, tmp_path: Path) -> None:
    two = configure({"training.schedule": "constant", "model.dropout": 0.1})
    expected = train_whole(blocks, two)
    place = Place(blocks=blocks, storage=tmp_path)
    assert place.run(override(two, {"training.num_epochs": 1})) == [0]
    assert place.read(two).state is State.FINISHED
    assert place.run(two) == [0]
    assert place.take(two).differs(expected) == []


@pytest.mark.faults
def test_a_run_that_is_asked_for_more_epochs_never_trains_at_a_rate_of_zero(blocks: Path, tmp_path: Path) -> None:
    two, place = configure(), Place(blocks=blocks, storage=tmp_path)
    assert place.run(override(two, {"training.num_epochs": 1})) == [0]
    assert place.run(two) == [0]
    rows, expected = place.take(two).rows, train_whole(blocks, two).rows
    half = max(rows) // 2
    rates = {step: row["lr"] for step, row in rows.items() if step > half}
    assert rates == {step: expected[step]["lr"] for step in rates}  # those of the longer schedule, as promised
    assert min(rate for step, rate in rates.items() if step < max(rows)) > 0


def test_a_killed_run_goes_on_as_if_nothing_had(blocks: Path, tmp_path: Path) -> None:
    """One case of the above in every run of the tests."""
    config = configure(KINDS["sequence"])
    expected = train_whole(blocks, config)
    place = Place(blocks=blocks, storage=tmp_path)
    often = override(config, {"training.checkpoint_minutes": EVERY_STEP})
    endings = [Ending(kind="killed", step=3), Ending(kind="killed while saving", step=7)]
    assert interrupt(place, often, endings).differs(expected) == []
    assert [attempt.state for attempt in place.read(config).attempts] == [State.LOST, State.LOST]
