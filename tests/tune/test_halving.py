"""The scheduler ends what promises least, and never compares predictions of different horizons."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import pytest

from tune.halving import KEEP_ONE_OF, HalvingByHorizon
from tune.options import GridRequest
from tune.trial import EPOCH, VALUE
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override, to_yaml


@dataclass
class Asked:
    """A trial as Ray Tune hands it to a scheduler."""

    trial_id: str
    config: dict[str, Any] = field(default_factory=dict)


def make(name: str, lookahead: int = 0) -> Asked:
    config = override(ExperimentConfig(name=name), {"encoding.lookahead": lookahead})
    return Asked(trial_id=name, config={"trial": {"config": to_yaml(config)}})


def judge(scheduler: HalvingByHorizon, trials: list[Asked], values: list[float], epoch: int = 1) -> list[str]:
    found = []
    for trial, value in zip(trials, values, strict=True):
        found.append(scheduler.on_trial_result(None, trial, {EPOCH: epoch, VALUE: value}))
    return found


def begin(mode: str, trials: list[Asked], epochs: int = 9) -> HalvingByHorizon:
    scheduler = HalvingByHorizon(mode, epochs)
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    return scheduler


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_of_three_that_reach_an_epoch_the_worse_two_end(mode: str, sign: int) -> None:
    trials = [make(f"t{k}") for k in range(2 * KEEP_ONE_OF)]
    values = [sign * k for k in range(len(trials))]
    found = judge(begin(mode, trials), trials, values)
    assert found[0] == "CONTINUE"
    assert found[2:] == ["STOP"] * (len(trials) - 2)


def test_a_harder_horizon_is_judged_apart() -> None:
    near, far = [make(f"near{k}") for k in range(6)], [make(f"far{k}", lookahead=1) for k in range(6)]
    scheduler = begin("min", [*near, *far])
    judge(scheduler, near, [0.1] * len(near))
    assert judge(scheduler, far, [9.0, 99.0, 99.0, 99.0, 99.0, 99.0])[0] == "CONTINUE"


def test_who_leads_is_never_ended() -> None:
    trials = [make(f"t{k}") for k in range(6)]
    scheduler = begin("min", trials)
    for epoch in range(1, 10):
        judge(scheduler, trials[1:], [float(k) for k in range(1, 6)], epoch)
        assert judge(scheduler, trials[:1], [0.0], epoch) == ["CONTINUE"]


def test_it_chooses_after_the_epochs_that_its_help_names() -> None:
    trials = [make("better"), make("worse")]
    scheduler = begin("min", trials, epochs=30)
    chosen = [epoch for epoch in range(1, 12) if "STOP" in judge(scheduler, trials, [0.0, 1.0], epoch)]
    assert chosen == [1, 3, 9]
    help_text = inspect.getsource(GridRequest)
    assert f"after epochs {', '.join(map(str, chosen))}, ..." in help_text
