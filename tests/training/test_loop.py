"""A run is a function of its experiment, its data and the step."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tests.games_on_disk import encode_here
from tests.training.tiny_runs import Log, are_equal, begin, configure, open_data, take_state, write_blocks
from worldmodel.experiment.config_file import list_keys, override
from worldmodel.games.toy import write_toy_games
from worldmodel.storage import Location
from worldmodel.training.checkpoint_list import newest_good
from worldmodel.training.feed import Batch
from worldmodel.training.loop import Hooks
from worldmodel.training.nonfinite import NonFiniteError

KINDS: dict[str, dict[str, Any]] = {
    "sequence": {"model.dropout": 0.2, "training.warmup_pct": 0.3},
    "bfloat16": {"model.dropout": 0.1, "training.amp": True, "encoding.lookahead": 1},
    "window": {"training.mode": "window", "training.batch_size": 40, "training.schedule": "epoch_cosine"},
    "mlp": {"model.arch": "mlp", "training.mode": "window", "training.batch_size": 60, "model.dropout": 0.3},
    "self-forcing": {
        "self_forcing.enabled": True,
        "self_forcing.ratio": 1,
        "self_forcing.curriculum": (2, 3),
        "model.dropout": 0.1,
    },
}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


@pytest.fixture(scope="module")
def whole(blocks: Path) -> dict[str, Log]:
    """Each kind of run, uninterrupted."""
    logs = {}
    for name, changes in KINDS.items():
        logs[name] = Log()
        logs[name].run(begin(configure(changes), blocks))
    return logs


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_an_interrupted_run_equals_an_uninterrupted_one(
    blocks: Path, whole: dict[str, Log], kind: str, data: st.DataObject
) -> None:
    expected, config = whole[kind], configure(KINDS[kind])
    total = expected.trainer.schedule.total_steps
    stops = sorted(data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=3, unique=True)))
    heard = Log()
    with tempfile.TemporaryDirectory() as folder:
        for stop in (*stops, None):
            torch.manual_seed(stop or 0)  # what happened before in the process is of no account
            part = Log(folder=Path(folder), stop_at=stop, intervals=heard.intervals, epochs=heard.epochs)
            reason = part.run(begin(config, blocks, resume_from=Path(folder)))
            assert reason == ("asked" if stop is not None else None)
            assert stop is None or (stop, ("stop",)) in [(step, tags[-1:]) for step, tags in part.saved]
    assert are_equal(take_state(part.trainer), take_state(expected.trainer))
    assert part.trainer.best == expected.trainer.best
    assert heard.epochs == expected.epochs
    assert heard.intervals == expected.intervals  # loss, gradient norm and learning rate of every step


class _Reads(TorchDispatchMode):
    """Counts how often a number is read from a tensor, for which a GPU would have to be waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_mode_that_counts_reads_sees_them() -> None:
    with _Reads() as reads:
        torch.ones(1).item()
    assert reads.count == 1


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_step_reads_nothing_from_the_device(blocks: Path, kind: str) -> None:
    priors = {"model.kinematic_head": True, "model.output_scale": 0.05, "model.copy_prior": 6.0}
    trainer = begin(configure(KINDS[kind] | priors), blocks)
    trainer._train_step()
    with _Reads() as reads:
        trainer._train_step()  # one without metrics
    assert reads.count == 0


def test_one_epoch_and_then_a_resume_with_two_equals_two(blocks: Path, tmp_path: Path) -> None:
    two = configure({"training.schedule": "constant", "model.dropout": 0.1})
    expected, first, second = Log(), Log(folder=tmp_path), Log(folder=tmp_path)
    expected.run(begin(two, blocks))
    one = override(two, {"training.num_epochs": 1})
    first.run(begin(one, blocks))
    second.run(begin(two, blocks, resume_from=tmp_path))
    half = expected.trainer.schedule.steps_per_epoch
    assert list(first.epochs) == [half]
    assert list(second.epochs) == [2 * half]
    assert are_equal(take_state(second.trainer), take_state(expected.trainer))
    assert second.epochs[2 * half] == expected.epochs[2 * half]


