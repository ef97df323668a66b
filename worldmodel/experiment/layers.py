"""Layers of an experiment: built-in defaults < scale < experiment file < `--set` < `--vary`. The later one wins.

Each value of the resolved experiment has an origin: the layer that set it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError, nearest
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import (
    flatten,
    infer,
    list_keys,
    parse_experiment,
    read_value,
    resolve_experiment,
)  # fmt: skip
from worldmodel.experiment.scales import NO_SCALE, RECOMMENDED, find_scale, scale_values

DEFAULT = "default"
"""Origin of a value that no layer sets."""
EXTENDS = "extends"
"""Key of an experiment file that names the file whose values hold where it says nothing itself."""
DEEPEST = 20
"""Files that an experiment may extend, one after another."""
SCALE = "scale"
"""Key of an experiment file that names the scale of `train`, `plan` and `config` if the command names none."""
_SHOWN = 3
"""Values that the note on a scale lists by name."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Values that one source sets."""

    origin: str
    """Name of the source for people, such as "1a.yaml", "scale laptop" or "--set"."""
    values: Mapping[str, Any]
    """Section to key to value, as in a file."""
    problems: tuple[str, ...] = ()
    """Faults found while reading it."""
    scale: str = NO_SCALE
    """The scale that a file names for commands which are told none."""

    @classmethod
    def of(cls, origin: str, dotted: Mapping[str, Any]) -> Layer:
        """A layer of dotted keys ("training.lr")."""
        values: dict[str, Any] = {}
        for key, value in dotted.items():
            section, dot, name = key.partition(".")
            if dot:
                values.setdefault(section, {})[name] = value
            else:
                values[key] = value
        return cls(origin=origin, values=values)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A complete experiment, with the origin of each value."""

    config: ExperimentConfig
    origins: Mapping[str, str]
    """Dotted key to the origin of its value; a key that is not listed has its built-in default."""
    notes: tuple[str, ...] = ()
    """What people should know before it runs, a line each."""


def resolve_file(path: str | Path, scale: str = NO_SCALE, more: Sequence[Layer] = ()) -> Resolved:
    """An experiment file on a scale (if none is named, the file's own), with layers above the file.

    Raises:
        UserError: the file, a file that it extends, the scale or a layer is wrong.
    """
    file = read_layers(path)
    scale = scale or next((layer.scale for layer in reversed(file) if layer.scale), NO_SCALE)
    return resolve_layers(file, scale, more, source=str(path))


def load_experiment(path: str | Path, scale: str = NO_SCALE) -> ExperimentConfig:
    """The experiment of a file on a scale, complete. UserError as `resolve_file`."""
    return resolve_file(path, scale).config


def resolve_layers(
    file: Sequence[Layer], scale: str = NO_SCALE, more: Sequence[Layer] = (), *, source: str,
    below: Mapping[str, Any] | None = None,
) -> Resolved:  # fmt: skip
    """The experiment of a file's layers on a scale.

    Args:
        file: as `read_layers` gives them.
        scale: name of the scale.
        more: layers above the file, the weakest first.
        source: name of the file in messages.
        below: dotted keys that the command sets below the file, as for toy games.

    Raises:
        UserError: all faults in one message.
    """
    scale = find_scale(scale)
    upper = [*(_infer(layer) for layer in file), *(_infer(layer, is_file=False) for layer in more)]
    arch = next((layer.values["model"]["arch"] for layer in reversed(upper) if _sets_arch(layer)), "mamba2")
    own = Layer.of(f"scale {scale}", scale_values(scale, arch))
    layers = [own, Layer.of("the command's default", below or {}), *upper]
    values, origins = _merge(layers)
    if isinstance(model := values.setdefault("model", {}), dict):
        model.setdefault("arch", arch)  # sizes alone decide it in a file only
    try:
        config = resolve_experiment(values, source=source, problems=[p for layer in file for p in layer.problems])
    except UserError as error:
        raise UserError(_name_origins(str(error), origins)) from None
    known = {key: origins[key] for key in list_keys() if key in origins}
    return Resolved(config=config, origins=known, notes=_note_scale(own, upper[: len(file)], source))


def complete_origins(origins: Mapping[str, str]) -> dict[str, str] | None:
    """The origins of all keys; None if none are known."""
    return {key: origins.get(key, DEFAULT) for key in list_keys()} if origins else None


def read_layers(path: str | Path, above: tuple[Path, ...] = ()) -> list[Layer]:
    """The layers of an experiment file: the files that it extends, then itself. Its stem names the run unless it does.

    Raises:
        UserError: a file is missing, unreadable, or extends itself.
    """
    path = Path(path)
    if path.resolve() in [other.resolve() for other in above]:
        circle = " -> ".join(map(str, (*above, path)))
        raise UserError(f"{above[0]}: `extends` goes in a circle: {circle}; remove one of them")
    if len(above) > DEEPEST:
        raise UserError(f"{above[0]}: more than {DEEPEST} files extend one another: expected a few")
    values, problems = parse_experiment(_read(path, above), source=str(path))
    base = values.pop(EXTENDS, None)
    if not isinstance(base, str | None) or base == "":
        raise UserError(f"{path}: {EXTENDS}: found {base!r}, expected the path of another experiment file")
    below = read_layers(path.parent / base, (*above, path)) if base else []
    scale = values.pop(SCALE, NO_SCALE)
    if not isinstance(scale, str):
        raise UserError(f"{path}: {SCALE}: found {scale!r}, expected the name of a scale")
    scale = find_scale(scale, f"{path}: {SCALE}:")
    if not above:
        values = {"name": path.stem, **values}
    else:
        values.pop("name", None)
    return [*below, Layer(origin=path.name, values=values, problems=tuple(problems), scale=scale)]


def read_settings(settings: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """Dotted keys and values of "KEY=VALUE"s, read as in a file. UserError for other texts, and for a repeated key."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            lack = "nothing before '='" if equals else "no '='"
            raise UserError(f"{option} {setting}: expected a key and its value, as training.lr=0.001: there is {lack}")
        value = read_value(text, source=f"{option} {setting}")
        if key in found:
            raise UserError(f"{option} {key}: found twice ({found[key]!r} and {value!r}), expected once")
        found[key] = value
    return found


def check_key(key: str, option: str) -> None:
    """UserError for a dotted key that no experiment has."""
    if key not in list_keys():
        raise UserError(f"{option} {key}: unknown key{nearest(key, list_keys())}")


def check_once(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> None:
    """UserError where two options set the same key."""
    if shared := sorted(first.keys() & second.keys()):
        raise UserError(f"{shared[0]} is set by {names[0]} and by {names[1]}: expected one of them")


def _read(path: Path, above: Sequence[Path]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        found = nearest(path.name, (other.name for other in path.parent.glob("*.y*ml")))
        who = f"{above[-1]}: {EXTENDS}: {path}" if above else f"{path}"
        raise UserError(f"{who}: no such experiment file{found}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None


def _infer(layer: Layer, *, is_file: bool = True) -> Layer:
    return replace(layer, values=infer(layer.values, is_file=is_file))


def _sets_arch(layer: Layer) -> bool:
    model = layer.values.get("model")
    return isinstance(model, dict) and "arch" in model


def _merge(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of all layers and their origins; an empty section changes nothing."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.values.items():
            below = values.get(name)
            if isinstance(below, dict) and isinstance(value, dict | None):
                values[name] = {**below, **(value or {})}
            elif not isinstance(value, dict) or below is None:  # what is no section stays, to be refused
                values[name] = value
        origins |= dict.fromkeys(flatten(layer.values), layer.origin)
    return values, origins


def _name_origins(message: str, origins: Mapping[str, str]) -> str:
    """Each line about a key with the layer that set it."""
    lines = []
    for line in message.split("\n"):
        key = re.match(r"  ([\w.]+): ", line)
        origin = origins.get(key[1], "") if key else ""
        lines.append(f"{line} ({origin})" if origin and not origin.endswith((".yaml", ".yml")) else line)
    return "\n".join(lines)


def _note_scale(scale: Layer, file: Sequence[Layer], source: str) -> tuple[str, ...]:
    """The values that a file keeps from its scale, in one line."""
    scaled, own = flatten(scale.values), _merge(file)[0]
    kept = {key: value for key, value in flatten(own).items() if key in scaled and value != scaled[key]}
    if not scale.values and RECOMMENDED.keys() - flatten(own).keys():
        return (f"{source} on no scale has the published heads and loss; --scale full, laptop or a GPU's has ours",)
    if not kept:
        return ()
    shown = ", ".join(f"{key} {value} (not {scaled[key]})" for key, value in list(kept.items())[:_SHOWN])
    more = f" and {len(kept) - _SHOWN} more" if len(kept) > _SHOWN else ""
    return (f"{source} wins over {scale.origin}: {shown}{more}; remove lines from the file to take the scale's values",)
