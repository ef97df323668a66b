"""Rollouts are measured from the same starts everywhere, and say what the files' own numbers say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.games_on_disk import read_columns
from tests.training.tiny_runs import CPU, Log, begin, configure, open_data, write_blocks
from worldmodel.blocks.index import GameEntry
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import override
from worldmodel.features.batch import Predictions
from worldmodel.features.facts import CATEGORIES, CONTROL_PLACES, NUMBER_PLACES, FactReader, Facts
from worldmodel.features.feedback import Feedback
from worldmodel.model.unroll import NoMemory, Unroller
from worldmodel.schema import FIELDS
from worldmodel.training.baselines import kinematic, persistence
from worldmodel.training.coherence import COHERENCE, RolloutSet, RolloutSums, list_metrics, open_rollouts, roll_out
from worldmodel.training.feed import Worker, open_store
from worldmodel.training.plausibility import Watch
from worldmodel.training.starts import LONGEST, WARM_UP, choose_starts
from worldmodel.training.validation import check_metric, check_validation, measure_rollouts, open_validation

HALF = {"training.train_split": 0.4, "data.split": "first"}


def name_games(frames: list[int], seed: int = 0) -> list[GameEntry]:
    return [
        GameEntry(
            md5=f"{seed:016x}{number:016x}", frames=count, stage=2, characters=(1, 2), end_method=2, block="b", row=0,
            order=number, source="parsed", source_bytes=0, shard="", repeats="none", missing=(), absent=(),
        )
        for number, count in enumerate(frames)
    ]  # fmt: skip


def list_starts(games: list[GameEntry], number: int, horizon: int) -> list[tuple[str, int]]:
    found = choose_starts(games, number, horizon, context=10).samples
    return [(games[game].md5, start) for game, start in zip(found.games.tolist(), found.starts.tolist(), strict=True)]


def test_a_games_starts_are_the_same_whatever_else_is_asked_for() -> None:
    games = name_games([900, 5000, 2000, 700])
    starts = list_starts(games, 300, 300)
    assert len(set(starts)) > 250
    assert starts == list_starts(games, 300, 20)
    assert starts[:64] == list_starts(games, 64, 20)
    more = list_starts([*name_games([800, 3000], seed=1), *games], 450, 20)
    assert {start for start in more if start[0] in {game.md5 for game in games}} == set(starts)
    lengths = {game.md5: game.frames for game in games}
    assert all(WARM_UP <= frame <= lengths[md5] - LONGEST for md5, frame in starts)
    assert min(sum(md5 == game.md5 for md5, _ in starts) for game in games) == 75


def test_short_games_have_starts_as_far_as_they_reach() -> None:
    games = name_games([29, 30, 50, 200])
    found = choose_starts(games, 50, 20, context=10)
    assert found.short == 1
    assert set(found.samples.games.tolist()) == {1, 2, 3}
    for game, start in zip(found.samples.games.tolist(), found.samples.starts.tolist(), strict=True):
        assert 10 <= start <= games[game].frames - 20
    with pytest.raises(UserError, match="the longest has 200 frames"):
        choose_starts(games, 50, 300, context=10)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"), frames=120)


def open_set(blocks: Path, number: int = 20, world: int = 1, rank: int = 0) -> RolloutSet:
    config = configure(HALF)
    dataset, worker = open_data(config, blocks), Worker(device=CPU, rank=rank, world=world)
    games = dataset.split.validation
    store = open_store(dataset, games, config, worker)
    return open_rollouts(
        games, store, FactReader(config.encoding), number=number, horizon=COHERENCE, context=4,
        partitions=worker.partitions,
    )  # fmt: skip


def hold(predict: Callable[..., Predictions] = persistence) -> Unroller:
    layout = EncodingConfig().layout
    return Unroller(NoMemory(partial(predict, layout=layout)), Feedback(layout))


def test_who_holds_still_strays_as_the_files_columns_say(blocks: Path) -> None:
    data = open_set(blocks)
    found = roll_out(hold(), data)
    games = open_data(configure(HALF), blocks).split.validation
    errors, right, changes = [], [], []
    for game, start in zip(data.samples.games.tolist(), data.samples.starts.tolist(), strict=True):
        columns = read_columns((blocks.parent / "games/games" / games[game].md5).read_bytes())
        for player in ("p0", "p1"):
            for axis in ("x", "y"):
                values = columns[player, axis].astype(np.float64)
                errors.append(np.abs(values[start : start + COHERENCE] - values[start - 1]))
            action = np.minimum(columns[player, "action"], 399)
            now, before = action[start : start + COHERENCE], action[start - 1 : start + COHERENCE - 1]
            right.append(now == action[start - 1])
            changes.append(now != before)
    values = found.compute()
    assert values["eval/summary_pos_mae_k20_n20"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert values["eval/summary_pos_mae_k5_n20"] == pytest.approx(np.mean(np.array(errors)[:, :5]), rel=1e-5)
    assert values["eval/summary_action_acc_k10_n20"] == pytest.approx(np.mean(np.array(right)[:, :10]))
    changed = np.array(changes)
    assert values["eval/summary_change_acc_k20_n20"] == pytest.approx((np.array(right) & changed).sum() / changed.sum())
    assert found.curves()["pos_mae"] == pytest.approx(np.mean(errors, 0).tolist(), rel=1e-5)
    assert values["eval/summary_possible_k20_n20"] == 1
    assert set(values) <= set(list_metrics(starts=20))


def test_two_workers_measure_together_what_one_does(blocks: Path) -> None:
    alone = roll_out(hold(), open_set(blocks))
    total = RolloutSums(COHERENCE, CPU, 20)
    for rank in range(2):
        part = roll_out(hold(), open_set(blocks, world=2, rank=rank))
        total.from_vector(total.to_vector() + part.to_vector())
    assert total.compute() == pytest.approx(alone.compute())


def test_a_game_that_lacks_a_field_does_not_count_for_it(blocks: Path) -> None:
    data = open_set(blocks)
    sums = roll_out(hold(), data)
    assert sums.compute().keys() >= {"eval/summary_vel_mae_k20_n20", "eval/summary_stocks_mae_k20_n20"}
    data.store.recorded[:, :, [n for n, name in enumerate(FIELDS) if name.startswith("speed")]] = 0
    assert "eval/summary_vel_mae_k20_n20" not in roll_out(hold(), data).compute()


KINDS: dict[str, dict[str, Any]] = {
    "sequence": {}, "window": {"training.mode": "window"}, "ahead": {"encoding.lookahead": 1},
    "published": {"encoding.targets": "published"},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_validation_rolls_out_twice_the_same_to_the_digit_and_leaves_the_model_as_it_was(
    blocks: Path, kind: str
) -> None:
    trainer = begin(configure({**HALF, **KINDS[kind], "training.rollout_starts": 12, "model.dropout": 0.3}), blocks)
    trainer.model.train()
    first, second = (measure_rollouts(trainer.model, trainer.validation) for _ in range(2))
    assert first is not None and second is not None
    assert first.compute() == second.compute()
    assert trainer.model.training
    assert np.isfinite(list(first.compute().values())).all()


def test_every_epochs_rollouts_have_the_kinematic_baseline_beside_them(blocks: Path) -> None:
    for kind in ("sequence", "ahead", "published"):
        trainer, log = begin(configure({**HALF, **KINDS[kind], "training.rollout_starts": 12}), blocks), Log()
        log.run(trainer)
        data = trainer.validation.rollouts
        assert data is not None
        expected = roll_out(hold(kinematic), data).compute()["eval/summary_pos_mae_k20_n12"]
        assert {found["eval/kinematic_pos_mae_k20_n12"] for found in log.epochs.values()} == {expected}


def test_every_epoch_says_how_far_rollouts_stray_and_can_choose_the_best_by_it(blocks: Path) -> None:
    metric = "eval/summary_pos_mae_k20_n8"
    log = Log()
    log.run(begin(configure({**HALF, "training.best_metric": metric, "training.rollout_starts": 8}), blocks))
    values = {step: found[metric] for step, found in log.epochs.items()}
    assert len(values) == 2
    best = log.trainer.best
    assert best is not None
    assert (best.metric, best.value) == (metric, min(values.values()))
    off = Log()
    off.run(begin(configure({**HALF, "training.rollout_starts": 0}), blocks))
    assert not any(name.startswith("eval/") for found in off.epochs.values() for name in found)


def test_a_best_metric_of_rollouts_is_refused_where_none_are_measured(blocks: Path, tmp_path: Path) -> None:
    config = configure({**HALF, "training.best_metric": "eval/summary_pos_mae_k20_n64"})
    check_metric(config)
    for wrong in ({"training.rollout_starts": 0}, {"training.best_metric": "eval/summary_pos_mae_k60"}):
        with pytest.raises(UserError, match=r"training\.best_metric"):
            check_metric(override(config, wrong))
    short = write_blocks(tmp_path, frames=18)
    dataset = open_data(override(config, {"model.context_len": 9}), short)
    with pytest.raises(UserError, match="20 frames to roll out"):
        check_validation(dataset, override(config, {"model.context_len": 9}))
    quiet = override(config, {"model.context_len": 9, "training.best_metric": "val_metric/position_mae"})
    check_validation(dataset, quiet)
    worker = Worker(device=CPU)
    view = begin(configure(HALF), blocks).feed.view
    assert open_validation(dataset, quiet, worker, view).rollouts is None


def make_frame(**values: float) -> Facts:
    """One frame of one game on Battlefield, both players alike."""
    numbers = torch.zeros(1, 1, 2, CONTROL_PLACES.stop)
    classes = torch.zeros(1, 1, 2, len(CATEGORIES), dtype=torch.int64)
    for name, value in {"stocks": 4.0, "percent": 50.0, "action": 14, **values}.items():
        if name == "action":
            classes[..., CATEGORIES.index(FIELDS[name])] = int(value)
        else:
            numbers[..., NUMBER_PLACES[name]] = value
    return Facts(numbers, classes, torch.tensor([31]))


@pytest.mark.parametrize(
    ("values", "is_possible"),
    [
        ({}, True), ({"x": 223}, True), ({"x": 225}, False), ({"x": 230, "action": 2}, True), ({"x": -230}, False),
        ({"x": 250, "action": 2}, False), ({"y": -109}, False), ({"y": -115, "action": 0}, True), ({"y": 210}, True),
        ({"y": 230}, False), ({"stocks": 5}, False), ({"stocks": 3}, True), ({"percent": 49}, False),
        ({"percent": 51}, True), ({"percent": 0, "stocks": 3}, True), ({"speed_y": float("nan")}, False),
    ],
)  # fmt: skip
def test_what_no_game_does_is_impossible(values: dict[str, float], is_possible: bool) -> None:
    assert Watch(make_frame()).judge(make_frame(**values)).tolist() == [is_possible]


def test_percent_may_fall_for_a_while_behind_a_lost_stock() -> None:
    before = make_frame().join(make_frame(stocks=3))
    for wait, is_possible in ((60, True), (63, False)):
        watch = Watch(before)
        for _ in range(wait):
            assert watch.judge(make_frame(stocks=3)).all()
        assert watch.judge(make_frame(stocks=3, percent=0)).tolist() == [is_possible]


def test_another_stage_has_no_borders() -> None:
    watch = Watch(replace(make_frame(), stages=torch.tensor([5])))
    assert watch.judge(replace(make_frame(x=900.0), stages=torch.tensor([5]))).all()
