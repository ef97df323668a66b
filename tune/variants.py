"""The trials of a grid: experiments x points of its axes x seeds, each a complete experiment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from tune.axes import OWN, Point, Space, describe_point, draw_points, list_ends, name_point, show_value, span
from worldmodel.errors import UserError, nearest
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import as_values, flatten, override
from worldmodel.experiment.layers import Layer, Resolved, read_layers, resolve_layers

FOLDER = Path(__file__).parent / "experiments"
ROUND1 = ("baseline", "1a", "2a", "3a", "1a-2a", "3a-1a", "3a-1a-2a")
"""Round 1's experiments, in the order of its table."""
MOST = 200
"""Trials that need no --yes."""
_GLOB = frozenset("*?[")
_UNUSED = {
    "mamba2": ("model.hidden_dim", "model.trunk_dim"),
    "mlp": ("model.d_model", "model.d_state", "model.n_layers", "model.headdim", "model.chunk_size", "model.backend"),
    "window": ("training.sequence_length",),
}
"""Architecture or mode to the settings that nothing reads."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a grid."""

    experiment: str
    """Name of its row: the experiment's name and what differs from it."""
    seed: int
    config: ExperimentConfig
    axes: Mapping[str, Any] = field(default_factory=dict)
    """Its values on the grid's axes."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """As `Resolved.origins`."""
    notes: tuple[str, ...] = ()
    """As `Resolved.notes`."""

    @property
    def name(self) -> str:
        """Name of its run folder, below the grid's."""
        return self.config.name


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """What a grid is made of."""

    experiments: Sequence[str] = ROUND1
    """Names of Round 1, files, or patterns of files."""
    seeds: int = 1
    """Each experiment is trained with seeds 0 to this number."""
    scale: str = "laptop"
    below: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys that the command sets below the file."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys of --set."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys of other options, such as --epochs."""
    place: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys that say where trials find their data and leave their results."""
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Dotted key to the values of --vary."""
    spaces: Mapping[str, Space] = field(default_factory=dict)
    """Dotted key to the space of --sample."""
    trials: int = 0
    """Points to sample."""
    is_adaptive: bool = False
    """True if a search chooses the points while the grid runs; `make_trials` then has examples of them."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One experiment of a grid: its file's layers."""

    path: Path
    layers: Sequence[Layer]

    @property
    def name(self) -> str:
        return str(self.layers[-1].values["name"])


def make_trials(plan: GridPlan) -> list[Trial]:
    """All trials, seed by seed, so that a grid that is cut short has whole rounds. UserError names what is wrong."""
    if plan.seeds < 1:
        raise UserError(f"--seeds {plan.seeds}: a grid needs at least 1")
    sources = _read_sources(plan.experiments)
    points = list_points(plan)
    trials = [
        _make_trial(source, point, seed, plan) for seed in range(plan.seeds) for source in sources for point in points
    ]
    if not plan.is_adaptive:
        _check_different(trials)
    for end in list_ends(plan.spaces) if plan.is_adaptive else ():
        place_trial(trials[0], {**trials[0].axes, **end})
    return trials


def count_trials(plan: GridPlan) -> int:
    """The number of trials, without making them. UserError where an experiment is none."""
    points = math.prod(len(values) for values in plan.axes.values()) * max(1, plan.trials)
    return len(_read_sources(plan.experiments)) * points * max(0, plan.seeds)


def list_points(plan: GridPlan) -> list[Point]:
    """The points of the axes, and of samples drawn at random. UserError where an option lacks another."""
    if shared := sorted(plan.axes.keys() & plan.spaces.keys()):
        raise UserError(f"{shared[0]} is set by --vary and by --sample: expected one of them")
    if bool(plan.spaces) != bool(plan.trials) or plan.trials < 0:
        raise UserError(
            f"--trials {plan.trials} and {len(plan.spaces)} --sample options: expected both, as "
            "--sample 'training.lr=loguniform(1e-3,2e-2)' --trials 30"
        )
    drawn = draw_points(plan.spaces, plan.trials) if plan.spaces else [{}]
    return [{**point, **sample} for point in span(plan.axes) for sample in drawn]


def place_trial(trial: Trial, point: Point) -> Trial:
    """The trial at a point that a search has chosen. UserError where no experiment can be there."""
    origins = {**trial.origins, **dict.fromkeys(point, "--sample")}
    return replace(
        trial, experiment=f"{trial.experiment} {describe_point(point)}", config=place_config(trial.config, point),
        axes=point, origins=origins,
    )  # fmt: skip


def place_config(config: ExperimentConfig, point: Point) -> ExperimentConfig:
    """A trial's experiment at a point, with the point in its name."""
    end = f"-seed{config.training.seed}"
    name = f"{config.name.removesuffix(end)}{name_point(point)}{end}"
    return override(config, {**point, "name": name}, source=name)


