"""What can be asked of `tune/round1.py`, and the grid that follows from it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from tune.grid import ROUND1, GridOptions
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import read_value
from worldmodel.experiment.presets import PRESETS
from worldmodel.run.budget import Budget
from worldmodel.storage import Location

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a grid may be called: it is a folder's name and W&B's group."""
NOT_SET = ("name", "goal", "save_dir", "training.seed", "data.dataset_dir")
"""Settings that the grid makes itself."""
STORAGE = "WORLDMODEL_STORAGE"
"""Environment variable: where grids lie that do not say so."""
DATA, GPUS, PRESET = "WORLDMODEL_DATA", "WORLDMODEL_GPUS_PER_TRIAL", "WORLDMODEL_PRESET"
"""Environment variables: what a grid that does not say so itself trains on, the GPUs of each worker, the preset. A
cluster sets them, so that the same command does there what the cluster is for."""
UPLOADS = "runtime_resources/working_dir_files"
"""Part of the path of a job's uploaded folder, which Ray deletes when the job has ended."""


@dataclass(frozen=True, kw_only=True)
class Round1:
    """Train Round 1's experiments and compare them."""

    data: str = ""
    """Folder or URI of games or blocks ($WORLDMODEL_DATA says the default); empty: toy games are made."""
    storage: str = ""
    """Folder or URI that holds the grid's folder; empty: $WORLDMODEL_STORAGE, else runs."""
    name: str = "round1"
    """Name of the grid; its W&B group."""
    experiments: tuple[str, ...] = ROUND1
    """Experiments to train: stems of tune/experiments/*.yaml."""
    seeds: int = 1
    """Trials per experiment, with seeds 0, 1, ..."""
    arch: Literal["mamba2", "mlp"] = "mamba2"
    """Architecture of all trials."""
    preset: Literal["laptop", "round1", "a100", "h100", "l4"] = "laptop"
    """laptop: 1.3 million parameters, minutes on two cores; round1: the published setting; a100, h100, l4: each file's
    own model in batches for that GPU. $WORLDMODEL_PRESET says the default."""
    targets: Literal["all", "published"] = "all"
    """What is predicted; published: the 14 numbers and 4 classes of Round 1's time."""
    epochs: int | None = None
    """Epochs per trial; None: the preset's."""
    gpus_per_trial: float = 0.0
    """GPUs of each worker ($WORLDMODEL_GPUS_PER_TRIAL says the default); a fraction packs several trials on one."""
    workers_per_trial: int = 1
    """Ray Train workers of each trial."""
    scheduler: Literal["none", "asha"] = "none"
    """asha: after epochs 1, 3, 9, ... only the best third of the trials goes on (lookahead is judged apart)."""
    budget_hours: float | None = None
    """Wall-clock hours of the whole grid, over all attempts, after which it stops well; None: no limit."""
    budget_usd: float | None = None
    """Dollars of all its trials after which it stops well; None: no limit."""
    set: tuple[str, ...] = ()
    """Settings of all trials, over the preset's: KEY=VALUE with keys of an experiment file, as training.lr=0.001."""
    allow: tuple[str, ...] = ()
    """Fields of the data that may be constant, or hold values that no game reaches; in a file: data.allow."""
    resume: bool = False
    """Go on with the grid of that name: finished trials stay, the others go on from their checkpoints."""
    skip_doctor: bool = False
    """Begin without the checks of `worldmodel doctor`."""
    dry_run: bool = False
    """Print what would run, and stop."""
    json: bool = False
    """Print the results as one JSON object on stdout; everything else goes to stderr."""

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


def read_defaults() -> Round1:
    """What holds where the command line says nothing. UserError where an environment variable cannot be used."""
    preset, gpus = os.environ.get(PRESET) or Round1.preset, os.environ.get(GPUS) or "0"
    if preset not in PRESETS:
        raise UserError(f"{PRESET}={preset}: expected one of {', '.join(PRESETS)}")
    try:
        share = float(gpus)
    except ValueError as error:
        raise UserError(f"{GPUS}={gpus}: expected a number of GPUs, as 1 or 0.25") from error
    return Round1(data=os.environ.get(DATA, ""), preset=cast(Any, preset), gpus_per_trial=share)


def grid_options(options: Round1, blocks: str, toy_settings: dict[str, Any]) -> GridOptions:
    """The grid that the command line asks for; `toy_settings` apply where no data are named."""
    changes: dict[str, Any] = {"training.threads": 1} if options.preset == "laptop" else {}
    if not options.data and options.preset == "laptop":
        changes |= toy_settings
    if options.epochs is not None:
        changes["training.num_epochs"] = options.epochs
    if options.gpus_per_trial:
        changes["training.device"] = "cuda"  # never silently the CPU, after a GPU was asked for
    if options.allow:
        changes["data.allow"] = list(options.allow)
    changes |= {"encoding.targets": options.targets, **read_settings(options.set)}
    return GridOptions(
        experiments=options.experiments, seeds=options.seeds, preset=options.preset, arch=options.arch, data=blocks,
        folder=str(options.folder), group=options.name, changes=changes,
    )  # fmt: skip


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Dotted keys and values of "KEY=VALUE"s; a value is read as in an experiment file."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key in NOT_SET:
            made = f"{key} is the grid's own to set" if key in NOT_SET else "there is no '='"
            raise UserError(f"--set {setting}: expected KEY=VALUE, as training.lr=0.001: {made}")
        if key in found:
            raise UserError(f"--set {key}: found twice, expected once")
        found[key] = read_value(value, source=f"--set {setting}")
    return found


def check_name(name: str) -> None:
    """UserError where a grid's name is none of a folder below the storage."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"--name {name!r}: expected letters, digits, '.', '_' and '-', as in round1; --storage says where"
        )


def check_halving(options: Round1, epochs: int) -> None:
    """UserError where the scheduler has nothing to choose from."""
    if options.scheduler == "asha" and epochs < 2:
        raise UserError(
            f"--scheduler asha chooses after epochs 1, 3, 9, ... but the last, and the trials have {epochs}: ask for "
            "--epochs 2 or more, or leave the scheduler out"
        )
