"""`worldmodel evaluate`: one checkpoint on validation and test games, beside predictions that need no training.

Model and baselines are measured in one pass over the same targets (`training/validation.py`), so no row of the table
can be of other frames. Rows of another lookahead predict further ahead and have baselines of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np

from worldmodel import __version__
from worldmodel.blocks.index import GameEntry
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import override
from worldmodel.features.plan import Samples
from worldmodel.features.store import FrameStore
from worldmodel.features.view import FeatureView
from worldmodel.object_store import StorageError
from worldmodel.progress import Tell, say_nothing
from worldmodel.rollout.loading import LoadedRun, load_model, open_games
from worldmodel.run.card import write_card
from worldmodel.run.record import read_commit
from worldmodel.run.run import EVALUATION
from worldmodel.storage import Location
from worldmodel.training.baselines import MostFrequentNextAction, kinematic, persistence
from worldmodel.training.data import Dataset
from worldmodel.training.feed import Worker, measure_room, open_store, sample_shape
from worldmodel.training.game_sums import GameSums
from worldmodel.training.validation import CHUNK, METRIC_VERSION, open_validation, validate

FITTED_FRAMES = 2_000_000
"""Training frames that the most-frequent-action table is counted on: more do not move it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Results on some games."""

    games: int
    targets: int
    rows: dict[str, dict[str, float]]
    """"model", "persistence", "kinematic" and "most frequent next action" to metric name to value."""
    game_names: tuple[str, ...]
    """MD5 of each game."""
    by_game: dict[str, dict[str, list[list[float]]]]
    """Row to metric to its sums and its counts by game, in the order of `game_names`."""


@dataclass(frozen=True, kw_only=True)
class Evaluation(Part):
    """An evaluation; what `Part` holds is of the validation games."""

    run: str
    checkpoint: str
    step: int
    """Optimizer steps behind the checkpoint."""
    data_fingerprint: str
    metric_version: int
    horizon: int
    """Frames between the last context frame and the target: 1, or more under lookahead."""
    encoding_targets: str
    """What the model predicts, see `EncodingConfig.targets`: losses over other targets do not compare."""
    test: Part | None
    """The same on the test games, on which nothing is chosen; None: there are none."""
    notes: tuple[str, ...]
    commit: str | None = field(default_factory=read_commit)
    """Of the code that evaluated."""
    version: str = __version__


def evaluate(run: Location, checkpoint: Location, data: str = "", tell: Tell = say_nothing) -> Evaluation:
    """Evaluate a checkpoint of a run folder, also of a fetched copy, on all its validation and test games.

    The result is also written into the run folder as `evaluation.json`, and its rows onto the run's card.

    Args:
        run: the run folder.
        checkpoint: one of its checkpoints.
        data: games or blocks; empty: those of the run.
        tell: progress callback; an exception that it raises ends the evaluation.
    """
    loaded = load_model(run, checkpoint)
    config = loaded.config
    dataset, notes = open_games(run, config, data)
    measure = _make_measure(dataset, config, loaded, tell)
    validated = measure(dataset.split.validation, "validation")
    test, more = _measure_test(dataset, measure)
    evaluation = Evaluation(
        **vars(validated), run=str(run), checkpoint=loaded.checkpoint, step=loaded.step,
        data_fingerprint=dataset.fingerprint, metric_version=METRIC_VERSION, horizon=1 + config.encoding.lookahead,
        encoding_targets=config.encoding.targets, test=test, notes=(*notes, *more),
    )  # fmt: skip
    return _keep(run, evaluation)


def _keep(run: Location, evaluation: Evaluation) -> Evaluation:
    try:
        (run / EVALUATION).write_text(json.dumps(asdict(evaluation), indent=1))
        write_card(run)
    except StorageError as error:
        return replace(evaluation, notes=(*evaluation.notes, f"not kept in the run folder: {error}"))
    return evaluation


def _measure_test(
    dataset: Dataset, measure: Callable[[Sequence[GameEntry], str], Part]
) -> tuple[Part | None, tuple[str, ...]]:
    """Results on the test games, or why there are none."""
    if not dataset.split.test:
        return None, ("no test games: training.test_split takes none of these games",)
    try:
        return measure(dataset.split.test, "test"), ()
    except UserError as error:
        return None, (f"test games not measured: {str(error).replace('validation', 'test')}",)


def _make_measure(
    dataset: Dataset, config: ExperimentConfig, loaded: LoadedRun, tell: Tell
) -> Callable[[Sequence[GameEntry], str], Part]:
    """A function that measures the model and the baselines on some games, and calls its progress by a name."""
    device, layout = loaded.device, config.encoding.layout
    worker = Worker(device=device, resident_bytes=measure_room(device))
    whole = override(config, {"training.validation_games": None, "training.rollout_starts": 0})
    view = FeatureView(config.encoding, device)
    frequent = fit_most_frequent(dataset, config, worker, tell)
    baselines = {
        "persistence": partial(persistence, layout=layout),
        "kinematic": partial(kinematic, layout=layout),
        "most frequent next action": partial(frequent.predict, layout=layout),
    }

    def measure(games: Sequence[GameEntry], name: str) -> Part:
        chosen = replace(dataset, split=replace(dataset.split, validation=list(games)))
        data = open_validation(chosen, whole, worker, view)
        by_game = {name: GameSums(layout, len(games), device) for name in ("model", *baselines)}
        found = validate(
            loaded.model, data, config.loss_weights, amp=config.training.amp, baselines=baselines, by_game=by_game,
            tell=lambda _, done, whole: tell(name, done, whole),
        )  # fmt: skip
        rows = {row: {**found[row].compute(), **sums.average()} for row, sums in by_game.items()}
        return Part(
            games=len(games), targets=int(rows["model"]["metric/targets"]), rows=rows,
            game_names=tuple(game.md5 for game in games), by_game={n: sums.compute() for n, sums in by_game.items()},
        )  # fmt: skip

    return measure


def fit_most_frequent(
    dataset: Dataset, config: ExperimentConfig, worker: Worker, tell: Tell = say_nothing
) -> MostFrequentNextAction:
    """To which action each one most often changes, over the first training games (by md5)."""
    games = sorted(dataset.split.train, key=lambda game: game.md5)
    ends = np.cumsum([game.frames for game in games])
    games = games[: int(np.searchsorted(ends, FITTED_FRAMES)) + 1]
    encoding = EncodingConfig(lookahead=config.encoding.lookahead)
    view, store = FeatureView(encoding, worker.device), open_store(dataset, games, config, worker)
    table = MostFrequentNextAction(worker.device)
    shape = replace(sample_shape(config), mode="sequence", length=CHUNK)
    chunks = _chunks(store, len(games))
    for number, samples in enumerate(chunks, 1):
        _, targets = view.view(store, samples, shape)
        table.update(targets)
        tell("most frequent actions", number, len(chunks))
    return table


def _chunks(store: FrameStore, games: int, batch: int = 64) -> list[Samples]:
    every = Samples(np.arange(games), np.zeros(games, dtype=np.int64))
    lengths = store.game_lengths(every)
    starts = [np.arange(0, length, CHUNK) for length in lengths]
    game, start = np.repeat(np.arange(games), [len(s) for s in starts]), np.concatenate(starts)
    return [Samples(game[i : i + batch], start[i : i + batch]) for i in range(0, len(game), batch)]
