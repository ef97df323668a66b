"""Captured steps learn what others do, from nothing but their packets; what cannot be captured goes on as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from tests.training.recorded_steps import RecordedSteps, Recording, capture_here
from tests.training.tiny_runs import Log, are_equal, begin, configure, take_state, write_blocks
from worldmodel.machine import fused
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import newest_good
from worldmodel.training.loop import Hooks
from worldmodel.training.packet import PacketForm

SHORT: dict[str, Any] = {"training.num_epochs": 3, "training.rollout_starts": 0}
PRIORS: dict[str, Any] = {
    "model.kinematic_head": True, "model.output_scale": 0.05, "model.copy_prior": 6.0, "model.rule_prior": True,
    "training.smooth_l1_beta": 0.01,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "sequence": {"model.dropout": 0.2, "training.swap_players": True, **PRIORS},
    "parts": {"training.batch_parts": 2, "training.amp": True, "training.swap_players": True},
    "items": {"encoding.projectiles": True, "encoding.lookahead": 1, "encoding.press_events": True},
    "window": {"training.mode": "window", "training.batch_size": 40},
    "self-forcing": {
        "self_forcing.enabled": True, "self_forcing.ratio": 2, "self_forcing.curriculum": (1, 2),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"), count=9)


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are captured the second time already."""
    monkeypatch.setattr("worldmodel.training.capture.WARM_UP", 1)


def run(blocks: Path, changes: dict[str, Any], graphs: RecordedSteps | None) -> Log:
    log = Log()
    log.run(capture_here(begin(configure({**SHORT, **changes}), blocks), graphs))
    return log


@pytest.mark.parametrize("kind", list(KINDS))
def test_captured_steps_learn_what_others_do(blocks: Path, kind: str) -> None:
    graphs = RecordedSteps()
    plain, captured = (run(blocks, KINDS[kind], some) for some in (None, graphs))
    assert captured.intervals == plain.intervals
    assert captured.epochs == plain.epochs
    assert are_equal(take_state(captured.trainer), take_state(plain.trainer))
    assert graphs.captured == (4 if kind == "self-forcing" else 2)
    assert graphs.warm <= graphs.captured < graphs.replayed
    samples, size = plain.trainer.feed.plan.samples, plain.trainer.feed.plan.batch_size
    assert samples % size, "no epoch ends with a small batch"


def test_padding_changes_nothing_but_rounding(blocks: Path) -> None:
    padded = run(blocks, {}, None)
    plain = Log()
    plain.run(begin(configure(SHORT), blocks))
    for step, values in plain.intervals.items():
        assert padded.intervals[step] == pytest.approx(values, rel=1e-4), step


def test_a_captured_step_reads_its_packet_and_nothing_else(blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainers = [capture_here(begin(configure(), blocks), RecordedSteps()) for _ in range(2)]
    for trainer in trainers:
        for step in range(5):
            trainer.learner.run(step, 1e-3, trainer.learner.make(step, 1e-3))
    packets = [trainer.learner.make(11, 2e-3) for trainer in trainers]
    learner = trainers[1].learner
    for group in learner.optimizer.param_groups:
        group["weight_decay"], group["betas"] = 0.9, (0.0, 0.0)
    learner.compute = learner.feed.open = learner.learn = None  # type: ignore[assignment,method-assign]
    learner.feed.store.stages = learner.config = None  # type: ignore[assignment]
    for trainer, packet in zip(trainers, packets, strict=True):
        trainer.learner.run(11, -1.0, packet)
    assert are_equal(*(take_state(trainer) for trainer in trainers))
    assert torch.equal(trainers[0].learner.sums.totals, trainers[1].learner.sums.totals)
    assert int(learner.sums.peak_steps.max()) <= 11


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_capture_that_fails_costs_only_speed(blocks: Path, fails_at: int) -> None:
    plain, heard = run(blocks, {}, None), list[str]()
    graphs = RecordedSteps(fails_at)
    trainer, log = capture_here(begin(configure(SHORT), blocks), graphs), Log()
    trainer.learner.tell(heard.append)
    trainer.learner.tell = lambda say: None  # type: ignore[method-assign]
    log.run(trainer)
    assert log.intervals == plain.intervals
    assert are_equal(take_state(trainer), take_state(plain.trainer))
    which = "steps" if fails_at == 0 else "steps with metrics"
    (said,) = heard
    assert said.startswith(f"{which} cannot be captured as a CUDA graph and run without one, which is slower (RuntimeE")
    assert "not permitted when stream is capturing)" in said and "training.compile 'off'" in said
    assert graphs.captured == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"training.batch_parts": 2, "model.dropout": 0.1}, "in 2 parts draws its dropout"), ({}, "two layouts")],
)
def test_what_is_not_captured_is_said_once(blocks: Path, changes: dict[str, Any], why: str) -> None:
    from worldmodel.training.compiled import find_obstacle

    trainer = begin(configure(changes), blocks)
    trainer.feed.opens_in_step = bool(changes)
    said = find_obstacle(trainer.feed, trainer.config)
    assert said and said.startswith("training steps run without CUDA graphs, which is slower: ") and why in said
    trainer.learner._obstacle, heard = said, list[str]()
    trainer.run(Hooks(on_note=heard.append, stop_reason=lambda: "enough" if trainer.step > 3 else None))
    assert heard == [said]


