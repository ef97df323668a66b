"""The metrics against the users' values, and their sums against one big batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.model.golden import MODELS, Golden, random_batch
from worldmodel.encoding import EncodingConfig
from worldmodel.experiment.config import LossWeights
from worldmodel.features.batch import Predictions
from worldmodel.schema import field_named
from worldmodel.training.metrics import ACTION_CATEGORIES, Metrics

LAYOUT = EncodingConfig().layout
SAME_NAME = ("position_mae", "velocity_mae", "damage_mae", "p0_action_acc", "p1_action_acc", "binary_acc")


@pytest.mark.parametrize(("arch", "encoding"), MODELS)
def test_metrics_equal_the_users(shared_folder: Path, arch: str, encoding: str) -> None:
    golden = Golden(shared_folder / "golden", arch, encoding)
    metrics = Metrics(golden.layout, LossWeights(**golden.index["loss_weights"]))
    metrics.update(golden.predictions("metrics"), golden.targets())
    ours, theirs = metrics.compute(), golden.metrics
    for name in SAME_NAME:
        assert ours[f"metric/{name}"] == pytest.approx(theirs[name], rel=1e-5), name
    for name in ours:
        if name.startswith("loss/"):
            assert ours[name] == pytest.approx(theirs[f"{name.removeprefix('loss/')}_loss"], rel=1e-5), name
    changes = theirs["p0_action_change_correct"] / theirs["num_action_changes"]
    assert ours["metric/action_change_acc"] == pytest.approx(changes)


def test_batches_of_any_size_add_up_to_the_whole_set() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=9, positions=4)
    whole = Metrics(LAYOUT, LossWeights())
    whole.update(predictions, targets)
    parts = Metrics(LAYOUT, LossWeights())
    for start, end in ((0, 1), (1, 4), (4, 9)):
        rows = slice(start, end)
        parts.update(
            Predictions(
                {k: v[rows] for k, v in predictions.numbers.items()},
                {k: v[rows] for k, v in predictions.logits.items()},
            ),
            replace(
                targets,
                numbers={k: v[rows] for k, v in targets.numbers.items()},
                classes={k: v[rows] for k, v in targets.classes.items()},
                context_action=targets.context_action[rows],
                previous_action=targets.previous_action[rows],
                valid=targets.valid[rows],
                present={k: v[rows] for k, v in targets.present.items()},
            ),
        )
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-5)


def test_vectors_of_two_workers_sum_to_their_union() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=4, positions=2)
    one, two = Metrics(LAYOUT, LossWeights()), Metrics(LAYOUT, LossWeights())
    one.update(predictions, targets)
    two.update(predictions, targets)
    two.update(predictions, targets)
    one.from_vector(one.to_vector() + one.to_vector())
    assert one.compute() == two.compute()
    assert one.compute()["metric/targets"] == 16


def test_masked_targets_are_not_seen() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=6, positions=2)
    valid = targets.valid.clone()
    valid[3:] = False
    kept = Metrics(LAYOUT, LossWeights())
    kept.update(predictions, replace(targets, valid=valid))
    disturbed = {t: torch.where(valid[:, :, None, None], v, v + 7) for t, v in predictions.numbers.items()}
    again = Metrics(LAYOUT, LossWeights())
    again.update(Predictions(disturbed, predictions.logits), replace(targets, valid=valid))
    assert kept.compute() == again.compute()
    assert kept.compute()["metric/targets"] == 6


def test_changes_against_the_previous_frame_use_the_previous_frame() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=8, positions=3)
    metrics = Metrics(LAYOUT, LossWeights())
    metrics.update(predictions, targets)
    found, true = metrics.compute(), targets.classes["action"]
    logits = {**predictions.logits, "action": torch.nn.functional.one_hot(true, 400).float()}
    for name, before in (("_both", targets.context_action), ("_previous", targets.previous_action)):
        changed = true != before
        right = predictions.logits["action"].argmax(-1) == true
        assert found[f"metric/action_change_acc{name}"] == pytest.approx(float(right[changed].float().mean()))
    perfect = Metrics(LAYOUT, LossWeights())
    perfect.update(Predictions(predictions.numbers, logits), targets)
    assert perfect.compute()["metric/action_change_acc_both"] == perfect.compute()["metric/action_acc"] == 1
    assert found["metric/action_changes"] == float((true != targets.context_action).sum())


def test_categories_split_every_target_once() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=40, positions=5)
    metrics = Metrics(LAYOUT, LossWeights())
    metrics.update(predictions, targets)
    found, true = metrics.compute(), targets.classes["action"]
    ids = [action for ranges in ACTION_CATEGORIES.values() for part in ranges for action in part]
    assert len(ids) == len(set(ids)) and max(ids) < field_named("action").vocabulary
    right = predictions.logits["action"].argmax(-1) == true
    special = (true >= 342) & (true <= 397)
    assert found["action/cat_special"] == pytest.approx(float(right[special].float().mean()))
    assert found["action/num_active_actions"] == len(true.unique())


def test_nothing_counted_is_left_out_and_not_a_perfect_score() -> None:
    found = Metrics(LAYOUT, LossWeights()).compute()
    assert "metric/position_mae" not in found and found["metric/targets"] == 0
