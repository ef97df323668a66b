"""Sums by game add up to the whole set's metrics, and leave teleports out where they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.model.golden import random_batch
from worldmodel.encoding import EncodingConfig
from worldmodel.experiment.config import LossWeights
from worldmodel.training.game_sums import BY_GAME, NO_TELEPORTS, TELEPORT, GameSums
from worldmodel.training.metrics import Metrics

LAYOUT = EncodingConfig().layout


def test_games_add_up_to_the_metrics() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=9, positions=4)
    whole, sums = Metrics(LAYOUT, LossWeights()), GameSums(LAYOUT, 3)
    whole.update(predictions, targets)
    sums.update(predictions, targets, np.array([0, 0, 2, 1, 1, 1, 2, 0, 1]))
    expected = whole.compute()
    for name, (totals, counts) in sums.compute().items():
        assert len(totals) == len(counts) == 3
        if name != NO_TELEPORTS:
            assert sum(totals) / sum(counts) == pytest.approx(expected[name], rel=1e-5), name


def test_teleports_count_only_where_they_should() -> None:
    _, predictions, targets = random_batch(LAYOUT, batch=5, positions=2)
    fields = LAYOUT.number_targets["continuous"]
    place = [field.name for field in fields].index("x")
    numbers = {term: torch.zeros_like(values) for term, values in targets.numbers.items()}
    predicted = {term: torch.zeros_like(values) for term, values in predictions.numbers.items()}
    numbers["continuous"][0, 0, 0, place] = 2 * TELEPORT * fields[place].scale
    numbers["continuous"][1, 0, 0, place] = 0.5 * TELEPORT * fields[place].scale
    sums = GameSums(LAYOUT, 1)
    sums.update(replace(predictions, numbers=predicted), replace(targets, numbers=numbers), np.zeros(5, dtype=np.int64))
    found = {name: (totals[0], counts[0]) for name, (totals, counts) in sums.compute().items()}
    assert found[BY_GAME[0]] == pytest.approx((2.5 * TELEPORT, 40))
    assert found[NO_TELEPORTS] == pytest.approx((0.5 * TELEPORT, 39))
    assert sums.average() == {NO_TELEPORTS: pytest.approx(0.5 * TELEPORT / 39)}
