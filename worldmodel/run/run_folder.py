"""Starting, resuming, finding and stopping runs: what is done with a run folder from outside its process."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from worldmodel.errors import UserError, nearest
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import describe_changes, override, read_experiment, to_yaml
from worldmodel.experiment.layers import complete_origins
from worldmodel.machine.process import is_gone, is_this_boot, read_uptime
from worldmodel.object_store import MissingError
from worldmodel.run.lock import is_held
from worldmodel.run.record import Attempt, Living, RunRecord, State
from worldmodel.run.run import CONFIG, RECORD, Run
from worldmodel.run.stop_request import STOP, read_stop
from worldmodel.schema import model_hash
from worldmodel.storage import Location, is_plain_name
from worldmodel.training.metrics import METRIC_VERSION

LOST_SECONDS = 120.0
"""A run that should be running and has given no sign of life for so long is lost."""
LIVE = (State.CREATED, State.RUNNING)
FREE_SECTIONS = ("tracking.",)
FREE_KEYS = frozenset({
    "training.num_epochs", "training.max_steps", "training.device", "training.threads", "training.eval_batch_size",
    "training.log_interval", "training.checkpoint_minutes", "training.batch_parts", "training.compile",
    "training.rollout_starts", "training.keep_last",
    "data.dataset_dir", "data.allow", "save_dir",
})  # fmt: skip
"""Settings that may change at a resume; any other would make it another experiment."""

Record = TypeVar("Record", bound=Living)


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """One run of a storage."""

    location: Location
    """Its folder."""
    record: RunRecord
    """Its record, with "lost" in place of "running" where its process is gone."""


def start_run(storage: Location, config: ExperimentConfig, *, resume: bool = False, **facts: Any) -> Run:
    """Makes the run folder of an experiment, or opens it again.

    Args:
        storage: the folder or URI that holds run folders.
        config: the experiment; its name names the folder.
        resume: go on with the run of that name.
        facts: further fields of `RunRecord` that are known (`data_fingerprint`, `device`, `total_steps`, ...).

    Raises:
        UserError: without `resume`, there is a run of that name already; with it, there is none, it is still running,
            or the experiment, the data or the model's view of a frame is not the one that was started.
    """
    location = storage / config.name
    older = find_older(storage, config.name, resume=resume)
    run = _reopen(location, older, config, facts) if older else _create(location, config, facts)
    (location / CONFIG).write_text(to_yaml(config, complete_origins(run.record.origins)))
    run.write()
    return run


def read_record(location: Location) -> RunRecord:
    """The record of a run folder, with "lost" in place of "running" where its process is gone.

    Raises:
        MissingError: there is no `run.json`.
        UserError: it cannot be understood.
    """
    return judge_end(location, read_written(location))


def read_written(location: Location) -> RunRecord:
    """The record of a run folder as it was written.

    Raises:
        MissingError: there is no `run.json`.
        UserError: it cannot be understood.
    """
    try:
        return RunRecord.model_validate_json((location / RECORD).read_bytes())
    except ValidationError as error:
        raise UserError(f"{location / RECORD} cannot be understood: {error}") from error


def judge_end(location: Location, written: RunRecord) -> RunRecord:
    """A record with what its silence means, and why its process was asked to stop."""
    record = judge_life(written)
    if record.state is not State.LOST or written.state is State.LOST:
        return record
    if (written.state is State.CREATED or written.world_size > 1) and is_held(location):
        return written  # its driver waits for machines
    return _explain_loss(location, record)


def read_config(location: Location) -> ExperimentConfig:
    """The experiment of a run folder, complete.

    Raises:
        UserError: there is none, or it does not fit this version.
    """
    text = (location / CONFIG).read_text()
    config = read_experiment(text, source=str(location / CONFIG), name=location.name)
    return config if "test_split:" in text else override(config, {"training.test_split": 0.0})  # an older run had none


def judge_life(record: Record, now: datetime | None = None) -> Record:
    """The record with what its silence means: a live state without a sign of life for two minutes is "lost"."""
    silent = measure_silence(record, now)
    if record.state not in LIVE or (silent < LOST_SECONDS and not _is_dead_here(record)):
        return record
    if record.reason and record.ended:  # its workers had ended, and waited for others
        found = {"state": State.LOST, "reason": f"{record.reason}; nobody started its workers again"}
    elif record.reason:
        found = {"state": State.STOPPED, "reason": f"{record.reason}; killed before it could end"}
    else:
        found = {
            "state": State.LOST,
            "reason": f"no sign of life from {record.hosts[0]} (process {record.pid}) for {silent:.0f} s: "
            "the process was killed or the machine lost",
        }
    return record.model_copy(update={**found, "ended": record.heartbeat})


def measure_silence(record: Living, now: datetime | None = None) -> float:
    """Seconds since a record's last sign of life: on its own machine by uptime, for the clock may have been set."""
    uptime, then = read_uptime(), record.heartbeat_uptime
    if now is None and uptime is not None and then is not None and is_this_boot(record.hosts[0], record.pid_space):
        return uptime - then
    return ((now or datetime.now(UTC)) - record.heartbeat).total_seconds()


def find_runs(storage: Location) -> list[FoundRun]:
    """The runs of a storage, also those in its grids' folders (GRID/TRIAL), latest start first."""
    found = []
    for entry in storage.list_entries():
        if entry.is_folder and is_plain_name(entry.name):
            found += _find_at(storage / entry.name) or [
                run
                for inner in (storage / entry.name).list_entries()
                if inner.is_folder and is_plain_name(inner.name)
                for run in _find_at(storage / entry.name / inner.name)
            ]
    return sorted(found, key=lambda run: run.record.started, reverse=True)


