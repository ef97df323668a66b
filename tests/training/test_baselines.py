"""Baselines that need no training: their rules, on frames made by hand and on real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.model.golden import ENCODINGS, Golden, random_batch
from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.experiment.config import LossWeights
from worldmodel.features.batch import Inputs, Predictions, Targets
from worldmodel.schema import PLAYERS, field_named
from worldmodel.training.baselines import MostFrequentNextAction, kinematic, persistence
from worldmodel.training.metrics import Metrics

ENCODINGS_OF_OURS = (
    EncodingConfig(),
    EncodingConfig(state_age_as_embed=True, projectiles=True, state_flags=True, hitstun=True, lookahead=1),
)


def frame_of(layout: FeatureLayout, values: dict[str, float]) -> Inputs:
    """One game's single context frame: player 0 has `values` (game units), all else is 0."""
    floats = torch.zeros(1, 1, layout.float_width)
    names = [f.name for f in layout.continuous]
    names += ["" for _ in range(layout.continuous_width - len(names))]
    names += [f.name for f in layout.flags for _ in range(f.bits)]
    for name, value in values.items():
        floats[0, 0, names.index(name)] = value * field_named(name).scale
    classes = torch.zeros(1, 1, layout.class_width, dtype=torch.int64)
    return Inputs(floats, classes, torch.zeros(1, 1, layout.control_width))


def moved(predictions: Predictions, layout: FeatureLayout) -> tuple[float, float]:
    """Player 0's predicted movement in Melee units."""
    fields = layout.number_targets["continuous"]
    found = {f.name: predictions.numbers["continuous"][0, 0, 0, i] / f.scale for i, f in enumerate(fields)}
    return float(found["x"]), float(found["y"])


SPEEDS = {"speed_air_x": 1.5, "speed_ground_x": -0.7, "speed_y": 2.0, "speed_attack_x": 0.25, "speed_attack_y": -0.5}


@pytest.mark.parametrize("config", ENCODINGS_OF_OURS)
@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"on_ground": 0}, (1.75, 1.5)),
        ({"on_ground": 1}, (-0.45, -0.5)),
        ({"on_ground": 0, "hitlag": 1}, (1.75, 1.5)),
        ({"on_ground": 0, "hitlag": 2}, (0, 0)),
    ],
)
def test_a_player_goes_on_at_the_speed_that_its_state_allows(
    config: EncodingConfig, state: dict[str, float], expected: tuple[float, float]
) -> None:
    inputs = frame_of(config.layout, {**SPEEDS, **state})
    assert moved(kinematic(inputs, config.layout), config.layout) == pytest.approx(expected, abs=1e-6)
    assert moved(persistence(inputs, config.layout), config.layout) == (0, 0)


@pytest.mark.parametrize("config", ENCODINGS_OF_OURS)
def test_persistence_is_right_about_all_that_stays(config: EncodingConfig) -> None:
    layout = config.layout
    inputs, _, targets = random_batch(layout, batch=5, time=4, positions=2)
    floats = inputs.floats.clone()
    per_player = floats.view(5, 4, PLAYERS, -1)
    start, end = layout.continuous_width, layout.continuous_width + layout.flag_width
    per_player[..., start:end] = (per_player[..., start:end] > 0).float()
    inputs = replace(inputs, floats=floats)
    predicted = persistence(inputs, layout)
    assert {t: v.shape for t, v in predicted.numbers.items()} == {t: v.shape for t, v in targets.numbers.items()}
    torch.testing.assert_close(
        predicted.numbers["binary"].sigmoid(), per_player[:, -2:, :, start:end], atol=1e-6, rtol=0
    )
    place = [f.name for f in layout.continuous].index("stocks")
    stocks = [f.name for f in layout.number_targets["dynamics"]].index("stocks")
    assert torch.equal(predicted.numbers["dynamics"][..., stocks], per_player[:, -2:, :, place])
    for term, field in layout.class_targets.items():
        column = [f.name for f in layout.categories].index(field.name)
        width = len(layout.categories)
        now = torch.stack([inputs.classes[:, -2:, column], inputs.classes[:, -2:, width + column]], -1)
        assert torch.equal(predicted.logits[term].argmax(-1), now)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_on_real_frames_speeds_beat_standing_still(shared_folder: Path, encoding: str) -> None:
    golden = Golden(shared_folder / "golden", "mlp", encoding)
    found = {}
    for rule in (persistence, kinematic):
        metrics = Metrics(golden.layout, LossWeights())
        metrics.update(rule(golden.inputs(), golden.layout), golden.targets())
        found[rule.__name__] = metrics.compute()
    assert found["kinematic"]["metric/position_mae"] < found["persistence"]["metric/position_mae"]
    assert found["persistence"]["metric/action_change_acc_both"] == 0
    assert found["persistence"]["metric/action_acc"] > 0.7


def _targets(before: Tensor, after: Tensor) -> Targets:
    _, _, targets = random_batch(EncodingConfig().layout, batch=1, positions=before.size(1))
    return replace(targets, context_action=before, classes={**targets.classes, "action": after})


def test_the_most_frequent_change_wins_and_staying_is_no_change() -> None:
    before = torch.tensor([[[14, 20], [14, 20], [14, 14], [14, 20]]])
    after = torch.tensor([[[24, 20], [24, 21], [44, 14], [14, 20]]])
    rule = MostFrequentNextAction()
    rule.update(_targets(before, after))
    assert rule.predict_action(torch.tensor([[[14, 20]], [[21, 399]]])).tolist() == [[[24, 21]], [[21, 399]]]
    valid = torch.zeros(1, 4, dtype=torch.bool)
    counted = rule.counts.clone()
    rule.update(replace(_targets(before, after), valid=valid))
    assert torch.equal(rule.counts, counted)