def test_a_resume_with_more_epochs_trains_on_at_their_learning_rate(blocks: Path, tmp_path: Path) -> None:
    two = configure()
    expected, first, second = Log(), Log(folder=tmp_path), Log()
    expected.run(begin(two, blocks))
    first.run(begin(override(two, {"training.num_epochs": 1}), blocks))
    second.run(begin(two, blocks, resume_from=tmp_path))
    rates = {step: values["lr"] for step, values in second.intervals.items()}
    assert rates == {step: expected.intervals[step]["lr"] for step in rates}
    assert rates[min(rates)] > 0


def test_a_resume_of_a_run_that_did_all_its_steps_does_none(blocks: Path, tmp_path: Path) -> None:
    first, again = Log(folder=tmp_path), Log(folder=tmp_path)
    first.run(begin(configure(), blocks))
    again.run(begin(configure(), blocks, resume_from=tmp_path))
    assert (again.intervals, again.epochs, again.saved) == ({}, {}, [])


@pytest.mark.parametrize("kind", ["sequence", "window"])
@settings(max_examples=4, deadline=None)
@given(share=st.floats(0, 1))
def test_a_stopped_validation_is_done_at_the_resume(
    blocks: Path, whole: dict[str, Log], kind: str, share: float
) -> None:
    expected, config = whole[kind], configure(KINDS[kind])
    heard = Log()
    sign = 1 + int(share * (expected.signs - 1))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldmodel.training.meeting.SECONDS", 0.0)
        for stop in (sign, None):
            part = Log(folder=Path(folder), stop_at_sign=stop, intervals=heard.intervals, epochs=heard.epochs)
            reason = part.run(begin(config, blocks, resume_from=Path(folder)))
            assert reason == ("asked" if stop is not None else None)
    assert (heard.intervals, heard.epochs) == (expected.intervals, expected.epochs)
    assert part.trainer.best == expected.trainer.best
    assert are_equal(take_state(part.trainer), take_state(expected.trainer))


