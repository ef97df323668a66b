"""How good a model is, by one protocol for all: the same target frames whatever it was trained on.

Targets are the frames t >= K of each validation game (K: `context_len`). A model trained on windows sees its K frames;
a model trained on sequences runs over each game from its start with carried state. Sums run over the whole set, so the
result does not depend on batches or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from worldmodel.blocks.index import GameEntry, partition_of
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError, nearest
from worldmodel.experiment.config import ExperimentConfig, LossWeights
from worldmodel.features.batch import Inputs, Predictions, Targets
from worldmodel.features.facts import FactReader
from worldmodel.features.feedback import Feedback
from worldmodel.features.plan import Samples, SampleShape
from worldmodel.features.store import FrameStore
from worldmodel.features.view import FeatureView
from worldmodel.model.unroll import NoMemory, Unroller, make_memory
from worldmodel.model.world_model import WorldModel
from worldmodel.progress import Tell, say_nothing
from worldmodel.training.baselines import kinematic
from worldmodel.training.coherence import COHERENCE, RolloutSet, RolloutSums, list_metrics, open_rollouts, roll_out
from worldmodel.training.data import Dataset, choose_validated
from worldmodel.training.feed import Worker, open_store, sample_shape
from worldmodel.training.game_sums import GameSums
from worldmodel.training.metrics import METRIC_VERSION as METRIC_VERSION
from worldmodel.training.metrics import Metrics
from worldmodel.training.starts import choose_starts

EVALUATED = "eval/"
"""Names of what is measured on rollouts begin so."""
CHUNK = 256
"""Frames of a game at a time, where state is carried."""
DEFAULT_BATCH = {"window": 1024, "sequence": 16}
"""Windows, or games side by side, in a validation step."""

Predictor = Callable[[Inputs], Predictions]


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """Validation games, seen through one experiment's features."""

    store: FrameStore
    view: FeatureView
    shape: SampleShape
    """The training samples' shape: mode, context and lookahead count."""
    games_in_all: int
    """Number of all validation games; `store` holds the measured ones."""
    games: np.ndarray
    """(G,) indices of the store's games that this worker measures."""
    batch_size: int
    """Windows, or games, at a time."""
    rollouts: RolloutSet | None = None
    """This worker's rollouts; None: none are measured, or no game is long enough for one."""


def open_validation(dataset: Dataset, config: ExperimentConfig, worker: Worker, view: FeatureView) -> ValidationSet:
    """A worker's share of the validation games. UserError as `check_validation`."""
    check_validation(dataset, config)
    games, shape = choose_validated(dataset.split, config), sample_shape(config)
    own = [n for n, game in enumerate(games) if partition_of(game.md5) in worker.partitions]
    store = open_store(dataset, games, config, worker)
    return ValidationSet(
        store=store,
        rollouts=_open_rollouts(games, store, config, worker),
        view=view,
        shape=shape,
        games_in_all=len(dataset.split.validation),
        games=np.array(own, dtype=np.int64),
        batch_size=config.training.eval_batch_size or DEFAULT_BATCH[shape.mode],
    )


def _open_rollouts(
    games: Sequence[GameEntry], store: FrameStore, config: ExperimentConfig, worker: Worker
) -> RolloutSet | None:
    context, number = find_context(config), config.training.rollout_starts
    if not number or not any(game.frames >= context + COHERENCE for game in games):
        return None
    return open_rollouts(
        games, store, FactReader(config.encoding, worker.device), number=number, horizon=COHERENCE, context=context,
        partitions=worker.partitions,
    )  # fmt: skip


def find_context(config: ExperimentConfig) -> int:
    """Frames that every rollout of an experiment has before it: K, and those that lookahead lags behind."""
    return config.model.context_len + config.encoding.lookahead


def check_validation(dataset: Dataset, config: ExperimentConfig) -> None:
    """UserError where no validation game is long enough to be measured on, or for the rollouts that decide."""
    games = choose_validated(dataset.split, config)
    if config.training.best_metric.startswith(EVALUATED):
        choose_starts(games, 1, COHERENCE, find_context(config))
    windows = replace(sample_shape(config), mode="window")
    if not any(windows.count_targets(game.frames) for game in games):
        longest = max((game.frames for game in games), default=0)
        raise UserError(
            f"none of {len(games)} validation games (the longest has {longest} frames) has a frame to predict after "
            f"model.context_len {windows.context}: use a smaller one, or longer games"
        )


def check_metric(config: ExperimentConfig) -> None:
    """UserError where `training.best_metric` is nothing that a validation of this experiment measures."""
    empty = Metrics(config.encoding.layout, config.loss_weights)
    empty.from_vector(torch.ones_like(empty.to_vector()))  # a metric is named once something was counted for it
    known, asked = [f"val_{name}" for name in empty.compute()], config.training.best_metric
    known += list_metrics(starts=config.training.rollout_starts) if config.training.rollout_starts else []
    if asked not in known:
        raise UserError(
            f"training.best_metric: found {asked!r}{nearest(asked, known)}, expected one of {', '.join(sorted(known))}"
        )