def request_stop(location: Location, reason: str = "") -> None:
    """Asks a run to save itself and end; it notices within seconds.

    Raises:
        UserError: there is no such run, or it is not running.
    """
    record = read_record(location)
    if record.state not in LIVE:
        raise UserError(f"run {record.name} is not running: {describe_end(record)}")
    (location / STOP).write_text(f"{reason or describe_asker()}\n")


def describe_asker() -> str:
    """Who asks for a stop without saying why, and from where."""
    return f"asked by {os.environ.get('USER', 'somebody')}@{socket.gethostname()}"


def describe_end(record: RunRecord) -> str:
    """State, step, time and reason in a line."""
    of = f" of {record.total_steps}" if record.total_steps else ""
    when = f"{record.ended or record.updated:%Y-%m-%d %H:%M} UTC"
    return f"{record.state.value} at step {record.step}{of}, {when}" + (f" ({record.reason})" if record.reason else "")


def find_older(storage: Location, name: str, *, resume: bool) -> RunRecord | None:
    """The record of the run that is to be resumed; None: a new one may begin.

    Raises:
        UserError: without `resume`, there is a run of that name already; with it, there is none or it is still running.
    """
    try:
        older = read_record(storage / name)
    except MissingError:
        if not resume:
            return None
        hint = nearest(name, (entry.name for entry in storage.list_entries()))
        raise UserError(f"there is no run {name!r} in {storage} to resume{hint}") from None
    if not resume:
        raise UserError(
            f"there is a run {name!r} in {storage} already: {describe_end(older)}; "
            "go on with it by --resume, or choose another name by --run-name"
        )
    if older.state in LIVE:
        raise UserError(
            f"run {name!r} is still running on {older.hosts[0]} (process {older.pid}); stop it first, or wait "
            f"{LOST_SECONDS:.0f} s if it was killed"
        )
    return older


def _create(location: Location, config: ExperimentConfig, facts: dict[str, Any]) -> Run:
    record = RunRecord(name=config.name, goal=config.goal, metric_version=METRIC_VERSION, **facts)
    record.resume_command = record.resume_command or add_resume(record.command)
    return Run(location, record)


def _reopen(location: Location, older: RunRecord, config: ExperimentConfig, facts: dict[str, Any]) -> Run:
    check_same(location, older, config, facts.get("data_fingerprint", ""))
    (location / STOP).delete()
    fresh = RunRecord(name=older.name, goal=config.goal, metric_version=METRIC_VERSION, **facts)
    attempt = Attempt(
        state=older.state, reason=older.reason, host=older.hosts[0], ended=older.ended or older.heartbeat,
        step=older.step,
    )  # fmt: skip
    kept = {
        name: getattr(older, name)
        for name in ("started", "seconds", "step", "epoch", "metrics", "best", "notes", "interruptions", "wandb_id")
    }
    record = fresh.model_copy(
        update={
            **kept,
            "checkpoint": older.checkpoint,
            "attempts": [*older.attempts, attempt],
            "resume_command": fresh.resume_command or add_resume(fresh.command),
        }
    )
    return Run(location, record)


def check_same(location: Location, older: RunRecord, config: ExperimentConfig, fingerprint: str) -> None:
    """UserError, with every difference, where a run is not this experiment on these data ("": unknown)."""
    problems = [
        f"{key}: the run has {was!r}, expected the same, found {now!r}"
        for key, was, now in _find_differences(read_config(location), config)
    ]
    if older.data_fingerprint and fingerprint and older.data_fingerprint != fingerprint:
        problems.append(f"data: the run has fingerprint {older.data_fingerprint}, found {fingerprint}")
    if older.model_hash != model_hash():
        problems.append(f"schema: the run was made with model hash {older.model_hash}, this version has {model_hash()}")
    if problems:
        text = "\n  ".join(problems)
        raise UserError(f"run {older.name!r} cannot be resumed as another experiment; start a new one:\n  {text}")


def _find_differences(older: ExperimentConfig, newer: ExperimentConfig) -> list[tuple[str, Any, Any]]:
    was, now = ({key: (default, value) for key, default, value in describe_changes(c)} for c in (older, newer))
    found = []
    for key in sorted(was.keys() | now.keys()):
        default = (was.get(key) or now[key])[0]
        pair = [changes.get(key, (default, default))[1] for changes in (was, now)]
        if pair[0] != pair[1] and key not in FREE_KEYS and not key.startswith(FREE_SECTIONS):
            found.append((key, *pair))
    return found


def _find_at(location: Location) -> list[FoundRun]:
    try:
        return [FoundRun(location=location, record=read_record(location))]
    except MissingError:
        return []
    except UserError as error:
        unreadable = RunRecord(name=location.name, state=State.LOST, reason=str(error), commit=None, command="")
        return [FoundRun(location=location, record=unreadable)]


def _explain_loss(location: Location, record: RunRecord) -> RunRecord:
    """A lost run that had been asked to stop was killed before it heard: its reason is the asker's."""
    reason = read_stop(location)
    if reason is None:
        return record
    return record.model_copy(update={"state": State.STOPPED, "reason": f"{reason}; killed before it could end"})


def _is_dead_here(record: Living) -> bool:
    """Whether the run's process was on this machine and is gone."""
    return is_gone(record.hosts[0], record.pid, record.pid_space, record.pid_start)


def add_resume(command: str) -> str:
    """The command line that goes on with what a command line began."""
    return command if "--resume" in command.split() else f"{command} --resume"
