"""Asynchronous successive halving (ASHA, Li et al. 2018, https://arxiv.org/abs/1810.05934), for each horizon apart."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from tune.trial import EPOCH, VALUE, config_of

KEEP_ONE_OF = 3
"""Of so many trials that reach an epoch, the best goes on: ASHA's usual factor."""


class HalvingByHorizon(FIFOScheduler):
    """Ray's ASHA over epochs, once for each lookahead: predicting further ahead is another, harder task."""

    def __init__(self, mode: str, epochs: int) -> None:
        super().__init__()
        self._mode, self._epochs = mode, epochs
        self._by_horizon: dict[int, AsyncHyperBandScheduler] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """See `TrialScheduler`."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """See `TrialScheduler`."""
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Its last epoch has been judged when it was reported; what ends a trial is no further epoch."""

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """See `TrialScheduler`."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """See `TrialScheduler`."""

    def _of(self, trial: Trial) -> AsyncHyperBandScheduler:
        horizon = 1 + config_of(trial.config).encoding.lookahead
        if horizon not in self._by_horizon:
            self._by_horizon[horizon] = AsyncHyperBandScheduler(
                time_attr=EPOCH, metric=VALUE, mode=self._mode, max_t=self._epochs, grace_period=1,
                reduction_factor=KEEP_ONE_OF, stop_last_trials=False,
            )  # fmt: skip
        return self._by_horizon[horizon]
