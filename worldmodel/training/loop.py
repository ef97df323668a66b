"""The training loop of one worker. A run is weights, optimizer and the step; the rest are functions of the step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from worldmodel.experiment.config import ExperimentConfig, TrainingConfig
from worldmodel.model.world_model import WorldModel
from worldmodel.progress import Tell, say_nothing
from worldmodel.training.ahead import Ahead
from worldmodel.training.checkpoint import Best, Checkpoint, CheckpointState, name_folder
from worldmodel.training.coherence import name_bar
from worldmodel.training.feed import Feed
from worldmodel.training.interval import Interval, Sums
from worldmodel.training.meeting import Meeting, StopRequest
from worldmodel.training.metrics import Metrics
from worldmodel.training.nonfinite import NonFiniteError, explain_non_finite
from worldmodel.training.optimizer_state import restore_optimizer
from worldmodel.training.pulse import Pulse
from worldmodel.training.schedule import Schedule, compute_learning_rate
from worldmodel.training.step import Learner, Made
from worldmodel.training.validation import ValidationSet, measure_kinematic, measure_rollouts, validate
from worldmodel.training.workers import Workers

ASK_EVERY = 16
"""Steps between two questions to worker 0 (stop? save?) where there are several workers, until their pace is known."""
ASK_SECONDS = 2.0
"""Seconds between two such questions from then on."""
FIRST_INTERVAL = 10
"""Steps of the first interval, where its length is then chosen by time."""
LINES_SECONDS = 5.0
"""Seconds between two lines of metrics, where `training.log_interval` leaves it open."""


@dataclass(kw_only=True)
class Hooks:
    """What the loop calls; only worker 0 has any that do something."""

    on_interval: Callable[[Interval, dict[str, float]], None] = lambda interval, values: None
    """What the interval was like, and its metrics by name."""
    on_epoch: Callable[[dict[str, float], Checkpoint], None] = lambda values, checkpoint: None
    """After an epoch's validation: all its metrics, and the checkpoint to keep."""
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None
    on_progress: Tell = say_nothing
    """Progress of a validation."""
    on_note: Callable[[str], None] = lambda text: None
    """What people should know, once."""
    stop_reason: Callable[[], str | None] = lambda: None
    find_notice: Callable[[], str | None] = lambda: None
    """Why all workers must go on elsewhere; each asks, and hears the same."""