def list_differences(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Of each trial, the dotted keys and values in which the grid's trials differ."""
    values = [flatten(as_values(trial.config)) for trial in trials]
    told = ("name", "goal", "training.seed")
    keys = [k for k in values[0] if k not in told and len({repr(each[k]) for each in values}) > 1]
    return [{key: each[key] for key in keys} for each in values]


def describe_published(trials: Sequence[Trial]) -> list[str]:
    """Differences between rows with a published name and the published setting, in words."""
    named = [trial for trial in trials if trial.experiment in ROUND1]
    if not named:
        return []
    published = flatten(as_values(load_published(named[0].experiment)))
    actual = flatten(as_values(named[0].config))
    place = {"name", "goal", "save_dir", "data.dataset_dir", "tracking.group", "training.seed", "training.threads"}
    keys = [key for key in published if published[key] != actual[key] and key not in place]
    if not keys:
        return []
    shown = ", ".join(f"{key} {show_value(actual[key])} (published: {show_value(published[key])})" for key in keys[:3])
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    option = "--scale published --arch mlp --targets published has them"
    return [f"published numbers are of another setting: here {shown}{more}; {option}"]


@cache
def load_published(name: str) -> ExperimentConfig:
    """The setting of a published row."""
    mlp = Layer.of("published", {"model.arch": "mlp", "encoding.targets": "published"})
    path = FOLDER / f"{name}.yaml"
    return resolve_layers(read_layers(path), "published", [mlp], source=str(path)).config


def _read_sources(names: Sequence[str]) -> list[_Source]:
    """The experiments of a grid, each once. UserError where a name is none, or two files have one name."""
    paths = list(dict.fromkeys(path for name in names for path in _find_files(name)))
    if not paths:
        raise UserError("no experiment is named: name files, or experiments of Round 1")
    sources: dict[str, _Source] = {}
    for path in paths:
        source = _Source(path=path, layers=read_layers(path))
        if other := sources.get(source.name):
            raise UserError(f"{other.path} and {path} are both called {source.name!r}: give one another `name:`")
        sources[source.name] = source
    return list(sources.values())


def _find_files(name: str) -> Iterator[Path]:
    path = Path(name)
    if _GLOB & set(name):
        found = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor) if path.anchor else path)))
        if not found:
            raise UserError(f"{name}: no file has such a name")
        yield from found
    elif path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        yield path
    elif (FOLDER / f"{name}.yaml").exists():
        yield FOLDER / f"{name}.yaml"
    else:
        known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
        hint = nearest(name, known) or f"; there are {', '.join(known)}, or name a file"
        raise UserError(f"unknown experiment {name!r}{hint}")


def _make_trial(source: _Source, point: Point, seed: int, plan: GridPlan) -> Trial:
    named = dict.fromkeys(plan.axes, "--vary") | dict.fromkeys(plan.spaces, "--sample")
    layers = [Layer.of("--set", plan.settings), Layer.of("option", plan.options)]
    layers += [
        Layer.of(option, {k: v for k, v in point.items() if named[k] == option}) for option in ("--vary", "--sample")
    ]
    place = {**plan.place, "name": f"{source.name}{name_point(point)}-seed{seed}", "training.seed": seed}
    layers.append(Layer.of("grid", place))
    found = resolve_layers(source.layers, plan.scale, layers, source=str(source.path), below=plan.below)
    label = " ".join(
        [source.name, *_find_deviations(source.name, found, point), *filter(None, [describe_point(point)])]
    )
    return Trial(experiment=label, seed=seed, config=found.config, axes=point, origins=found.origins, notes=found.notes)


def _find_deviations(name: str, found: Resolved, point: Point) -> list[str]:
    """Encodings that are not those of Round 1's experiment of that name; a row's name shows them."""
    if name not in ROUND1:
        return []
    published, actual = (flatten({"encoding": as_values(c)["encoding"]}) for c in (load_published(name), found.config))
    keys = [k for k in published if published[k] != actual[k] and k not in point and k != "encoding.targets"]
    return [f"({describe_point({key: actual[key] for key in keys})})"] if keys else []


def _check_different(trials: Sequence[Trial]) -> None:
    """UserError where two trials would train the same thing."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        other = seen.setdefault(identify(trial.config), trial)
        if other is not trial:
            raise UserError(
                f"{other.name} and {trial.name} would train the same thing: the settings in which they should differ "
                "are equal, or nothing reads them; leave one out, or change --set and --vary"
            )


def identify(config: ExperimentConfig) -> str:
    """Text that is equal for experiments that train the same thing."""
    values = flatten(as_values(config))
    unused = {
        *_UNUSED.get(config.model.arch, ()),
        *_UNUSED.get(config.training.mode, ()),
        *OWN.keys() - {"training.seed"},
    }
    if config.training.schedule != "cosine":
        unused.add("training.warmup_pct")
    kept = {k: v for k, v in values.items() if k not in unused and not k.startswith("tracking.")}
    if not config.self_forcing.enabled:
        kept = {k: v for k, v in kept.items() if not k.startswith("self_forcing.")}
    return repr(kept)
