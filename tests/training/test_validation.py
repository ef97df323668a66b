"""Validation is one protocol: each target from frame K on once, whatever the batches, workers or carried state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.tiny_runs import CPU, configure, open_data, write_blocks
from worldmodel.blocks.index import split_position
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.features.plan import Samples
from worldmodel.features.view import FeatureView
from worldmodel.model.build import build_model
from worldmodel.model.world_model import WorldModel
from worldmodel.training.feed import Worker, open_store, sample_shape
from worldmodel.training.metrics import Metrics
from worldmodel.training.validation import check_metric, open_validation, skip_first, validate

HALF = {"training.train_split": 0.4, "data.split": "first"}
KINDS: dict[str, dict[str, Any]] = {
    "window": {"training.mode": "window"},
    "sequence": {},
    "window ahead": {"training.mode": "window", "encoding.lookahead": 2},
    "sequence ahead": {"encoding.lookahead": 2, "encoding.state_flags": True},
}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blocks(tmp_path_factory.mktemp("games"))


def make_model(config: ExperimentConfig, *, is_zero: bool = False) -> WorldModel:
    torch.manual_seed(0)
    model = build_model(config.model, config.encoding.layout)
    if is_zero:
        for parameter in model.parameters():
            parameter.data.zero_()
    return model


def measure(
    blocks: Path, config: ExperimentConfig, model: WorldModel, batch: int | None = None, world: int = 1
) -> dict[str, float]:
    """All metrics, of several workers' sums where there are several."""
    dataset, view = open_data(config, blocks), FeatureView(config.encoding, CPU)
    total = Metrics(view.layout, config.loss_weights)
    for rank in range(world):
        data = open_validation(dataset, config, Worker(device=CPU, rank=rank, world=world), view)
        data = data if batch is None else replace(data, batch_size=batch)
        found = validate(model, data, config.loss_weights, amp=config.training.amp)["model"]
        total.from_vector(total.to_vector() + found.to_vector())
    return total.compute()


def measure_whole_games(blocks: Path, config: ExperimentConfig, model: WorldModel) -> dict[str, float]:
    """The metrics of each game run alone from its first frame to its last in one piece."""
    dataset, view = open_data(config, blocks), FeatureView(config.encoding, CPU)
    games = dataset.split.validation
    store = open_store(dataset, games, config, Worker(device=CPU))
    metrics = Metrics(view.layout, config.loss_weights)
    model.eval()
    for number, game in enumerate(games):
        shape = replace(sample_shape(config), mode="sequence", length=game.frames - 1 - config.encoding.lookahead)
        inputs, targets = view.view(store, Samples(np.array([number]), np.array([0])), shape)
        assert bool(targets.valid.all())
        with torch.inference_mode():
            predictions, _ = model(inputs, wants_state=False)
        metrics.update(predictions, skip_first(targets, 0, config.model.context_len))
    return metrics.compute()


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_target_from_frame_k_on_is_counted_once(blocks: Path, kind: str) -> None:
    config = configure({**HALF, **KINDS[kind]})
    games = open_data(config, blocks).split.validation
    first = config.model.context_len + config.encoding.lookahead
    found = measure(blocks, config, make_model(config, is_zero=True), batch=7)
    assert found["metric/targets"] == sum(game.frames - first for game in games)
    # A model that says 0 has the targets' own mean square as its loss: the targets are the right ones.
    expected = measure_whole_games(blocks, config, make_model(config, is_zero=True))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["sequence", "sequence ahead"])
def test_carried_state_gives_what_a_game_in_one_piece_gives(
    blocks: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure({**HALF, **KINDS[kind], "model.n_layers": 2})
    model = make_model(config)
    expected = measure_whole_games(blocks, config, model)
    for chunk, batch in ((8, 3), (11, 2), (256, 16)):
        monkeypatch.setattr("worldmodel.training.validation.CHUNK", chunk)
        assert measure(blocks, config, model, batch) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_neither_batch_size_nor_workers_change_a_metric(blocks: Path, kind: str, amp: bool) -> None:
    config = configure({**HALF, **KINDS[kind], "training.amp": amp})
    model = make_model(config)
    expected = measure(blocks, config, model)
    exact = {"rel": 1e-5, "abs": 1e-6} if not amp else {"rel": 1e-3, "abs": 1e-3}
    for batch, world in ((1, 1), (3, 2), (1000, 4), (None, 8)):
        assert measure(blocks, config, model, batch, world) == pytest.approx(expected, **exact)


@pytest.mark.parametrize("world", [1, 2])
def test_a_sample_of_the_games_is_validated_whoever_does_it(blocks: Path, world: int) -> None:
    config = configure({**HALF, "training.validation_games": 1})
    games = open_data(config, blocks).split.validation
    first = min(games, key=lambda game: split_position(game.md5))
    found = measure(blocks, config, make_model(config), world=world)
    assert len(games) > 1
    assert found["metric/targets"] == first.frames - config.model.context_len


@pytest.mark.parametrize("number", [0, -1, 2.5])
def test_a_sample_without_games_is_refused(number: float) -> None:
    with pytest.raises(UserError, match=r"training.validation_games"):
        configure({"training.validation_games": number})


def test_dropout_is_off_while_validating_and_on_again_after(blocks: Path) -> None:
    config = configure({**HALF, "model.dropout": 0.5})
    model = make_model(config).train()
    assert measure(blocks, config, model) == measure(blocks, config, model)
    assert model.training


def test_games_shorter_than_the_context_are_refused_with_their_length(blocks: Path) -> None:
    config = configure({"model.context_len": 60})
    with pytest.raises(UserError, match=r"longest has 4\d frames.*context_len 60"):
        open_validation(open_data(config, blocks), config, Worker(device=CPU), FeatureView(config.encoding, CPU))


@pytest.mark.parametrize("encoding", [{}, {"encoding.lookahead": 1, "encoding.state_flags": True}])
def test_every_metric_that_validation_yields_can_be_the_best_metric(blocks: Path, encoding: dict[str, Any]) -> None:
    config = configure(encoding)
    for name in measure(blocks, config, make_model(config)):
        check_metric(configure({**encoding, "training.best_metric": f"val_{name}"}))


def test_a_metric_that_nothing_measures_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'val_metric/position_mea' \(did you mean 'val_metric/position_mae'"):
        check_metric(configure({"training.best_metric": "val_metric/position_mea"}))
