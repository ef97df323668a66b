"""How far rollouts stray: errors by frame over many starts, and the summaries of them that decide.

*Rollout coherence* is the position MAE over the first 20 frames, `eval/summary_pos_mae_k20`. Names are the users' with
the number of frames at the end, so that two horizons never share one; a set of other than 300 starts is named too
(`eval/summary_pos_mae_k20_n64` in training), for other starts give other values. `VERSION` grows when starts, warm-up
or a metric's meaning change; from 2 on it is part of the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from worldmodel.blocks.index import GameEntry, partition_of
from worldmodel.features.facts import FactReader, Facts
from worldmodel.features.plan import Samples
from worldmodel.features.store import FrameStore
from worldmodel.model.unroll import Unroller
from worldmodel.progress import Tell, say_nothing
from worldmodel.schema import FIELDS, PLAYER_FIELDS
from worldmodel.training.metrics import MAE_FIELDS
from worldmodel.training.plausibility import Watch
from worldmodel.training.starts import WARM_UP, choose_starts

VERSION = 1
"""Of all that is measured here."""
STARTS = 300
"""Starts of the suite, which are not part of a name."""
COHERENCE = 20
"""Frames of rollout coherence."""
HORIZONS = (5, 10, 20, 60, 300)
"""Numbers of frames that are summed up."""
ERRORS = {
    "pos_mae": MAE_FIELDS["metric/position_mae"],
    "vel_mae": MAE_FIELDS["metric/velocity_mae"],
    "percent_mae": MAE_FIELDS["metric/damage_mae"],
    "stocks_mae": ("stocks",),
}
"""Metric to the fields whose absolute errors, in the game's units, it averages over both players."""
RATES = ("action_acc", "change_acc")
"""Share of right actions: of all, and of those where the true action differs from the true one before."""
NUMBER = {field.name: place for place, field in enumerate(PLAYER_FIELDS)}


@dataclass(frozen=True, kw_only=True)
class RolloutSet:
    """Starts in a store's games."""

    store: FrameStore
    reader: FactReader
    samples: Samples
    """Game, and the first frame that a model makes itself; this worker's of them."""
    horizon: int
    """Frames of each rollout."""
    starts: int
    """Rollouts over all workers."""
    short: int = 0
    """Games that are too short for one."""


def open_rollouts(
    games: Sequence[GameEntry], store: FrameStore, reader: FactReader, *,
    number: int, horizon: int, context: int, partitions: frozenset[int],
) -> RolloutSet:  # fmt: skip
    """Starts in those of `games` (held by `store`) whose partitions are this worker's; UserError as `choose_starts`.

    Args:
        games: all validation games.
        store: their frames.
        reader: reads facts out of it.
        number: starts over all workers.
        horizon: frames of each rollout.
        context: frames that the model needs before a start.
        partitions: this worker's.
    """
    found = choose_starts(games, number, horizon, context)
    own = [partition_of(games[game].md5) in partitions for game in found.samples.games.tolist()]
    samples = found.samples.take(np.array(own))
    return RolloutSet(store=store, reader=reader, samples=samples, horizon=horizon, starts=number, short=found.short)


class RolloutSums:
    """Sums and counts for each frame of the rollouts, over all of them; workers' vectors add up."""

    def __init__(self, horizon: int, device: torch.device, starts: int = STARTS) -> None:
        self.horizon, self._starts = horizon, starts
        precise = torch.float32 if device.type == "mps" else torch.float64
        self._names = (*ERRORS, *RATES, "possible")
        self._values = torch.zeros(len(self._names), 2, horizon, dtype=precise, device=device)

    def add(self, name: str, time: int, total: Tensor, count: Tensor) -> None:
        """Add to a metric at a frame."""
        place = self._names.index(name)
        self._values[place, 0, time] += total
        self._values[place, 1, time] += count

    def to_vector(self) -> Tensor:
        """Everything, as one tensor."""
        return self._values.flatten().clone()

    def from_vector(self, vector: Tensor) -> None:
        """Replaces everything, after a sum over workers."""
        self._values = vector.view_as(self._values).clone()

    def curves(self) -> dict[str, list[float]]:
        """Metric to its value at each frame; NaN where nothing counts. `possible`: still so after that frame."""
        totals, counts = self._values.cpu().double().unbind(1)
        return {name: (totals[n] / counts[n]).tolist() for n, name in enumerate(self._names)}

    def compute(self) -> dict[str, float]:
        """Each metric over the first frames, for every horizon; `possible`: after the last of them."""
        totals, counts = self._values.cpu().double().unbind(1)
        found = {}
        for horizon in (h for h in HORIZONS if h <= self.horizon):
            for n, name in enumerate(self._names):
                part = slice(horizon - 1, horizon) if name == "possible" else slice(0, horizon)
                total, count = totals[n, part].sum(), counts[n, part].sum()
                if count > 0:
                    found[name_metric(name, horizon, self._starts)] = float(total / count)
        return found


