"""The training loop of one worker. A run is weights, optimizer and the step; the rest are functions of the step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.experiment.config import ExperimentConfig, TrainingConfig
from worldmodel.features.batch import Predictions, Targets
from worldmodel.features.feedback import Feedback
from worldmodel.model.world_model import WorldModel
from worldmodel.training.ahead import Ahead
from worldmodel.training.checkpoint import Best, Checkpoint, CheckpointState, name_folder
from worldmodel.training.compiled import compile_pass
from worldmodel.training.feed import Batch, Feed
from worldmodel.training.interval import Interval, Sums
from worldmodel.training.loss import compute_loss
from worldmodel.training.metrics import Metrics
from worldmodel.training.nonfinite import NonFiniteError, explain_non_finite
from worldmodel.training.optimizer_state import restore_optimizer
from worldmodel.training.pulse import Pulse
from worldmodel.training.schedule import Schedule, compute_learning_rate
from worldmodel.training.self_forcing import go_alone
from worldmodel.training.validation import ValidationSet, measure_rollouts, validate
from worldmodel.training.workers import Workers

METRICS_EVERY = 8
"""Training metrics (not losses) are taken from one step in so many: they cost as much as a small part of a step."""
ASK_EVERY = 16
"""Steps between two questions to worker 0 (stop? save?) where there are several workers."""
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
    stop_reason: Callable[[], str | None] = lambda: None


class Trainer:
    """Trains one model on one feed from any step to the last."""

    def __init__(
        self, model: WorldModel, feed: Feed, validation: ValidationSet, config: ExperimentConfig, workers: Workers
    ) -> None:
        self.model, self.feed, self.validation, self.config, self.workers = model, feed, validation, config, workers
        self.training: TrainingConfig = config.training
        self.schedule = Schedule.of(self.training, feed.plan.steps_per_epoch)
        self.optimizer = make_optimizer(model, self.training)
        self.parallel: nn.Module = workers.wrap(model)
        self._pass = compile_pass(model, self.parallel, self.training.compile, feed.parts // workers.world)
        self.device = feed.worker.device
        self.step = 0
        self.best: Best | None = None
        self.seconds = {"training": 0.0, "validation": 0.0, "data": 0.0}
        self.pulse = Pulse()
        self._feedback = Feedback(feed.view.layout, self.device)
        self._ahead: Ahead[list[Batch]] | None = None
        self._metrics = Metrics(feed.view.layout, config.loss_weights, self.device)
        self._sums = Sums(device=self.device)
        self._log_every = self.training.log_interval or FIRST_INTERVAL

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.schedule.steps_per_epoch

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(dict(checkpoint.weights))
        restore_optimizer(self.model, self.optimizer, checkpoint.optimizer)
        self.step, self.best = checkpoint.state.step, checkpoint.state.best
        if checkpoint.state.sums and self.workers.is_first:  # they are those of all workers
            self._metrics.from_vector(torch.tensor(checkpoint.state.sums, dtype=torch.float64))

    def checkpoint(self, *tags: str) -> Checkpoint:
        """The present state, for saving. All workers call it together."""
        sums = tuple(self.workers.sum(self._metrics.to_vector()).tolist()) if self._is_within_epoch else ()
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
            learning_rate=compute_learning_rate(self.schedule, self.step),
        )

    def run(self, hooks: Hooks) -> str | None:
        """Train to the last step. Returns None, or the reason why it stopped earlier."""
        with Ahead(self.feed.batches, self.schedule.total_steps) as self._ahead:
            return self._run(hooks)

    def _run(self, hooks: Hooks) -> str | None:
        last_saved = time.monotonic()
        while self.step < self.schedule.total_steps:
            if self._is_time_to_ask() and (reason := self.workers.agree(hooks.stop_reason())):
                self._show_interval(hooks)
                hooks.on_checkpoint(self.checkpoint("stop"))
                return reason
            self._train_step()
            if self._is_interval_over():
                hooks.on_interval(*self._close_interval())
            if self.step % self.schedule.steps_per_epoch == 0 or self.step == self.schedule.total_steps:
                self._end_epoch(hooks)
                last_saved = time.monotonic()
            elif self._is_time_to_ask() and self.workers.decide(self._is_due(last_saved)):
                self._show_interval(hooks)
                hooks.on_checkpoint(self.checkpoint("minutes"))
                last_saved = time.monotonic()
        return None

    def _show_interval(self, hooks: Hooks) -> None:
        """Close the interval: a state whose loss is no number must not be saved."""
        if self._sums.steps:
            hooks.on_interval(*self._close_interval())

    @property
    def _is_within_epoch(self) -> bool:
        return self.step % self.schedule.steps_per_epoch != 0

    def _is_time_to_ask(self) -> bool:
        """Whether worker 0 is asked now; with several workers, which must wait for its answer, only now and then."""
        return self.workers.world == 1 or self.step % ASK_EVERY == 0

    def _is_due(self, last_saved: float) -> bool:
        return time.monotonic() - last_saved > 60 * self.training.checkpoint_minutes

    def _train_step(self) -> None:
        began = time.perf_counter()
        watch = self._sums.watch
        with watch.waiting():
            batches = self._ahead.take(self.step) if self._ahead else self.feed.batches(self.step)
        self.seconds["data"] += time.perf_counter() - began
        with watch.computing():
            loss, terms, norm = self._learn(batches)
        self.step += 1
        batch, values = batches[0], {"loss": loss, **terms, "norm": norm}
        can_peak = batch.excursion is None  # the losses of others are higher, and no spikes
        self._sums.add(self.step - 1, values, batch.targets_in_all, can_peak=can_peak)
        self.seconds["training"] += time.perf_counter() - began
        self.pulse.beat()

    def _learn(self, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """One optimizer step; returns this worker's loss and terms, and the gradient's norm."""
        rate = compute_learning_rate(self.schedule, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, terms = self._compute_gradients(batches)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, terms, norm

    def _compute_gradients(self, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the parts' gradients, always in the same order; returns this worker's loss and terms."""
        parts = []
        for batch in batches:
            with self.workers.delay(self.parallel, is_last=batch is batches[-1]):
                parts.append(self._compute_part(batch))
        terms = {name: torch.stack([part[1][name] for part in parts]).sum(0) for name in parts[0][1]}
        return torch.stack([loss for loss, _ in parts]).sum(), terms

    def _compute_part(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        seed_step(self.training.seed, self.step, batch.part)
        with self._autocast():
            predictions, targets = self._predict(batch)
        loss, terms = compute_loss(
            predictions, targets, self.config.loss_weights, batch.denominators, self.training.smooth_l1_beta
        )
        loss.backward()  # type: ignore[no-untyped-call]
        if self.step % METRICS_EVERY == 0 and batch.excursion is None:
            self._metrics.update(predictions, targets)
        return loss.detach(), {name: value.detach() for name, value in terms.items()}

    def _predict(self, batch: Batch) -> tuple[Predictions, Targets]:
        if batch.excursion is None:
            return self._pass(batch.inputs, wants_state=False)[0], batch.targets
        return go_alone(self.model, self.training.mode, batch.excursion, self._feedback, self.parallel)

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.amp)

    def _is_interval_over(self) -> bool:
        return self._sums.steps >= self._log_every

    def _close_interval(self) -> tuple[Interval, dict[str, float]]:
        """Read the interval's sums (the one wait for the device), check them, begin the next."""
        done, self._sums = self._sums, Sums(device=self.device)
        values = done.average(self.workers)
        loss = values["loss"]
        if not math.isfinite(loss) or not math.isfinite(values["norm"]):
            raise NonFiniteError(self._explain_non_finite(done))
        peak, peak_step = self.workers.find_peak(done.peaks[0], done.peak_steps[0])
        seconds, shares = done.watch.seconds, done.watch.read()
        if self.training.log_interval is None:
            self._log_every = self.workers.share(max(1, round(LINES_SECONDS * done.steps / seconds)))
        interval = Interval(
            step=self.step,
            total_steps=self.schedule.total_steps,
            epoch=(self.step - 1) // self.schedule.steps_per_epoch + 1,
            loss=loss,
            peak_loss=peak,
            peak_step=peak_step + 1,
            learning_rate=compute_learning_rate(self.schedule, self.step - 1),
            step_seconds=seconds / done.steps,
            targets_per_second=done.targets / seconds,
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
        batches = self._ahead.take(step) if self._ahead else self.feed.batches(step)
        return explain_non_finite(self.feed, self.workers, batches, step, terms)

    def _end_epoch(self, hooks: Hooks) -> None:
        self._show_interval(hooks)
        began = time.perf_counter()
        values = self._reduce(self._metrics)
        self._metrics = Metrics(self.feed.view.layout, self.config.loss_weights, self.device)
        found = validate(
            self.model, self.validation, self.config.loss_weights, amp=self.training.amp, beat=self.pulse.beat
        )["model"]
        values |= {f"val_{name}": value for name, value in self._reduce(found).items()}
        if (rollouts := measure_rollouts(self.model, self.validation)) is not None:
            rollouts.from_vector(self.workers.sum(rollouts.to_vector()))
            values |= rollouts.compute()
        values["epoch"] = self.step / self.schedule.steps_per_epoch
        self.seconds["validation"] += time.perf_counter() - began
        is_best = self._update_best(values)
        hooks.on_epoch(values, self.checkpoint("epoch", *(["best"] if is_best else [])))
        self._sums = Sums(device=self.device)

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


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters, in one fused kernel."""
    return torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)


def seed_step(seed: int, step: int, part: int) -> None:
    """Make what is drawn in a step (dropout) a function of (seed, step, part of the batch)."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + part)
