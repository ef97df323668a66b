"""Results of trials that never ran: what tables, reports and their files are checked on."""

from __future__ import annotations

from typing import Any

from tune.grid import Trial
from tune.results import METRICS, TrialResult
from worldmodel.training.config import ExperimentConfig
from worldmodel.training.record import RunRecord, Seconds, State

REFERENCES = ("persistence", "kinematic", "most frequent next action")


def make_evaluation(values: dict[str, float], **changes: Any) -> dict[str, Any]:
    """What `evaluation.json` holds, under the model's metrics."""
    rows = {"model": values, **{name: dict.fromkeys(METRICS, 0.5) for name in REFERENCES}}
    return {"step": 10, "horizon": 1, "data_fingerprint": "f" * 16, "metric_version": 1, "rows": rows, **changes}


def make_result(experiment: str, seed: int, value: float = 0.25, **changes: Any) -> TrialResult:
    """A finished trial with `value` for every metric; `changes` are of its evaluation."""
    return TrialResult(
        name=f"{experiment}-seed{seed}", experiment=experiment, seed=seed, record=make_record(experiment, seed),
        evaluation=make_evaluation(dict.fromkeys(METRICS, value), **changes),
    )  # fmt: skip


def make_record(experiment: str, seed: int, **changes: Any) -> RunRecord:
    """The record of a trial that finished after ten steps and a minute, at 6 dollars an hour."""
    facts = {"state": State.FINISHED, "step": 10, "seconds": Seconds(total=60.0), "price_per_hour_usd": 6.0}
    return RunRecord(name=f"{experiment}-seed{seed}", **{"commit": None, "command": "", **facts, **changes})


def make_failure(experiment: str, seed: int, reason: str) -> TrialResult:
    """A trial that an error ended."""
    record = make_record(experiment, seed, state=State.FAILED, reason=reason)
    return TrialResult(
        name=f"{experiment}-seed{seed}", experiment=experiment, seed=seed, record=record, evaluation=None
    )


def make_trial(experiment: str = "baseline", seed: int = 0) -> Trial:
    """A trial of a grid."""
    return Trial(experiment=experiment, seed=seed, config=ExperimentConfig(name=f"{experiment}-seed{seed}"))
