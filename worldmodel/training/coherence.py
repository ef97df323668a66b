"""How far rollouts stray: errors by frame over many starts, and the summaries of them that decide.

*Rollout coherence* is the position MAE over the first 20 frames, `eval/summary_pos_mae_k20`. Names are the users' with
the number of frames at the end, so that two horizons never share one. `VERSION` grows when starts, warm-up or a
metric's meaning change; from 2 on it is part of the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from worldmodel.blocks.index import GameEntry, partition_of
from worldmodel.features.facts import FactReader, Facts
from worldmodel.features.plan import Samples
from worldmodel.features.store import FrameStore
from worldmodel.model.unroll import Unroller
from worldmodel.schema import FIELDS, PLAYER_FIELDS, PLAYERS
from worldmodel.training.metrics import MAE_FIELDS
from worldmodel.training.plausibility import Watch
from worldmodel.training.starts import WARM_UP, choose_starts

VERSION = 1
"""Of all that is measured here."""
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
    return RolloutSet(store=store, reader=reader, samples=samples, horizon=horizon, short=found.short)


class RolloutSums:
    """Sums and counts for each frame of the rollouts, over all of them; workers' vectors add up."""

    def __init__(self, horizon: int, device: torch.device) -> None:
        self.horizon = horizon
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
                    found[name_metric(name, horizon)] = float(total / count)
        return found


def name_metric(name: str, horizon: int) -> str:
    """`eval/summary_pos_mae_k20` and its like."""
    return f"eval/summary_{name}_k{horizon}" + (f"_v{VERSION}" if VERSION > 1 else "")


def list_metrics(horizon: int = COHERENCE) -> list[str]:
    """Names of all summaries of rollouts of that many frames."""
    names = (*ERRORS, *RATES, "possible")
    return [name_metric(name, h) for h in HORIZONS if h <= horizon for name in names]


@torch.inference_mode()
def roll_out(unroller: Unroller, data: RolloutSet) -> RolloutSums:
    """Roll every start of the set on under true controls, and measure. The model is to be in evaluation mode."""
    sums = RolloutSums(data.horizon, data.store.device)
    for samples in _group(data.samples, unroller.context):
        for time, frame, true, watched in roll_frames(unroller, data, samples):
            _measure(sums, time, frame, true, data.store.present(samples))
            sums.add("possible", time, watched.sum(), torch.ones_like(watched).sum())
    return sums


def roll_frames(unroller: Unroller, data: RolloutSet, samples: Samples) -> Iterator[tuple[int, Facts, Facts, Tensor]]:
    """Number, own frame, true frame and the true one before (T = 2), and whether each rollout is possible so far."""
    seen = int(min(WARM_UP, samples.starts.min()))
    every = data.reader.read(data.store, Samples(samples.games, samples.starts - seen), seen + data.horizon)
    before = every.cut(slice(0, seen))
    unroller.begin(before)
    watch = Watch(before)
    is_possible = torch.ones(len(samples), dtype=torch.bool, device=every.numbers.device)
    for time in range(data.horizon):
        true = every.cut(slice(seen + time - 1, seen + time + 1))
        frame = unroller.step(true.controls[:, 1])
        is_possible = is_possible & watch.judge(frame)
        yield time, frame, true, is_possible


def _group(samples: Samples, context: int) -> Iterator[Samples]:
    """Starts with as many frames to see; nearly all have `WARM_UP`."""
    seen = np.minimum(samples.starts, max(WARM_UP, context))
    for _, rows in groupby(np.argsort(seen, kind="stable").tolist(), key=lambda row: int(seen[row])):
        yield samples.take(np.array(list(rows)))


def _measure(sums: RolloutSums, time: int, frame: Facts, true: Facts, present: Tensor) -> None:
    """`present` (B, P, field): what each game records."""
    for name, fields in ERRORS.items():
        mask = torch.stack([present[..., NUMBER[field]] for field in fields])
        error = torch.stack([(frame.get(field)[:, 0] - true.get(field)[:, 1]).abs() for field in fields])
        sums.add(name, time, (error * mask).sum(), mask.sum())
    action = true.get("action").clamp(max=FIELDS["action"].vocabulary - 1)
    right, changed = frame.get("action")[:, 0] == action[:, 1], action[:, 1] != action[:, 0]
    sums.add("action_acc", time, right.sum(), torch.tensor(len(right) * PLAYERS, device=right.device))
    sums.add("change_acc", time, (right & changed).sum(), changed.sum())