class Trainer:
    """Trains one model on one feed from any step to the last."""

    def __init__(
        self, model: WorldModel, feed: Feed, validation: ValidationSet, config: ExperimentConfig, workers: Workers
    ) -> None:
        self.model, self.feed, self.validation, self.config, self.workers = model, feed, validation, config, workers
        self.training: TrainingConfig = config.training
        self.schedule = Schedule.of(self.training, feed.plan.steps_per_epoch)
        self.learner = Learner(model, feed, config, workers)
        self.optimizer, self.parallel = self.learner.optimizer, self.learner.parallel
        self.device = feed.worker.device
        self.step = 0
        self.best: Best | None = None
        self.validation_due = False
        """True while an epoch is trained but not validated."""
        self.seconds = {"training": 0.0, "validation": 0.0, "data": 0.0}
        self.pulse = Pulse()
        self._ahead: Ahead[Made] | None = None
        self._log_every = self.training.log_interval or FIRST_INTERVAL
        self._ask_every = self._ask_at = ASK_EVERY

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.schedule.steps_per_epoch

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(dict(checkpoint.weights))
        restore_optimizer(self.model, self.optimizer, checkpoint.optimizer)
        self.learner.forget_graphs()
        self.step, self.best = checkpoint.state.step, checkpoint.state.best
        self.validation_due = checkpoint.state.validation_due
        if checkpoint.state.sums and self.workers.is_first:  # they are those of all workers
            self.learner.metrics.from_vector(torch.tensor(checkpoint.state.sums, dtype=torch.float64))

    def checkpoint(self, *tags: str) -> Checkpoint:
        """The present state, for saving. All workers call it together."""
        has_sums = self._is_within_epoch or self.validation_due
        sums = tuple(self.workers.sum(self.learner.metrics.to_vector()).tolist()) if has_sums else ()
        return self.take(self.locate(*tags).model_copy(update={"sums": sums}))

    def take(self, state: CheckpointState) -> Checkpoint:
        """This worker's own weights and optimizer as they are."""
        return Checkpoint.of(self.model, self.optimizer, state)

    def locate(self, *tags: str) -> CheckpointState:
        """Where the run stands, apart from what the epoch under way has gathered."""
        return CheckpointState(
            step=self.step,
            epoch=self.epoch,
            step_in_epoch=self.step % self.schedule.steps_per_epoch,
            tags=tags,
            best=self.best,
            validation_due=self.validation_due,
            learning_rate=self.find_rate(self.step),
        )

    def run(self, hooks: Hooks) -> str | None:
        """Train to the last step. Returns None, or the reason why it stopped earlier."""
        self.learner.tell(hooks.on_note)
        with Ahead(self._make, self.schedule.total_steps) as self._ahead:
            return self._run(hooks)

    def _run(self, hooks: Hooks) -> str | None:
        if self.validation_due and (reason := self._end_epoch(hooks)):
            return reason
        last_saved = time.monotonic()
        while self.step < self.schedule.total_steps:
            asks = self._is_time_to_ask()
            if asks and (reason := self._find_end(hooks)):
                self._show_interval(hooks)
                hooks.on_checkpoint(self.checkpoint("stop"))
                return reason
            self._train_step()
            if self._is_interval_over():
                hooks.on_interval(*self._close_interval())
            if self.step % self.schedule.steps_per_epoch == 0 or self.step == self.schedule.total_steps:
                if reason := self._end_epoch(hooks):
                    return reason
                last_saved = time.monotonic()
            elif asks and self.workers.decide(self._is_due(last_saved)):
                self._show_interval(hooks)
                hooks.on_checkpoint(self.checkpoint("minutes"))
                last_saved = time.monotonic()
        return None

    def _find_end(self, hooks: Hooks) -> str | None:
        """Why all workers end now."""
        return self.workers.agree(hooks.stop_reason()) or hooks.find_notice()

    def _show_interval(self, hooks: Hooks) -> None:
        """Close the interval: a state whose loss is no number must not be saved."""
        if self.learner.sums.steps:
            hooks.on_interval(*self._close_interval())

    @property
    def _is_within_epoch(self) -> bool:
        return self.step % self.schedule.steps_per_epoch != 0

    def _is_time_to_ask(self) -> bool:
        """Whether worker 0 is asked now; with several workers, which must wait for its answer, only now and then."""
        if self.workers.world > 1 and self.step < self._ask_at:
            return False
        self._ask_at = self.step + self._ask_every
        return True

    def _is_due(self, last_saved: float) -> bool:
        return time.monotonic() - last_saved > 60 * self.training.checkpoint_minutes

    def _train_step(self) -> None:
        began = time.perf_counter()
        watch = self.learner.sums.watch
        with watch.waiting():
            made = self._take(self.step)
        self.seconds["data"] += time.perf_counter() - began
        with watch.computing():
            self.learner.run(self.step, self.find_rate(self.step), made)
        self.step += 1
        self.seconds["training"] += time.perf_counter() - began
        self.pulse.beat()

    def _make(self, step: int) -> Made:
        return self.learner.make(step, self.find_rate(step))

    def _take(self, step: int) -> Made:
        return self._ahead.take(step) if self._ahead else self._make(step)

    def find_rate(self, step: int) -> float:
        """The learning rate of step `step` (from 0)."""
        return compute_learning_rate(self.schedule, step)

    def _is_interval_over(self) -> bool:
        return self.learner.sums.steps >= self._log_every

    def _close_interval(self) -> tuple[Interval, dict[str, float]]:
        """Read the interval's sums (the one wait for the device), check them, begin the next."""
        done = self.learner.sums
        values = done.average(self.workers)
        loss = values["loss"]
        if not math.isfinite(loss) or not math.isfinite(values["norm"]):
            raise NonFiniteError(self._explain_non_finite(done))
        peak, peak_step = self.workers.find_peak(done.peaks[0], done.peak_steps[0])
        seconds, shares, steps, targets = done.watch.seconds, done.watch.read(), done.steps, done.targets
        done.reset()
        if self.training.log_interval is None:
            self._log_every = self.workers.share(max(1, round(LINES_SECONDS * steps / seconds)))
        self._ask_every = self.workers.share(max(1, round(ASK_SECONDS * steps / seconds)))
        interval = Interval(
            step=self.step,
            total_steps=self.schedule.total_steps,
            epoch=(self.step - 1) // self.schedule.steps_per_epoch + 1,
            loss=loss,
            peak_loss=peak,
            peak_step=peak_step + 1,
            learning_rate=self.find_rate(self.step - 1),
            step_seconds=seconds / steps,
            targets_per_second=targets / seconds,
            data_share=shares.data,
            host_share=shares.host,
            device_share=shares.device,
        )
        return interval, {
            "batch/loss": loss,
            "batch/grad_norm": values["norm"],
            "lr": interval.learning_rate,
            "epoch": self.step / self.schedule.steps_per_epoch,
            "speed/targets_per_second": interval.targets_per_second,
            **{f"speed/{name}_share": share for name, share in vars(shares).items() if share is not None},
        }

    def _explain_non_finite(self, done: Sums) -> str:
        step, terms = done.find_first_bad(self.workers)
        return explain_non_finite(self.feed, self.workers, self.learner.open(self._take(step)), step, terms)

    def _end_epoch(self, hooks: Hooks) -> str | None:
        """Validate and save. Returns the reason for a stop in the validation, which a resume then repeats."""
        self._show_interval(hooks)
        self.validation_due, began = True, time.perf_counter()
        try:
            values = self._validate(hooks)
        except StopRequest as stop:
            hooks.on_checkpoint(self.checkpoint("stop"))
            return str(stop)
        finally:
            self.seconds["validation"] += time.perf_counter() - began
        self.validation_due = False
        is_best = self._update_best(values)
        hooks.on_epoch(values, self.checkpoint("epoch", *(["best"] if is_best else [])))
        self.learner.sums.reset()
        return None

    def _validate(self, hooks: Hooks) -> dict[str, float]:
        """All metrics of the epoch. Resets its sums, except when StopRequest is raised."""

        def tell(doing: str, done: int, whole: int) -> None:
            self.pulse.beat("validation")
            hooks.on_progress(doing, done, whole)

        def find_reason() -> str | None:
            return hooks.find_notice() or hooks.stop_reason()  # the notice first: all workers must ask for it

        meeting, gathered = Meeting(self.workers, find_reason, tell), self.learner.metrics
        found = validate(
            self.model, self.validation, self.config.loss_weights, amp=self.training.amp, tell=meeting.tell
        )["model"]
        rollouts = measure_rollouts(self.model, self.validation, meeting.tell)
        meeting.end()
        values = self._reduce(gathered)
        gathered.from_vector(torch.zeros_like(gathered.to_vector()))
        values |= {f"val_{name}": value for name, value in self._reduce(found).items()}
        if rollouts is not None:
            rollouts.from_vector(self.workers.sum(rollouts.to_vector()))
            values |= rollouts.compute() | self._bar
        return {**values, "epoch": self.step / self.schedule.steps_per_epoch}

    @cached_property
    def _bar(self) -> dict[str, float]:
        """The kinematic baseline's position errors in the same rollouts, which no training changes."""
        sums = measure_kinematic(self.validation)
        assert sums is not None, "there are rollouts"
        sums.from_vector(self.workers.sum(sums.to_vector()))
        return {name_bar(name): value for name, value in sums.compute().items() if "pos_mae" in name}

    def _reduce(self, metrics: Metrics) -> dict[str, float]:
        metrics.from_vector(self.workers.sum(metrics.to_vector()))
        return metrics.compute()

    def _update_best(self, values: dict[str, float]) -> bool:
        name, value = self.training.best_metric, values.get(self.training.best_metric)
        if value is None or not math.isfinite(value):  # nothing of the validation games counts for it
            return False
        sign = 1 if self.training.best_mode == "min" else -1
        if self.best is not None and not sign * value < sign * self.best.value:
            return False
        self.best = Best(metric=name, value=value, step=self.step, path=name_folder(self.step))
        return True
