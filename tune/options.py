"""Options of `tune/grid.py`, and the grid that they ask for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import Positional, UseAppendAction, arg

from tune.axes import OWN, read_axes, read_spaces
from tune.variants import MOST, GridPlan
from worldmodel.cli.train import choose_scale
from worldmodel.cli.verb import metavar
from worldmodel.errors import UserError
from worldmodel.experiment.layers import check_once, read_settings
from worldmodel.experiment.scales import find_scale
from worldmodel.run.budget import Budget
from worldmodel.storage import Location

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Pattern of a grid's name: it names a folder and a W&B group."""
STORAGE = "WORLDMODEL_STORAGE"
"""Environment variable: where grids lie that do not say so."""
DATA, GPUS, SCALE = "WORLDMODEL_DATA", "WORLDMODEL_GPUS_PER_TRIAL", "WORLDMODEL_PRESET"
"""Environment variables: what a grid that does not say so itself trains on, the GPUs of each worker, the scale. A
cluster sets them, so that the same command does there what the cluster is for."""
UPLOADS = "runtime_resources/working_dir_files"
"""Part of the path of a job's uploaded folder, which Ray deletes when the job has ended."""


@dataclass(frozen=True, kw_only=True)
class GridRequest:
    """Train experiments x points of axes x seeds, and compare them.

    Layers, the later wins: built-in defaults < --scale < experiment file < --set < --vary and --sample.
    """

    experiments: Annotated[Positional[tuple[str, ...]], metavar("EXPERIMENT ...")]
    """Experiment files, patterns of files such as 'mine/*.yaml', or names of Round 1's experiments."""
    data: Annotated[str, metavar("SRC|BLOCKS")] = ""
    """Folder or URI of games or blocks; default: $WORLDMODEL_DATA, else toy games are made."""
    storage: Annotated[str, metavar("DIR")] = ""
    """Folder or URI that holds the grid's folder; default: $WORLDMODEL_STORAGE, else runs."""
    name: Annotated[str, metavar("NAME")] = "grid"
    """Name of the grid; its W&B group."""
    seeds: Annotated[int, metavar("N")] = 1
    """Trials per experiment and point, with seeds 0, 1, ..."""
    scale: Annotated[str, metavar("SCALE")] = ""
    """What the machine decides: laptop (1.3 million parameters, minutes on two cores), full (4.3 million), a100, h100,
    l4 (batches for that GPU), published (the published setting); default: $WORLDMODEL_PRESET, else laptop."""
    set: Annotated[tuple[tuple[str, ...], ...], arg(metavar="KEY=VALUE"), UseAppendAction] = ()
    """Settings of all trials, over the file's: as training.lr=0.001."""
    vary: Annotated[tuple[tuple[str, ...], ...], arg(metavar="KEY=VALUE,VALUE"), UseAppendAction] = ()
    """Axes of the grid, over all else: as training.lr=1e-3,2e-3; all combinations are trained."""
    sample: Annotated[tuple[tuple[str, ...], ...], arg(metavar="KEY=SPACE"), UseAppendAction] = ()
    """Settings to search: KEY=uniform(LOW,HIGH), loguniform, randint, lograndint or choice(VALUE,VALUE), as Ray Tune
    has them."""
    trials: Annotated[int, metavar("N")] = 0
    """Points to sample with --sample."""
    search: Annotated[Literal["random", "optuna"], metavar("random|optuna")] = "random"
    """random: all points are drawn at the start; optuna: each by what the others found (pip install optuna)."""
    arch: Annotated[Literal["mamba2", "mlp"] | None, metavar("mamba2|mlp")] = None
    """Architecture of all trials; default: the file's."""
    preset: Annotated[str, metavar("SCALE")] = ""
    """Former name of --scale."""
    targets: Annotated[Literal["all", "published"] | None, metavar("all|published")] = None
    """What is predicted: all, or the 14 numbers and 4 classes of Round 1's time; default: the file's."""
    epochs: Annotated[int | None, metavar("N")] = None
    """Epochs per trial; default: the experiment's."""
    gpus_per_trial: Annotated[float, metavar("GPUS")] = 0.0
    """GPUs of each worker ($WORLDMODEL_GPUS_PER_TRIAL says the default); a fraction packs several trials on one."""
    workers_per_trial: Annotated[int, metavar("N")] = 1
    """Ray Train workers of each trial."""
    scheduler: Annotated[Literal["none", "asha"], metavar("none|asha")] = "none"
    """asha: after epochs 1, 3, 9, ... only the best third of the trials continues (lookahead is judged apart)."""
    budget_hours: Annotated[float | None, metavar("HOURS")] = None
    """Wall-clock hours of the whole grid, over all attempts, after which it stops well; default: no limit."""
    budget_usd: Annotated[float | None, metavar("DOLLARS")] = None
    """Dollars of all its trials after which it stops well; default: no limit."""
    allow: Annotated[tuple[str, ...], metavar("FIELD")] = ()
    """Fields of the data that may be constant, or hold values that no game reaches; in a file: data.allow."""
    yes: bool = False
    """Begin also with more than 200 trials."""
    resume: bool = False
    """Continue the grid of that name: finished trials stay, the others resume from their checkpoints."""
    skip_doctor: bool = False
    """Begin without the checks of `worldmodel doctor`."""
    dry_run: bool = False
    """Print what would run and what differs between trials, and stop."""
    json: bool = False
    """Print the results as one JSON object on stdout; everything else goes to stderr."""

    @property
    def names(self) -> tuple[str, ...]:
        """The experiments that are asked for."""
        return self.experiments

    @property
    def place(self) -> str:
        """Where the grid's folder lies."""
        if self.storage or os.environ.get(STORAGE):
            return self.storage or os.environ[STORAGE]
        # A job's upload is deleted when the job ends, and results in it would be.
        return str(Path.home() / "runs") if UPLOADS in str(Path.cwd()) else "runs"

    @property
    def folder(self) -> Location:
        """The grid's folder."""
        return Location.of(self.place) / self.name

    @property
    def budget(self) -> Budget:
        """Its limits. UserError where one is no number above 0."""
        return Budget(hours=self.budget_hours, usd=self.budget_usd)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on former options."""
        return choose_scale(self.scale, self.preset)[1]

    @property
    def scale_name(self) -> str:
        """The scale of all trials. UserError for an unknown one, or two."""
        return choose_scale(self.scale, self.preset)[0] or _read_scale()

    @property
    def is_adaptive(self) -> bool:
        """True if a search chooses each point by the results of others."""
        return bool(self.sample) and self.search == "optuna"


def read_defaults(kind: type[GridRequest]) -> GridRequest:
    """What holds where the command line says nothing. UserError where an environment variable cannot be used."""
    gpus = os.environ.get(GPUS) or "0"
    _read_scale()
    try:
        share = float(gpus)
    except ValueError as error:
        raise UserError(f"{GPUS}={gpus}: expected a number of GPUs, as 1 or 0.25") from error
    given: dict[str, Any] = {} if kind is not GridRequest else {"experiments": MISSING}
    return kind(**given, data=os.environ.get(DATA, ""), gpus_per_trial=share)


def _read_scale() -> str:
    given = os.environ.get(SCALE) or "laptop"
    return find_scale(given, f"{SCALE}:")


def plan_grid(request: GridRequest, blocks: str, toy_settings: Mapping[str, Any]) -> GridPlan:
    """The grid that the command line asks for; `toy_settings` apply where no data are named."""
    scale = request.scale_name
    below: dict[str, Any] = {"training.threads": 1} if scale == "laptop" else {}
    if not request.data and scale == "laptop":
        below |= toy_settings
    settings = read_settings(join(request.set))
    if own := sorted(settings.keys() & OWN.keys()):
        raise UserError(f"--set {own[0]}: it is the grid's own to set: {OWN[own[0]]}")
    options = _list_options(request)
    check_once(settings, options, ("--set", "an option of its own"))
    axes, spaces = read_axes(join(request.vary)), read_spaces(join(request.sample))
    check_once({**axes, **spaces}, options, ("--vary or --sample", "an option of its own"))
    place = {"data.dataset_dir": blocks, "save_dir": str(request.folder), "tracking.group": request.name}
    if "tracking.group" in settings:
        del place["tracking.group"]
    return GridPlan(
        experiments=request.names, seeds=request.seeds, scale=scale, below=below, settings=settings,
        options=options, place=place, axes=axes, spaces=spaces,
        trials=request.trials, is_adaptive=request.is_adaptive,
    )  # fmt: skip


def _list_options(request: GridRequest) -> dict[str, Any]:
    found = {
        "model.arch": request.arch, "encoding.targets": request.targets, "training.num_epochs": request.epochs,
        "training.device": "cuda" if request.gpus_per_trial else None,  # never silently the CPU
        "data.allow": list(request.allow) or None,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}


def join(groups: Sequence[Sequence[str]]) -> list[str]:
    """The values of an option that is given several times."""
    return [value for group in groups for value in group]


def check_size(request: GridRequest, trials: int) -> None:
    """UserError for a grid that is larger than anyone asks for by mistake."""
    if trials > MOST and not request.yes:
        raise UserError(f"{trials} trials are more than {MOST}: ask for fewer, or say --yes (also to --dry-run them)")


def check_search(request: GridRequest, plan: GridPlan) -> None:
    """UserError for a search that cannot be carried out."""
    if not request.is_adaptive:
        return
    if len(plan.experiments) > 1 or plan.axes or plan.seeds > 1:
        raise UserError("--search optuna: expected one experiment, one seed and no --vary: each point follows the last")
    if find_spec("optuna") is None:
        raise UserError("--search optuna needs a package that is not installed: pip install optuna, or --search random")


def check_name(name: str) -> None:
    """UserError where a grid's name is none of a folder below the storage."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"--name {name!r}: expected letters, digits, '.', '_' and '-', as in my-grid; --storage says where"
        )


def check_halving(options: GridRequest, epochs: int) -> None:
    """UserError where the scheduler has nothing to choose from."""
    if options.scheduler == "asha" and epochs < 2:
        raise UserError(
            f"--scheduler asha chooses after epochs 1, 3, 9, ... but the last, and the trials have {epochs}: ask for "
            "--epochs 2 or more, or leave the scheduler out"
        )
