"""Round 1's grid: seven experiments x seeds on whatever Ray there is, and a table that can be believed.

    python tune/round1.py --data ../games --preset laptop --seeds 3
    ray job submit -- python tune/round1.py --data s3://bucket/games --storage s3://bucket/runs

Nothing named: toy games, embedded Ray, a laptop's size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

if __package__ in (None, ""):  # run as a script: its own package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tune.grid import ROUND1, GridOptions, Trial, make_trials
from tune.live import show_live
from tune.report import REPORT, render_terminal, to_json, write_report
from tune.results import read_trial
from tune.trials import Cluster, check_reach, is_done, plan_resources, run_trials
from worldmodel.blocks.index import read_index
from worldmodel.errors import UserError
from worldmodel.features.plan import check_world
from worldmodel.features.split import GameFilter, select_games, split_games
from worldmodel.ray_session import join_ray
from worldmodel.storage import Location

NOT_SET = ("name", "goal", "save_dir", "training.seed", "data.dataset_dir")
"""Settings that the grid makes itself."""
TOY_GAMES = 24
LOG_WIDTH = 120
"""Columns of the tables where no terminal says how many it has."""
PROBE = ".writable"
"""File that is written and deleted again, to learn whether the storage can be written."""


@dataclass(frozen=True, kw_only=True)
class Round1:
    """Train Round 1's experiments and compare them."""

    data: str = ""
    """Folder or URI of games or blocks; empty: toy games are made."""
    storage: str = "runs"
    """Folder or URI that holds the grid's folder."""
    name: str = "round1"
    """Name of the grid."""
    experiments: tuple[str, ...] = ROUND1
    """Experiments to train: stems of tune/experiments/*.yaml."""
    seeds: int = 1
    """Trials per experiment, with seeds 0, 1, ..."""
    arch: Literal["mamba2", "mlp"] = "mamba2"
    """Architecture of all trials."""
    preset: Literal["laptop", "round1"] = "laptop"
    """laptop: 1.3 million parameters, minutes on two cores; round1: the published setting."""
    epochs: int | None = None
    """Epochs per trial; None: the preset's, on toy games 3."""
    gpus_per_trial: float = 0.0
    """GPUs of each worker; a fraction packs several trials on one."""
    workers_per_trial: int = 1
    """Ray Train workers of each trial."""
    set: tuple[str, ...] = ()
    """Settings of all trials, over the preset's: KEY=VALUE with keys of an experiment file, as training.lr=0.001."""
    resume: bool = False
    """Go on with the grid of that name: finished trials stay, the others go on from their checkpoints."""
    dry_run: bool = False
    """Print what would run, and stop."""
    json: bool = False
    """Print the results as one JSON object on stdout; everything else goes to stderr."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the grid; the exit status is 0 where every trial finished, 1 where one did not, 2 for a wrong request."""
    options = tyro.cli(Round1, args=arguments)
    try:
        return run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(options: Round1) -> int:
    """Prepare the data, run what is missing, write the report."""
    folder = Location.of(options.storage) / options.name
    wished = make_trials(grid_options(options, options.data, folder))
    check_world(options.workers_per_trial)
    _check_folder(folder, options)
    join_ray()
    cluster = Cluster.find()
    resources = plan_resources(cluster, options.gpus_per_trial, options.workers_per_trial)
    check_reach(cluster, [options.storage, *([options.data] if options.data else [])])
    if cluster.gpus and not options.gpus_per_trial:
        say(f"note: the cluster has {cluster.gpus:g} GPUs, and trials will use none: ask for --gpus-per-trial 1")
    if options.dry_run:
        say(f"{folder}: {resources.describe(len(wished))}: {', '.join(trial.name for trial in wished)}")
        return 0
    blocks = prepare_data(options)
    trials = make_trials(grid_options(options, blocks, folder))
    _check_games(blocks, trials)
    todo = [trial for trial in trials if not is_done(folder, trial)]
    say(f"{folder}: {resources.describe(len(todo))}; {len(trials) - len(todo)} done before")
    with show_live(folder, trials):
        errors = run_trials(todo, resources, folder)
    return finish(folder, trials, options, errors)


def finish(folder: Location, trials: Sequence[Trial], options: Round1, errors: Mapping[str, str]) -> int:
    """Write the report and show its tables. `errors`: what ended the trials that failed, by name."""
    results = [read_trial(folder, trial, errors.get(trial.name, "")) for trial in trials]
    tables = write_report(folder, results)
    from rich.console import Console

    console = Console(file=sys.stderr if options.json else sys.stdout)
    if not console.is_terminal:  # a log has lines as long as they need to be
        console = Console(file=console.file, width=LOG_WIDTH)
    console.print(render_terminal(tables, results))
    say(f"report: {folder / REPORT}")
    if options.json:
        print(json.dumps(to_json(tables, results)))
    return 0 if all(result.is_finished for result in results) else 1


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Dotted keys and values of "KEY=VALUE"s; a value is read as in an experiment file."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key in NOT_SET:
            raise UserError(f"--set {setting}: expected KEY=VALUE, as training.lr=0.001, of a key other than {NOT_SET}")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {setting}: the value is no YAML: {error}") from error
    return found


def prepare_data(options: Round1) -> str:
    """Blocks that all trials share: encoded once, found again later."""
    from worldmodel.training.data import prepare_blocks

    return prepare_blocks(options.data or make_toys(options.storage), options.storage, say)


def make_toys(storage: str) -> str:
    """Toy games below the storage, made once."""
    from worldmodel.games.toy import write_toy_games

    out = Location.of(storage).local_path()
    if out is None:
        raise UserError("no data: toy games are made on a local disk only; name games or blocks with --data")
    write_toy_games(out / "toy", TOY_GAMES, 0)
    return str(out / "toy")


def grid_options(options: Round1, blocks: str, folder: Location) -> GridOptions:
    """The grid that the command line asks for."""
    changes: dict[str, Any] = {"training.threads": 1} if options.preset == "laptop" else {}
    epochs = options.epochs if options.epochs is not None or options.data else 3
    if epochs is not None:
        changes["training.num_epochs"] = epochs
    if options.gpus_per_trial:
        changes["training.device"] = "cuda"  # never silently the CPU, after a GPU was asked for
    changes |= read_settings(options.set)
    return GridOptions(
        experiments=options.experiments, seeds=options.seeds, preset=options.preset, arch=options.arch, data=blocks,
        folder=str(folder), group=options.name, changes=changes,
    )  # fmt: skip


def _check_folder(folder: Location, options: Round1) -> None:
    """UserError where there is a grid already, or nothing can be written."""
    if not options.resume and folder.list_entries():
        raise UserError(f"there is a grid in {folder} already: go on with it by --resume, or choose another --name")
    if not options.dry_run:
        (folder / PROBE).write_text("")
        (folder / PROBE).delete()


def _check_games(blocks: str, trials: Sequence[Trial]) -> None:
    """UserError where the data leave an experiment nothing to train or to validate on."""
    games = read_index(Location.of(blocks)).games
    for config in (trial.config for trial in trials):
        split_games(select_games(games, GameFilter()), config.training.train_split, config.data.split)


def say(text: str) -> None:
    """Tell people something on stderr, where it cannot mix with a result."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