def test_a_run_of_captured_steps_is_resumed_exactly(blocks: Path, tmp_path: Path) -> None:
    config = configure({**SHORT, "model.dropout": 0.1})
    whole = run(blocks, {**SHORT, "model.dropout": 0.1}, RecordedSteps())
    Log(folder=tmp_path, stop_at=9).run(capture_here(begin(config, blocks), RecordedSteps()))
    again, log = capture_here(begin(config, blocks), RecordedSteps()), Log()
    for step in range(6):  # captured before it is restored: what was captured must not be replayed
        again.learner.run(step, 1.0, again.learner.make(step, 1.0))
    again.learner.sums.reset()
    found = newest_good(Location.of(tmp_path)).checkpoint
    assert found is not None
    again.learner.metrics.from_vector(torch.zeros_like(again.learner.metrics.to_vector()))
    again.restore(found)
    log.run(again)
    assert are_equal(take_state(again), take_state(whole.trainer))
    assert log.intervals == {step: values for step, values in whole.intervals.items() if step > 9}


def test_every_step_does_the_same_operations(blocks: Path) -> None:
    config = configure({"training.swap_players": True, "encoding.projectiles": True})
    trainer = capture_here(begin(config, blocks), None)
    seen = set()
    for step in range(1, 8):
        with Recording() as recording:
            trainer.learner.run(step, 1e-3, trainer.learner.make(step, 1e-3))
        done = recording.operations
        seen.add(repr([(str(f), [x.shape for x in tree_leaves(y) if hasattr(x, "shape")]) for f, _, _, y in done]))
    assert len(seen) == 2  # the first one makes the optimizer's state


@given(
    terms=st.integers(1, 12), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), step=st.integers(0, 1 << 40),
    rate=st.floats(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None)
def test_a_packet_holds_what_was_written(terms: int, sizes: list[int], step: int, rate: float, seed: int) -> None:
    form, random = PacketForm(terms, tuple(sizes)), np.random.default_rng(seed)
    denominators = random.random(terms).astype(np.float32)
    tables = [random.integers(0, 1 << 62, (6, size)) for size in sizes]
    numbers = torch.from_numpy(form.write(step, rate, denominators, tables))
    assert (int(form.step(numbers)), float(form.rate(numbers))) == (step, rate)
    assert np.array_equal(form.denominators(numbers).numpy(), denominators)
    for part, table in zip(form.parts(numbers), tables, strict=True):
        assert np.array_equal(torch.stack([*part.spots, *part.traits]).numpy(), table)


def test_failing_compiler_costs_no_step(blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no ptxas here")

    plain, log = run(blocks, KINDS["sequence"], None), Log()
    monkeypatch.setattr(fused, "DEVICE", "cpu")
    monkeypatch.setattr(fused, "compile_chain", lambda function: fail)
    trainer, said = begin(configure({**SHORT, **KINDS["sequence"]}), blocks), list[str]()
    monkeypatch.setattr(trainer.learner, "tell", lambda say: fused.tell_failures(said.append))
    log.run(trainer)
    fused.reset_fusing()
    assert log.intervals == plain.intervals and log.epochs == plain.epochs
    assert len(said) == 1 and "no ptxas here" in said[0] and "TORCHDYNAMO_DISABLE" in said[0]