def validate(
    model: WorldModel,
    data: ValidationSet,
    weights: LossWeights,
    *,
    amp: bool,
    baselines: Mapping[str, Predictor] = {},
    by_game: Mapping[str, GameSums] = {},
    tell: Tell = say_nothing,
) -> dict[str, Metrics]:
    """Metrics of the model ("model") and of baselines by name, over this worker's games. Calls `tell` per batch.

    `by_game`: takes the sums by game of the rows that it names.
    """
    device, done, whole = data.view.device, 0, count_positions(data)
    found = {name: Metrics(data.view.layout, weights, device) for name in ("model", *baselines)}
    tell("validation", done, whole)
    with evaluating(model), torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
        for inputs, targets, predictions, games in predict_all(model, data):
            rows = {"model": predictions} | {name: predict(inputs) for name, predict in baselines.items()}
            for name, predicted in rows.items():
                found[name].update(predicted, targets)
                if name in by_game:
                    by_game[name].update(predicted, targets, games)
            done += targets.valid.size(0) * targets.valid.size(1)
            tell("validation", done, whole)
    return found


def measure_rollouts(model: WorldModel, data: ValidationSet, tell: Tell = say_nothing) -> RolloutSums | None:
    """Errors of this worker's rollouts, computed in float32; None: there are none. Calls `tell` per frame."""
    if data.rollouts is None:
        return None
    with evaluating(model):
        unroller = Unroller(make_memory(model, data.shape.mode), Feedback(data.view.layout, data.view.device))
        return roll_out(unroller, data.rollouts, tell=tell)


def roll_baseline(predict: Callable[..., Predictions], device: torch.device) -> Unroller:
    """What rolls a baseline out, which sees and predicts everything, whatever the experiment does."""
    layout = EncodingConfig().layout
    return Unroller(NoMemory(partial(predict, layout=layout)), Feedback(layout, device))


def measure_kinematic(data: ValidationSet) -> RolloutSums | None:
    """`measure_rollouts` of the kinematic baseline."""
    if data.rollouts is None:
        return None
    return roll_out(roll_baseline(kinematic, data.view.device), data.rollouts)


@contextmanager
def evaluating(model: WorldModel) -> Iterator[None]:
    """Put the model in evaluation mode, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def count_positions(data: ValidationSet) -> int:
    """Number of positions that `predict_all` predicts, including padding after a game's end."""
    lengths = data.store.game_lengths(Samples(data.games, data.games)).tolist()
    at_a_time = 1 if data.shape.mode == "window" else CHUNK
    return sum(-(-data.shape.count_targets(length) // at_a_time) for length in lengths) * at_a_time


Predicted = tuple[Inputs, Targets, Predictions, np.ndarray]
"""Of a batch; the last: the game of each sample, by its place in the store."""


def predict_all(model: WorldModel, data: ValidationSet) -> Iterator[Predicted]:
    """All batches, until every validation game is measured."""
    return _predict_windows(model, data) if data.shape.mode == "window" else _predict_games(model, data)


def _predict_windows(model: WorldModel, data: ValidationSet) -> Iterator[Predicted]:
    for samples in iterate_windows(data):
        inputs, targets = data.view.view(data.store, samples, data.shape)
        predictions, _ = model(inputs, wants_state=False)
        yield inputs, targets, predictions, samples.games


def iterate_windows(data: ValidationSet) -> Iterator[Samples]:
    """All windows of the set's games, game by game, in batches."""
    lengths = data.store.game_lengths(Samples(data.games, data.games))
    counts = [data.shape.count_targets(int(length)) for length in lengths]
    games = np.repeat(data.games, counts)
    starts = np.concatenate([np.arange(count) for count in counts]) if counts else np.zeros(0, dtype=np.int64)
    for first in range(0, len(games), data.batch_size):
        rows = slice(first, first + data.batch_size)
        yield Samples(games[rows], starts[rows])


def _predict_games(model: WorldModel, data: ValidationSet) -> Iterator[Predicted]:
    """Games of like length side by side; each leaves when it has ended, the others' state goes on."""
    shape = replace(data.shape, length=CHUNK)
    lengths = data.store.game_lengths(Samples(data.games, data.games))
    order = np.argsort(-lengths, kind="stable")
    for first in range(0, len(order), data.batch_size):
        rows = order[first : first + data.batch_size]
        games, left, state = data.games[rows], lengths[rows], None
        for start in range(0, int(left.max()), CHUNK):
            alive = np.flatnonzero(left > start + 1 + shape.lookahead)
            if not len(alive):
                break
            if state is not None and len(alive) < len(games):
                state = state.select(torch.from_numpy(alive).to(data.view.device))
            games, left = games[alive], left[alive]
            inputs, targets = data.view.view(data.store, Samples(games, np.full(len(games), start)), shape)
            predictions, state = model(inputs, state)
            yield inputs, skip_first(targets, start, shape.context), predictions, games


def skip_first(targets: Targets, start: int, context: int) -> Targets:
    """Targets without those that a window of `context` frames could not see: the next frame is before `context`."""
    after = start + 1 + torch.arange(targets.valid.size(1), device=targets.valid.device)
    return replace(targets, valid=targets.valid & (after >= context))
