"""`worldmodel evaluate --rollout`: how far a model's rollouts stray, beside two that need no training, and real games.

All rows are rolled from the same 300 starts, under the controls that were played, by the same code. The baselines know
one frame alone: *persistence* holds it, *kinematic* also moves players on at the speeds of that frame. The row "real"
says how the players of these very frames behaved; its errors are those of nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch

from worldmodel import __version__
from worldmodel.errors import UserError
from worldmodel.features.facts import FactReader
from worldmodel.features.feedback import Choice, Feedback
from worldmodel.model.unroll import Unroller, make_memory
from worldmodel.object_store import StorageError
from worldmodel.progress import Tell, say_nothing
from worldmodel.rollout.habits import Habits
from worldmodel.rollout.loading import LoadedRun, load_model, open_games
from worldmodel.run.record import read_commit
from worldmodel.storage import Location
from worldmodel.training.baselines import kinematic, persistence
from worldmodel.training.coherence import STARTS, VERSION, RolloutSet, RolloutSums, Step, open_rollouts, roll_out
from worldmodel.training.data import Dataset
from worldmodel.training.feed import Worker, measure_room, open_store
from worldmodel.training.starts import LONGEST
from worldmodel.training.validation import find_context, roll_baseline

ROLLOUTS = "rollouts.json"
"""What the suite found, in the run's folder."""
MOST_STARTS = 100_000
MODEL, REAL = "model", "real"
BASELINES = {"persistence": persistence, "kinematic": kinematic}


@dataclass(frozen=True, kw_only=True)
class RolloutRequest:
    """What is to be rolled out. UserError where it means nothing."""

    data: str = ""
    """Games or blocks; empty: those of the run."""
    starts: int = STARTS
    frames: int = LONGEST
    """Frames of each rollout."""
    temperature: float = 0.0
    """0: the most likely classes; above, they are drawn."""
    seed: int = 0
    """Of what is drawn."""
    device: str = ""
    """`cpu`, `cuda`; empty: the run's own, or what there is."""

    def __post_init__(self) -> None:
        if not 1 <= self.starts <= MOST_STARTS or self.frames < 1:
            raise UserError(
                f"found {self.starts} starts and {self.frames} frames, expected at least 1 of both, and at most "
                f"{MOST_STARTS} starts"
            )
        self.make_choice()

    def make_choice(self) -> Choice:
        """How the model's classes are chosen. UserError as `Choice`."""
        return Choice(temperature=self.temperature, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class RolloutEvaluation:
    """What the suite found."""

    run: str
    checkpoint: str
    step: int
    """Optimizer steps behind the checkpoint."""
    data_fingerprint: str
    rollout_version: int
    """Grows when starts, warm-up or a metric's meaning change."""
    starts: int
    games: int
    """Validation games that are long enough."""
    frames: int
    """Of each rollout."""
    temperature: float
    rows: dict[str, dict[str, float]]
    """Row to metric name to value: "model", "persistence", "kinematic", and "real" where it means something."""
    curves: dict[str, dict[str, list[float | None]]]
    """Row to metric to its value in each frame; None: nothing counts there."""
    notes: tuple[str, ...]
    commit: str | None = field(default_factory=read_commit)
    """Of the code that evaluated."""
    version: str = __version__


def evaluate_rollouts(
    run: Location, checkpoint: Location, request: RolloutRequest, tell: Tell = say_nothing
) -> RolloutEvaluation:
    """Measure a checkpoint's rollouts; the result is also kept in the run's folder.

    `tell`: progress callback; an exception that it raises ends the evaluation.

    Raises:
        UserError: no validation game is long enough.
    """
    loaded = load_model(run, checkpoint, request.device)
    dataset, notes = open_games(run, loaded.config, request.data)
    rollouts = open_starts(loaded, dataset, request)
    rows: dict[str, dict[str, float]] = {}
    curves: dict[str, dict[str, list[float | None]]] = {}
    real = Habits(loaded.device)
    for name, unroller in list_contestants(loaded, request).items():
        habits = Habits(loaded.device)
        with _exact():
            watch = partial(_watch, habits, real if name == MODEL else None)
            sums = roll_out(unroller, rollouts, watch, partial(_tell_row, tell, name))
        rows[name], curves[name] = summarise(sums, habits), _without_nan(sums.curves())
    rows[REAL] = _prefix(real)
    if rollouts.short:
        notes = (*notes, f"{rollouts.short} validation games are too short for rollouts of {request.frames} frames")
    return _keep(run, RolloutEvaluation(
        run=str(run), checkpoint=loaded.checkpoint, step=loaded.step, data_fingerprint=dataset.fingerprint,
        rollout_version=VERSION, starts=len(rollouts.samples), games=len(dataset.split.validation) - rollouts.short,
        frames=request.frames, temperature=request.temperature, rows=rows, curves=curves, notes=notes,
    ))  # fmt: skip


def open_starts(loaded: LoadedRun, dataset: Dataset, request: RolloutRequest) -> RolloutSet:
    """The starts of a suite. UserError where no validation game is long enough."""
    worker = Worker(device=loaded.device, resident_bytes=measure_room(loaded.device))
    games, config = dataset.split.validation, loaded.config
    return open_rollouts(
        games, open_store(dataset, games, config, worker), FactReader(config.encoding, loaded.device, loaded.untrained),
        number=request.starts, horizon=request.frames, context=find_context(config), partitions=worker.partitions,
    )  # fmt: skip


def list_contestants(loaded: LoadedRun, request: RolloutRequest) -> dict[str, Unroller]:
    """Row to what is rolled out. The baselines see and predict everything, whatever the experiment does."""
    config, device = loaded.config, loaded.device
    memory = make_memory(loaded.model, config.training.mode)
    found = {MODEL: Unroller(memory, Feedback(config.encoding.layout, device, request.make_choice()))}
    return found | {name: roll_baseline(predict, device) for name, predict in BASELINES.items()}


def summarise(sums: RolloutSums, habits: Habits) -> dict[str, float]:
    """All metrics of a row. `eval/first_impossible`: the first frame (from 1) after which a rollout could be no game
    any more; absent where all stayed possible."""
    found = {**sums.compute(), **_prefix(habits)}
    first = next((n for n, share in enumerate(sums.curves()["possible"], 1) if share < 1), None)
    return found if first is None else {**found, "eval/first_impossible": float(first)}


def _prefix(habits: Habits) -> dict[str, float]:
    return {f"eval/{name}": value for name, value in habits.compute().items()}


def _watch(habits: Habits, real: Habits | None, step: Step) -> None:
    habits.add(step.before, step.made)
    if real:
        real.add(step.true.cut(slice(0, 1)), step.true.cut(slice(1, 2)))


def _tell_row(tell: Tell, name: str, doing: str, done: int, whole: int) -> None:
    tell(f"{name}'s {doing}", done, whole)


def _without_nan(curves: Mapping[str, list[float]]) -> dict[str, list[float | None]]:
    return {name: [None if value != value else value for value in values] for name, values in curves.items()}


@contextmanager
def _exact() -> Iterator[None]:
    """Matrix products in full float32, also on GPUs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _keep(run: Location, found: RolloutEvaluation) -> RolloutEvaluation:
    try:
        (run / ROLLOUTS).write_text(json.dumps(asdict(found), indent=1))
    except StorageError as error:
        return replace(found, notes=(*found.notes, f"not kept in the run folder: {error}"))
    return found
