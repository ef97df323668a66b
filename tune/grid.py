"""Which trials a grid has: experiments x seeds, each a complete experiment of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError, nearest
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import load_experiment, override
from worldmodel.experiment.presets import apply_preset

FOLDER = Path(__file__).parent / "experiments"
ROUND1 = ("baseline", "1a", "2a", "3a", "1a-2a", "3a-1a", "3a-1a-2a")
"""Round 1's experiments, in the order of its table."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a grid."""

    experiment: str
    """Stem of its file."""
    seed: int
    config: ExperimentConfig

    @property
    def name(self) -> str:
        """Name of its run folder, below the grid's."""
        return self.config.name


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """What a grid is made of."""

    experiments: Sequence[str] = ROUND1
    seeds: int = 1
    """Each experiment is trained with seeds 0 to this number."""
    preset: str = "laptop"
    arch: str = "mamba2"
    data: str
    """URI of the blocks that all trials share."""
    folder: str
    """URI of the grid's folder, which holds the run folders."""
    group: str
    """Name of the grid: its W&B group."""
    changes: dict[str, Any]
    """Dotted keys that every trial overrides, but its name and seed."""


def make_trials(options: GridOptions) -> list[Trial]:
    """All trials, seed by seed, so that a grid that is cut short has whole rounds. UserError names what is wrong."""
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: a grid needs at least 1")
    if not options.experiments:
        raise UserError("--experiments names none: leave it out for all of Round 1, or name some")
    unknown = [name for name in options.experiments if not (FOLDER / f"{name}.yaml").exists()]
    if unknown:
        known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
        hint = nearest(unknown[0], known) or f"; there are {', '.join(known)}"
        raise UserError(f"unknown experiment {unknown[0]!r}{hint}")
    names = list(dict.fromkeys(options.experiments))
    return [_make_trial(name, seed, options) for seed in range(options.seeds) for name in names]


def _make_trial(experiment: str, seed: int, options: GridOptions) -> Trial:
    arch = {"model.arch": options.arch, **_mode(options.arch)}
    config = override(load_experiment(FOLDER / f"{experiment}.yaml"), arch)
    config, _ = apply_preset(options.preset, config)
    changes = {
        **arch,  # again: a preset may have its own
        "name": f"{experiment}-seed{seed}",
        "data.dataset_dir": options.data,
        "save_dir": options.folder,
        "tracking.group": options.group,
        **options.changes,
        "training.seed": seed,
    }
    return Trial(experiment=experiment, seed=seed, config=override(config, changes, source="options of the grid"))


def _mode(arch: str) -> dict[str, Any]:
    """The MLP sees windows only."""
    return {"training.mode": "window"} if arch == "mlp" else {}
