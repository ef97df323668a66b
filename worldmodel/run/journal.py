"""What the first worker writes down while it trains: metrics, checkpoints, the record."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from io import IOBase
from types import TracebackType

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import as_values
from worldmodel.machine.gpu import Gpu
from worldmodel.object_store import StorageError
from worldmodel.run.gauges import Gauges, describe_interval, describe_progress
from worldmodel.run.log_file import LogFile
from worldmodel.run.mfu import find_peak_rate
from worldmodel.run.record import Seconds
from worldmodel.run.reporter import Reporter
from worldmodel.run.run import Run
from worldmodel.run.spikes import SpikeWatch
from worldmodel.run.tracking import Tracker
from worldmodel.training.checkpoint import Best, Checkpoint, CheckpointState, name_folder, save_checkpoint
from worldmodel.training.checkpoint_files import CheckpointError
from worldmodel.training.checkpoint_list import Recovery, Retention, apply_retention, mark_best, read_best
from worldmodel.training.coherence import COHERENCE, name_bar, name_metric
from worldmodel.training.interval import Interval
from worldmodel.training.loop import Hooks, Trainer

SHOWN = (
    "val_loss/total", "val_metric/action_ce", "val_metric/position_mae", "val_metric/action_change_acc_both",
)  # fmt: skip
"""Metrics that an epoch's line shows, before the rollouts' position error."""


BY_TIME, EPOCH = "minutes", "epoch"
"""Tags of checkpoints that the loop saves because time has passed, and after an epoch."""


class Journal:
    """The run folder, metrics, gauges and terminal of one run; a context, open while it trains."""

    def __init__(self, run: Run, config: ExperimentConfig, stream: IOBase | None = None) -> None:
        """`stream`: where lines are shown; None: stdout."""
        self.run, self.config, self._stream = run, config, stream
        shown = {**as_values(config), **({"axes": run.record.axes} if run.record.axes else {})}
        self.tracker = Tracker(run.location, config.tracking, shown, run.note, run.record.wandb_id)
        self._log = LogFile(run.location, run.note)
        self._stack = ExitStack()
        self._stack.callback(self._log.close)
        self._stack.callback(self.tracker.close)
        self._before = run.record.seconds
        self._spikes = SpikeWatch()
        self._has_failed = False
        self._saved_step: int | None = None

    @property
    def hooks(self) -> Hooks:
        """What the loop calls."""
        return Hooks(
            on_interval=self._note_interval,
            on_epoch=self._note_epoch,
            on_checkpoint=self._save,
            on_progress=lambda doing, done, whole: self.reporter.show_progress(doing, done, whole),
            on_note=self._note,
            stop_reason=self.run.should_stop,
        )

    def begin(self, trainer: Trainer, recovery: Recovery | None) -> None:
        """Say what is about to be trained, or what it goes on from."""
        self.trainer = trainer
        plan, schedule = trainer.feed.plan, trainer.schedule
        parameters = sum(p.numel() for p in trainer.model.parameters())
        frames = trainer.feed.store.describe()
        self._peak_rate = find_peak_rate(self.config, trainer.device, trainer.workers.world)
        self.run.watch(trainer.pulse, Gpu.open(trainer.device))
        validation = trainer.validation
        validated = (validation.store.game_count, validation.games_in_all)
        self.run.update(
            total_steps=schedule.total_steps, parameters=parameters, frames=frames, validated_games=validated
        )  # fmt: skip
        self.reporter = Reporter(schedule.total_steps, keep=self._keep, stream=self._stream)
        self._stack.callback(self.reporter.close)
        self.gauges = Gauges(self.config, trainer.device, self.run.note)
        self._stack.callback(self.gauges.close)
        self.say(
            f"{parameters:,} parameters | {plan.epoch_targets:,} targets an epoch in "
            f"{schedule.steps_per_epoch:,} steps of {plan.batch_size} {plan.shape.mode}s | "
            f"{frames}" + (f" | {self.run.record.validated}" if self.run.record.validated else "")
        )
        for complaint in recovery.complaints if recovery else ():
            self.run.note(complaint)
            self.say(f"warning: {complaint}")
        if recovery and recovery.checkpoint:
            self._say_resumed(recovery, recovery.checkpoint)
            self._catch_up(recovery.checkpoint.state)
            self._mend_pointer(recovery.checkpoint.state.best)

    def _say_resumed(self, recovery: Recovery, checkpoint: Checkpoint) -> None:
        """Where the run stood when it was saved, and where it stands now, read from the trainer itself."""
        saved, now = checkpoint.state, self.trainer.take(self.trainer.locate())
        self.say(
            f"resumed from {recovery.location.name if recovery.location else ''}: step {saved.step} of "
            f"{self.trainer.schedule.total_steps}"
        )
        self.say(f"  before: {_describe_position(saved, checkpoint.digest)}")
        self.say(f"  after:  {_describe_position(now.state, now.digest)}")
        if now.digest != checkpoint.digest:
            raise RuntimeError(f"the state that was restored is not the one in {recovery.location}")

    def _catch_up(self, state: CheckpointState) -> None:
        """Take in what was restored. The run may have died between an epoch's checkpoint and its record."""
        self._saved_step = state.step
        if state.epoch > self.run.record.epoch and not state.validation_due:
            self.run.update(epoch=state.epoch, metrics={**self.run.record.metrics, **state.metrics})

    def _mend_pointer(self, best: Best | None) -> None:
        """The run may have died between a checkpoint and the pointer to it; or this is a copy without its best one."""
        if best is None or best == read_best(self.run.location):
            return
        try:
            mark_best(self.run.location, best)
        except CheckpointError as error:
            self.run.note(f"the best checkpoint, of step {best.step}, is none here: {error}")

    def say(self, text: str) -> None:
        """Show a line, and keep it with the run's last lines."""
        self.reporter.say(text)

    def _note(self, text: str) -> None:
        self.run.note(text)
        self.say(f"note: {text}")

    def _keep(self, line: str) -> None:
        self.run.lines.append(line)
        self._log.write(line)

    def _note_interval(self, interval: Interval, values: dict[str, float]) -> None:
        if self._peak_rate is not None:
            mfu = interval.targets_per_second / self._peak_rate
            interval, values = replace(interval, mfu=mfu), {**values, "speed/mfu": mfu}
        self.tracker.log(values, interval.step)
        self.reporter.show(interval)
        if spike := self._spikes.judge(interval.loss, interval.peak_loss, interval.peak_step):
            self._note(spike)
        self.run.note_step(
            interval.step, seconds=self._seconds(), metrics=self._merge(values), wandb=self.tracker.address
        )
        self.gauges.show({**describe_interval(interval), **describe_progress(self.trainer, self.run.record)})

    def _note_epoch(self, values: dict[str, float], checkpoint: Checkpoint) -> None:
        self.tracker.log(values, checkpoint.state.step)
        strays = name_metric("pos_mae", COHERENCE, self.config.training.rollout_starts)
        names = (*SHOWN, strays, name_bar(strays))
        shown = "  ".join(f"{name.split('/')[1]} {values[name]:.4f}" for name in names if name in values)
        self.say(f"epoch {self.trainer.epoch} validated: {shown}")
        if self.config.training.best_metric not in values:
            self.run.note(f"nothing of the validation games counts for {self.config.training.best_metric}: no best")
        # Epoch and metrics in one: who reads the record between an epoch's last step and its validation, as a scheduler
        # does, must not take the metrics of the one before for this one's.
        self.run.note_step(
            checkpoint.state.step, epoch=self.trainer.epoch, seconds=self._seconds(), metrics=self._merge(values)
        )
        self.gauges.show(describe_progress(self.trainer, self.run.record))
        self._save(checkpoint)

    def _save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint, unless its step's is there: written again, it would be gone for a while from a store.

        One that is saved by time may fail: the next may find room, and the older ones stay.
        """
        state = checkpoint.state
        self.run.update(validation_due=state.validation_due)
        if state.step == self._saved_step and EPOCH not in state.tags:  # an epoch's has more to say
            self.run.update(checkpoint=name_folder(state.step), best=state.best)
            return
        try:
            self._keep_checkpoint(checkpoint)
            self._saved_step = state.step
        except StorageError as error:
            if state.tags != (BY_TIME,):
                raise
            newest = self.run.record.checkpoint or "none"
            self.say(f"warning: no checkpoint at step {state.step}, the newest is {newest}: {error}")
            if not self._has_failed:
                self.run.note(f"not every checkpoint could be saved, first at step {state.step}: {error}")
            self._has_failed = True

    def _keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint, point at it where it is the best, and delete those that need not stay."""
        record = self.run.record
        about = {
            "data_fingerprint": record.data_fingerprint,
            "config": as_values(self.config),
            "metrics": record.metrics,
        }
        state = CheckpointState(**{**dict(checkpoint.state), **about})
        saved = Checkpoint(weights=checkpoint.weights, optimizer=checkpoint.optimizer, state=state)
        folder = save_checkpoint(self.run.location, saved)
        best = state.best
        if best and best.step == state.step and "best" in state.tags:
            mark_best(self.run.location, best)
        self.run.update(checkpoint=f"{folder.parent.name}/{folder.name}", best=best)
        apply_retention(self.run.location, Retention(keep_last=self.config.training.keep_last), state.step)

    def _merge(self, values: dict[str, float]) -> dict[str, float | None]:
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return {**self.run.record.metrics, **clean}

    def _seconds(self) -> Seconds:
        now = self.trainer.seconds
        return Seconds(
            training=self._before.training + now["training"],
            data=self._before.data + now["data"],
            validation=self._before.validation + now["validation"],
            total=self.run.record.seconds.total,
        )

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()


def _describe_position(state: CheckpointState, digest: str) -> str:
    """Step, learning rate, place in the data and content of a state."""
    rate = "not known" if state.learning_rate is None else f"{state.learning_rate:.6e}"
    due = "validation first, " if state.validation_due else ""
    return (
        f"step {state.step}, {due}next learning rate {rate}, next batch {state.step_in_epoch} of epoch "
        f"{state.epoch + 1}, checkpoint {digest}"
    )
