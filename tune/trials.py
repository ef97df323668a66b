"""Running a grid's trials on Ray Tune, each through Ray Train, on whatever Ray there is."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from tune.resources import Resources
from tune.results import read_trial
from tune.variants import Trial
from worldmodel.experiment.config_file import to_yaml
from worldmodel.object_store import StorageError
from worldmodel.ray_session import join_ray
from worldmodel.run.crew import share_environment
from worldmodel.run.record import make_command
from worldmodel.run.run_folder import check_same, read_config
from worldmodel.storage import Location

if TYPE_CHECKING:
    from tune.search import Search

SCRATCH = ".tune"
"""Folder of a grid's in which Ray Tune keeps its own state."""
LOOK_SECONDS = 0.2
"""Time between two looks whether a grid is over."""
WAITING = "ray tune"
"""Name of the thread that waits for Ray Tune."""
LOSSES = 20
"""Times that Ray Tune starts a trial again which was lost without a notice, most of all with its machine; those with a
notice do not count. `tune.trial.RETRIES` limits losses of the process alone."""


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """How a grid's trials are run."""

    folder: Location
    """The grid's."""
    resources: Resources
    halving: bool = False
    """Whether ASHA ends the trials that promise least."""
    search: Search | None = None
    """Chooses trials while the grid runs; None: all are known."""
    is_over: Callable[[], bool] = lambda: False
    """Whether the grid was asked to stop and has: Ray is not waited for any longer."""


def run_trials(trials: Sequence[Trial], how: TrialRun) -> dict[str, str]:
    """Run trials to their ends; each fails alone. What they find stands in their run folders.

    Returns the names of those that failed, with what ended them.
    """
    if not trials and not how.search:
        return {}
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints a banner on stdout, however quiet it is to be
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the grid's own watch lets the trials save themselves
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that failed has no value
    join_ray()
    from ray import tune

    from tune.trial import ERROR, GridTrial

    _keep_credentials_out_of_logs()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it repeats every failure, which the table names
    place, environment = how.folder / SCRATCH, share_environment()
    name_trial = _make_namer(how.search)
    tuner = tune.Tuner(
        GridTrial,
        param_space={"trial": _list_settings(trials, how, environment)},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=how.resources.at_once, reuse_actors=True, scheduler=_make_scheduler(trials, how),
            trial_name_creator=name_trial, trial_dirname_creator=name_trial, **_find_points(trials, how),
        ),
        run_config=tune.RunConfig(
            name=f"{how.folder.name}-{uuid.uuid4().hex[:8]}", storage_path=place.path,
            storage_filesystem=place.filesystem, verbose=0, failure_config=tune.FailureConfig(max_failures=LOSSES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip
    try:
        ends = _fit(tuner, how.is_over)
    finally:
        with suppress(StorageError):
            place.delete()
    found = {PurePosixPath(end.path).name: _explain_end(end.error, (end.metrics or {}).get(ERROR, "")) for end in ends}
    return {name: text for name, text in found.items() if text}


def _list_settings(trials: Sequence[Trial], how: TrialRun, environment: Any) -> Any:
    """What each trial is told; where a search chooses, what all of them are told."""
    from ray import tune

    if how.search:
        return {**_describe(how.search.base, how), "environment": environment}
    return tune.grid_search([{**_describe(trial, how), "environment": environment} for trial in trials])


def _find_points(trials: Sequence[Trial], how: TrialRun) -> dict[str, Any]:
    """Options of Ray Tune's by which a search chooses what is still to be trained."""
    if not how.search:
        return {}
    from tune.search import make_searcher

    new = how.search.count - len(how.search.trials)
    return {"search_alg": make_searcher(how.search, how.folder, trials), "num_samples": new + len(trials)}


def _keep_credentials_out_of_logs() -> None:
    """Ray Tune would pass AWS keys on as a runtime environment, which Ray writes into its logs; a trial gets them from
    `share_environment`."""
    with suppress(ImportError, AttributeError):  # Ray's own, which it does not promise; `tests/security` looks
        from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

        ENV_VARS_TO_PROPAGATE.difference_update([name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])


def _fit(tuner: Any, is_over: Callable[[], bool]) -> list[Any]:
    """What each trial ended with; nothing where it is over before Ray says so. In a thread: Ray may never return."""
    found: Queue[Any] = Queue()

    def fit() -> None:
        try:
            found.put(list(tuner.fit()))
        except BaseException as error:  # noqa: BLE001  (raised by the thread that waits)
            found.put(error)

    threading.Thread(target=fit, name=WAITING, daemon=True).start()
    while not is_over():
        with suppress(Empty):
            ends = found.get(timeout=LOOK_SECONDS)
            if isinstance(ends, BaseException):
                raise ends
            return list(ends)
    return []


def _describe(trial: Trial, how: TrialRun) -> dict[str, Any]:
    """What a trial is told: plain values, which Ray writes down."""
    return {
        "config": to_yaml(trial.config), "grid": how.folder.name, "workers": how.resources.workers,
        "share": how.resources.share,
        "holds": how.resources.driver, "shows_epochs": how.halving,
        "command": make_command(), "since": time.time(), "origins": dict(trial.origins), "axes": dict(trial.axes),
    }  # fmt: skip


def _make_scheduler(trials: Sequence[Trial], how: TrialRun) -> Any:
    if not how.halving:
        return None
    from tune.halving import HalvingByHorizon

    training = (how.search.base if how.search else trials[0]).config.training
    return HalvingByHorizon(training.best_mode, training.num_epochs)


def _explain_end(error: BaseException | None, said: str) -> str:
    from tune.trial import explain

    return said or (f"it was lost {LOSSES + 1} times: {explain(error)}" if error else "")


def _make_namer(search: Search | None) -> Callable[[Any], str]:
    """Names Ray Tune's trials; a search hears of each. A closure, because Ray Tune copies other callables."""
    from tune.trial import POINT, config_of

    def name_trial(trial: Any) -> str:
        return search.add(trial.config[POINT]).name if search else str(config_of(trial.config).name)

    return name_trial


def is_done(folder: Location, trial: Trial, *, halving: bool = False) -> bool:
    """Whether a trial has been trained to its end, as it is asked for now, and evaluated.

    `halving`: the end that a scheduler chose is one too.

    UserError where the run folder holds another experiment under the trial's name.
    """
    found, location = read_trial(folder, trial), folder / trial.name
    if found.record is None:
        return False
    check_same(location, found.record, trial.config, "")
    older, newer = read_config(location).training, trial.config.training
    is_same_length = (older.num_epochs, older.max_steps) == (newer.num_epochs, newer.max_steps)
    is_ended = found.is_finished or (halving and found.is_stopped_early)
    return is_ended and is_same_length and found.record.blocks == trial.config.data.dataset_dir