def test_a_notice_stops_a_validation_as_a_stop_does(blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldmodel.training.meeting.SECONDS", 0.0)
    trainer, signs, saved = begin(configure(), blocks), [], []
    hooks = Hooks(
        on_progress=lambda *progress: signs.append(progress),
        on_checkpoint=saved.append,
        find_notice=lambda: "notice" if signs else None,
    )
    assert trainer.run(hooks) == "notice"
    assert [(c.state.step, c.state.validation_due) for c in saved] == [(trainer.schedule.steps_per_epoch, True)]


def test_nothing_depends_on_the_clock(blocks: Path, whole: dict[str, Log], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("worldmodel.training.loop.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("worldmodel.training.loop.time.monotonic", lambda: float(next(clock)))
    hasty = Log()
    hasty.run(begin(configure(KINDS["sequence"]), blocks))
    assert are_equal(take_state(hasty.trainer), take_state(whole["sequence"].trainer))
    assert hasty.epochs == whole["sequence"].epochs
    assert sum(tags == ("minutes",) for _, tags in hasty.saved) > 3


def test_an_epochs_checkpoint_is_tagged_and_the_best_is_the_best_value(whole: dict[str, Log]) -> None:
    log = whole["sequence"]
    name = log.trainer.training.best_metric
    values = {step: metrics[name] for step, metrics in log.epochs.items()}
    assert [step for step, tags in log.saved if "epoch" in tags] == list(values)
    assert log.trainer.best is not None
    assert (log.trainer.best.value, log.trainer.best.step) == min((value, step) for step, value in values.items())


@pytest.mark.parametrize(("name", "mode"), [("val_metric/action_acc", "max"), ("val_loss/total", "min")])
def test_the_best_is_chosen_as_asked(blocks: Path, name: str, mode: str) -> None:
    log = Log()
    log.run(begin(configure({"training.best_metric": name, "training.best_mode": mode}), blocks))
    choose = max if mode == "max" else min
    assert log.trainer.best is not None
    assert log.trainer.best.value == choose(values[name] for values in log.epochs.values())


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("changes", [{}, {"training.mode": "window"}, {"encoding.lookahead": 1}])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(blocks: Path, parts: int, changes: dict[str, object]) -> None:
    gradients = []
    for count in (1, parts):
        trainer = begin(configure({**changes, "training.batch_parts": count, "training.batch_size": 12}), blocks)
        batches = trainer.feed.batches(0)
        trainer.learner.compute_gradients(batches, takes_metrics=False, seed=lambda part: None)
        gradients.append([parameter.grad for parameter in trainer.model.parameters()])
        assert len(batches) == count
        assert sum(int(batch.targets.valid.sum()) for batch in batches) == batches[0].targets_in_all
    for whole, added in zip(*gradients, strict=True):
        torch.testing.assert_close(added, whole, rtol=1e-4, atol=1e-6)


def poison(trainer: Any, at: int) -> None:
    """Makes one step's input no number."""
    feed, clean = trainer.feed, trainer.feed.batches

    def batches(step: int) -> list[Batch]:
        first, *others = clean(step)
        if step != at:
            return [first, *others]
        floats = first.inputs.floats.clone()
        floats[0, 0, 0] = float("nan")
        return [replace(first, inputs=replace(first.inputs, floats=floats)), *others]

    feed.batches = batches


@pytest.mark.parametrize("interval", [1, 4, 100])
def test_a_loss_that_is_no_number_ends_the_run_and_names_step_and_games(
    blocks: Path, tmp_path: Path, interval: int
) -> None:
    log = Log(folder=tmp_path)
    trainer = begin(configure({"training.log_interval": interval}), blocks)
    at = trainer.schedule.steps_per_epoch + 2
    poison(trainer, at)
    with pytest.raises(NonFiniteError) as caught:
        log.run(trainer)
    game = trainer.feed.plan.games[trainer.feed.plan.global_batch(at).games[0]].md5
    assert f"at step {at + 1} (not finite: loss, " in str(caught.value)
    assert f"no numbers in p0.percent, in game {game}. The last good checkpoint stays" in str(caught.value)
    kept = newest_good(Location.of(tmp_path)).checkpoint
    assert kept is not None
    assert kept.state.step == trainer.schedule.steps_per_epoch
    assert all(torch.isfinite(value).all() for value in kept.weights.values())


def test_a_stop_saves_no_state_whose_loss_is_no_number(blocks: Path, tmp_path: Path) -> None:
    trainer = begin(configure({"training.log_interval": 100}), blocks)
    poison(trainer, 2)
    log = Log(folder=tmp_path, stop_at=4)
    with pytest.raises(NonFiniteError, match="at step 3 "):
        log.run(trainer)
    assert log.saved == []


def test_the_loss_falls_on_toy_games(tmp_path: Path) -> None:
    write_toy_games(tmp_path / "toy", 2, seed=1)
    encode_here(tmp_path / "toy", tmp_path / "blocks")
    changes = {"training.sequence_length": 64, "training.batch_size": 8, "training.num_epochs": 5, "training.lr": 1e-2}
    log = Log()
    log.run(begin(configure({**changes, "training.max_steps": 20}), tmp_path / "blocks"))
    losses = [values["batch/loss"] for values in log.intervals.values()]
    assert len(losses) == 20
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])


ALONE = {"self_forcing.enabled": True, "self_forcing.ratio": 1}
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "data.max_games": (5, {}), "data.stage_filter": ([31, 32], {}), "data.end_method": (3, {}),
    "data.character_filter": (list(range(28)), {}), "data.split": ("md5", {}),
    "encoding.state_age_as_embed": (True, {}), "encoding.press_events": (True, {}), "encoding.lookahead": (1, {}),
    "encoding.projectiles": (True, {}), "encoding.state_flags": (True, {}), "encoding.hitstun": (True, {}),
    "encoding.targets": ("published", {}),
    "model.arch": ("mlp", {"training.mode": "window"}), "model.context_len": (6, {"training.mode": "window"}),
    "model.d_model": (48, {}), "model.d_state": (16, {}), "model.n_layers": (2, {}), "model.headdim": (8, {}),
    "model.dropout": (0.3, {}), "model.hidden_dim": (48, {"model.arch": "mlp", "training.mode": "window"}),
    "model.trunk_dim": (24, {"model.arch": "mlp", "training.mode": "window"}),
    "model.kinematic_head": (True, {}), "model.output_scale": (0.1, {}), "model.copy_prior": (2.0, {}),
    "model.rule_prior": (True, {}),
    "training.smooth_l1_beta": (0.01, {}), "training.swap_players": (True, {}), "training.mode": ("window", {}),
    "training.sequence_length": (9, {}), "training.batch_size": (5, {}),
    "training.num_epochs": (1, {}), "training.max_steps": (3, {}), "training.lr": (1e-3, {}),
    "training.weight_decay": (0.1, {}), "training.clip": (0.05, {}), "training.schedule": ("constant", {}),
    "training.warmup_pct": (0.4, {}), "training.amp": (True, {}), "training.seed": (1, {}),
    "training.train_split": (0.5, {}), "training.test_split": (0.7, {"data.split": "md5"}),
    "loss_weights.continuous": (2.0, {}), "loss_weights.velocity": (2.0, {}), "loss_weights.dynamics": (2.0, {}),
    "loss_weights.binary": (2.0, {}), "loss_weights.action": (1.0, {}), "loss_weights.jumps": (2.0, {}),
    "loss_weights.l_cancel": (2.0, {}), "loss_weights.hurtbox": (2.0, {}), "loss_weights.ground": (2.0, {}),
    "loss_weights.last_attack": (2.0, {}), "loss_weights.action_change_weight": (3.0, {}),
    "self_forcing.enabled": (True, {"self_forcing.ratio": 1}), "self_forcing.ratio": (2, ALONE),
    "self_forcing.unroll_length": (2, ALONE), "self_forcing.curriculum": ((1, 2), ALONE),
}  # fmt: skip
"""Key to another value, and what else must be set for the key to matter."""
SPEED_ONLY = {
    "training.batch_parts", "training.compile", "training.deterministic",
    "model.chunk_size", "model.backend", "training.device", "training.threads", "training.eval_batch_size",
    "training.log_interval", "training.checkpoint_minutes", "training.rollout_starts", "training.keep_last",
    "training.validation_games",
}  # fmt: skip
"""Keys that must change nothing but speed and output (some only up to rounding: `device`, `backend`,
`batch_parts`, `compile`)."""
ELSEWHERE = ("name", "goal", "save_dir", "tracking.", "data.dataset_dir", "data.allow", "training.best_")
"""Keys about files, tracking or the choice of a checkpoint: see `test_every_key.py`."""


