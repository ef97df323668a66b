"""A training step: forward, loss, backward, clip, AdamW, and what is measured of it.

On a GPU it is a function of the device's memory alone (`compute`): it reads its packet there, makes nothing on the
host, waits for nothing and does the same operations each time, so it can be captured (`capture.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn

from worldmodel.experiment.config import ExperimentConfig, TrainingConfig
from worldmodel.features.batch import Predictions, Targets
from worldmodel.features.feedback import Feedback
from worldmodel.machine.fused import give_up, has_fused, tell_failures
from worldmodel.model.world_model import WorldModel
from worldmodel.training.capture import CudaGraphs, Graphs, Seed, StepRunner
from worldmodel.training.compiled import captures, choose_mode, compile_pass, find_obstacle
from worldmodel.training.feed import Batch, Feed
from worldmodel.training.interval import Sums
from worldmodel.training.loss import compute_loss
from worldmodel.training.metrics import Metrics
from worldmodel.training.packet import Packet
from worldmodel.training.self_forcing import go_alone
from worldmodel.training.workers import Workers

METRICS_EVERY = 8
"""Training metrics (not losses) are taken from one step in so many: they cost as much as a small part of a step."""
Made = Packet | list[Batch]
"""What a step is computed from: what the host says of it, or its batches, where they are made ahead."""


class Learner:
    """A model and its optimizer, and what they have measured. All that a step changes stays at its place in memory."""

    def __init__(self, model: WorldModel, feed: Feed, config: ExperimentConfig, workers: Workers) -> None:
        self.model, self.feed, self.config, self.workers = model, feed, config, workers
        self.training: TrainingConfig = config.training
        self.device = feed.worker.device
        self.optimizer = make_optimizer(model, self.training, self.device)
        self.parallel: nn.Module = workers.wrap(model)
        mode = choose_mode(self.training.compile, self.device)
        self._obstacle = find_obstacle(feed, config) if captures(mode) else None
        self._graphs: Graphs | None = CudaGraphs() if captures(mode) and not self._obstacle else None
        self.compute_pass = compile_pass(model, self.parallel, mode, self.device)
        self.metrics = Metrics(feed.view.layout, config.loss_weights, self.device)
        terms = (*feed.view.layout.number_targets, *feed.view.layout.class_targets)
        self.sums = Sums(("loss", *terms, "norm"), self.device)
        self._step = torch.zeros((), dtype=torch.int64, device=self.device)
        self._feedback = Feedback(feed.view.layout, self.device)
        self._say: Callable[[str], None] = lambda text: None
        self._has_learned = False
        self.forget_graphs()

    def tell(self, say: Callable[[str], None]) -> None:
        """Who hears, once, why steps are not captured."""
        self._say = say
        tell_failures(say)
        if self._obstacle:
            say(self._obstacle)

    def forget_graphs(self) -> None:
        """Capture steps anew: what they changed lies elsewhere now."""
        self._runner = StepRunner(self.compute, self._graphs, self._give_up)

    def make(self, step: int, rate: float) -> Made:
        """What step `step` is computed from; made in a thread, while the step before is computed."""
        packet = self.feed.packet(step, rate) if self.feed.opens_in_step else None
        return self.feed.batches(step) if packet is None else packet.send(self.device)

    def open(self, made: Made) -> list[Batch]:
        """The batches of what was made."""
        return self.feed.open(made.arrive()) if isinstance(made, Packet) else made

    def run(self, step: int, rate: float, made: Made) -> None:
        """Learn from step `step`."""
        seed = partial(seed_step, self.training.seed, step)
        takes_metrics = step % METRICS_EVERY == 0
        if isinstance(made, Packet):
            self._runner.run(made.arrive(), takes_metrics, seed)
            self.feed.store.release()
            self.sums.count(made.targets)
        else:
            self._step.fill_(step)
            self.optimizer.param_groups[0]["lr"].fill_(rate)
            self._learn(made, takes_metrics, seed)
            self.sums.count(made[0].targets_in_all)

    def compute(self, packet: Packet, takes_metrics: bool, seed: Seed) -> None:
        """The step of a packet: all that the device does."""
        self._step.copy_(packet.form.step(packet.numbers))
        self.optimizer.param_groups[0]["lr"].copy_(packet.form.rate(packet.numbers))
        try:
            self._learn(self.feed.open(packet), takes_metrics, seed)
        except Exception as error:
            if self._has_learned or not has_fused() or isinstance(error, torch.OutOfMemoryError):
                raise
            give_up(error)
            self.optimizer.zero_grad(set_to_none=True)
            self._learn(self.feed.open(packet), takes_metrics, seed)
        self._has_learned = True

    def _give_up(self, why: str) -> None:
        """After a capture that failed: say so, and let go of what it has left behind."""
        self._say(why)
        self.optimizer.zero_grad(set_to_none=True)

    def _learn(self, batches: list[Batch], takes_metrics: bool, seed: Seed) -> None:
        is_ordinary = batches[0].excursion is None
        values = self.learn(batches, takes_metrics=takes_metrics and is_ordinary, seed=seed)
        self.sums.add(self._step, values, can_peak=is_ordinary)  # else losses are higher, and no spikes

    def learn(self, batches: list[Batch], *, takes_metrics: bool, seed: Seed) -> Tensor:
        """One optimizer step; returns this worker's loss and terms, and the gradient's norm: see `Sums.names`."""
        values = self.compute_gradients(batches, takes_metrics=takes_metrics, seed=seed)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat([values, norm.reshape(1)])

    def compute_gradients(self, batches: list[Batch], *, takes_metrics: bool, seed: Seed) -> Tensor:
        """Add up the parts' gradients, always in the same order; returns this worker's loss and terms."""
        parts = []
        for batch in batches:
            seed(batch.part)
            with self.workers.delay(self.parallel, is_last=batch is batches[-1]):
                parts.append(self._compute_part(batch, takes_metrics))
        return parts[0] if len(parts) == 1 else torch.stack(parts, 1).sum(1)

    def _compute_part(self, batch: Batch, takes_metrics: bool) -> Tensor:
        with self._autocast():
            predictions, targets = self._predict(batch)
        loss, terms = compute_loss(
            predictions, targets, self.config.loss_weights, batch.denominators, self.training.smooth_l1_beta
        )
        loss.backward()  # type: ignore[no-untyped-call]
        if takes_metrics:
            self.metrics.update(predictions, targets)
        return torch.stack([loss.detach(), *(value.detach() for value in terms.values())])

    def _predict(self, batch: Batch) -> tuple[Predictions, Targets]:
        if batch.excursion is None:
            return self.compute_pass(batch.inputs, wants_state=False)[0], batch.targets
        return go_alone(self.model, self.training.mode, batch.excursion, self._feedback, self.parallel)

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.amp)


def make_optimizer(model: nn.Module, config: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over all parameters, in one fused kernel that reads the learning rate from the device's memory."""
    is_apart = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True, capturable=is_apart
    )
    optimizer._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]  # its first steps are meant so
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(config.lr, dtype=torch.float32 if is_apart else torch.float64, device=device)
    return optimizer


def seed_step(seed: int, step: int, part: int) -> None:
    """Make what is drawn in a step (dropout) a function of (seed, step, part of the batch)."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + part)