def name_metric(name: str, horizon: int, starts: int = STARTS) -> str:
    """`eval/summary_pos_mae_k20` and its like."""
    number = f"_n{starts}" if starts != STARTS else ""
    return f"eval/summary_{name}_k{horizon}{number}" + (f"_v{VERSION}" if VERSION > 1 else "")


def name_bar(name: str) -> str:
    """The kinematic baseline's value of a metric of rollouts: `eval/kinematic_pos_mae_k20`."""
    return name.replace("summary", "kinematic", 1)


def list_metrics(horizon: int = COHERENCE, starts: int = STARTS) -> list[str]:
    """Names of all summaries of rollouts of that many frames."""
    names = (*ERRORS, *RATES, "possible")
    return [name_metric(name, h, starts) for h in HORIZONS if h <= horizon for name in names]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One frame of B rollouts."""

    number: int
    """From 0."""
    before: Facts
    """The frame that it was made from (T = 1): own, and before the first true."""
    made: Facts
    """The own frame (T = 1)."""
    true: Facts
    """What was played (T = 2): the frame before, and this one."""
    possible: Bool[Tensor, " batch"]
    """Whether each rollout could be a game so far."""


@torch.inference_mode()
def roll_out(
    unroller: Unroller,
    data: RolloutSet,
    watch: Callable[[Step], None] = lambda step: None,
    tell: Tell = say_nothing,
) -> RolloutSums:
    """Roll every start of the set on under true controls, and measure. The model is to be in evaluation mode.

    `watch`: receives every step. `tell`: receives the progress after every step, in frames.
    """
    sums, done = RolloutSums(data.horizon, data.store.device, data.starts), 0
    for samples in _group(data.samples, unroller.context):
        for step in _roll(unroller, data, samples):
            _measure(sums, step, data.store.present(samples))
            watch(step)
            done += len(samples)
            tell("rollouts", done, len(data.samples) * data.horizon)
    return sums


def _roll(unroller: Unroller, data: RolloutSet, samples: Samples) -> Iterator[Step]:
    seen = int(min(max(WARM_UP, unroller.context), samples.starts.min()))
    every = data.reader.read(data.store, Samples(samples.games, samples.starts - seen), seen + data.horizon)
    before = every.cut(slice(0, seen))
    unroller.begin(before)
    watch, last = Watch(before), before.cut(slice(-1, None))
    possible = torch.ones(len(samples), dtype=torch.bool, device=every.numbers.device)
    for number in range(data.horizon):
        true = every.cut(slice(seen + number - 1, seen + number + 1))
        made = unroller.step(true.controls[:, 1])
        possible = possible & watch.judge(made)
        yield Step(number=number, before=last, made=made, true=true, possible=possible)
        last = made


def _group(samples: Samples, context: int) -> Iterator[Samples]:
    """Starts with as many frames to see; nearly all have `WARM_UP`."""
    seen = np.minimum(samples.starts, max(WARM_UP, context))
    for _, rows in groupby(np.argsort(seen, kind="stable").tolist(), key=lambda row: int(seen[row])):
        yield samples.take(np.array(list(rows)))


def _measure(sums: RolloutSums, step: Step, present: Tensor) -> None:
    """`present` (B, P, field): what each game records."""
    made, true = step.made, step.true
    for name, fields in ERRORS.items():
        mask = torch.stack([present[..., NUMBER[field]] for field in fields])
        error = torch.stack([(made.get(field)[:, 0] - true.get(field)[:, 1]).abs() for field in fields])
        sums.add(name, step.number, (error * mask).sum(), mask.sum())
    action = true.get("action").clamp(max=FIELDS["action"].vocabulary - 1)
    right, changed = made.get("action")[:, 0] == action[:, 1], action[:, 1] != action[:, 0]
    sums.add("action_acc", step.number, right.sum(), torch.ones_like(right).sum())
    sums.add("change_acc", step.number, (right & changed).sum(), changed.sum())
    sums.add("possible", step.number, step.possible.sum(), torch.ones_like(step.possible).sum())