def test_every_key_of_an_experiment_is_judged() -> None:
    keys = {key for key in list_keys() if not key.startswith(ELSEWHERE)}
    assert keys == set(CHANGES) | SPEED_ONLY


@pytest.fixture(scope="module")
def outcomes(blocks: Path) -> dict[str, Any]:
    """What was trained under each set of conditions, without the key's change."""
    found: dict[str, Any] = {}
    for _, conditions in CHANGES.values():
        if repr(conditions) not in found:
            found[repr(conditions)] = train_shortly(blocks, conditions)
    return found


def train_shortly(blocks: Path, changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    shortly = {"training.num_epochs": 2, "training.batch_size": 24, "training.train_split": 0.75}
    config = configure({**shortly, **changes})
    if config.training.mode == "window":
        config = override(config, {"training.batch_size": changes.get("training.batch_size", 120)})
    assert open_data(config, blocks).split.validation
    trainer = begin(config, blocks)
    Log().run(trainer)
    return take_state(trainer)


@pytest.mark.parametrize("key", list(CHANGES))
def test_every_key_changes_what_is_trained(blocks: Path, outcomes: dict[str, Any], key: str) -> None:
    value, conditions = CHANGES[key]
    changed = train_shortly(blocks, {**conditions, key: value})
    assert not are_equal(changed, outcomes[repr(conditions)])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.eval_batch_size", 3),
        ("training.log_interval", 5),
        ("training.checkpoint_minutes", 1.0),
        ("training.rollout_starts", 0),
        ("training.validation_games", 1),
    ],
)
def test_keys_about_speed_and_output_change_nothing(
    blocks: Path, outcomes: dict[str, Any], key: str, value: object
) -> None:
    assert are_equal(train_shortly(blocks, {key: value}), outcomes["{}"])
