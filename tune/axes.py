"""Axes of a grid: listed values (`--vary`) and ranges (`--sample`) of settings, and the points that they span."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldmodel.errors import UserError, nearest
from worldmodel.experiment.config_file import read_value
from worldmodel.experiment.layers import check_key

OWN = {
    "name": "it is made of what differs", "goal": "set it in the file", "save_dir": "use --storage",
    "training.seed": "use --seeds", "data.dataset_dir": "use --data",
}  # fmt: skip
"""Settings that the grid makes itself, and what to do instead."""
RANGES = ("uniform", "loguniform", "randint", "lograndint")
"""Ray Tune's search spaces of two bounds; the upper one of randint and lograndint is excluded."""
DIGITS = 4
"""Significant digits of a sampled number: what a name shows is what is trained."""
TRIES = 100
"""Draws for each point that is wanted; a space with fewer different points is refused."""
LARGEST = 2**53
"""Largest bound of randint and lograndint: above it, sampling would round whole numbers."""
Point = dict[str, Any]
"""Dotted keys and values."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """The values of one setting to sample from."""

    key: str
    kind: str
    """A name in Ray Tune: uniform, loguniform, randint, lograndint or choice."""
    bounds: tuple[Any, ...]

    @property
    def domain(self) -> Any:
        """Ray Tune's own search space."""
        from ray import tune

        return tune.choice(list(self.bounds)) if self.kind == "choice" else getattr(tune, self.kind)(*self.bounds)


def read_axes(options: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The values of each axis, from "KEY=VALUE,VALUE". UserError where one is no axis."""
    found: dict[str, tuple[Any, ...]] = {}
    for option in options:
        key, text = _split("--vary", option, found, "training.lr=1e-3,2e-3")
        values = _read_list(text, f"--vary {option}")
        if not values:
            raise UserError(f"--vary {option}: found no value, expected values between commas")
        if twice := [value for place, value in enumerate(values) if value in values[:place]]:
            raise UserError(f"--vary {option}: found {show_value(twice[0])} twice, expected once")
        found[key] = tuple(values)
    return found


def read_spaces(options: Sequence[str]) -> dict[str, Space]:
    """The spaces to sample from, from "KEY=loguniform(LOW,HIGH)". UserError where one is no space."""
    found: dict[str, Space] = {}
    for option in options:
        key, text = _split("--sample", option, found, "training.lr=loguniform(1e-3,2e-2)")
        call = re.fullmatch(r"\s*(\w+)\((.*)\)\s*", text)
        kinds = (*RANGES, "choice")
        if call is None or call[1] not in kinds:
            hint = nearest(call[1], kinds) if call else ""
            raise UserError(f"--sample {option}: expected one of {', '.join(f'{k}(...)' for k in kinds)}{hint}")
        bounds = tuple(_read_list(call[2], f"--sample {option}"))
        _check_bounds(option, call[1], bounds)
        found[key] = Space(key=key, kind=call[1], bounds=bounds)
    return found


def span(axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """All combinations of the axes' values; without axes one empty point."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def draw_points(spaces: Mapping[str, Space], count: int, seed: int = 0) -> list[Point]:
    """Different random points, the same for the same seed. UserError where there are fewer."""
    random = np.random.RandomState(seed)
    found: dict[str, Point] = {}
    for _ in range(TRIES * count):
        point = {key: round_value(space.domain.sample(random_state=random)) for key, space in spaces.items()}
        found.setdefault(repr(point), point)
        if len(found) == count:
            return list(found.values())
    raise UserError(f"--trials {count}: the --sample options give {len(found)} different points; ask for fewer")


def round_value(value: Any) -> Any:
    """A sampled value as it is trained and shown."""
    if isinstance(value, bool) or not isinstance(value, float | np.number):
        return value
    return int(value) if isinstance(value, np.integer) else float(f"{float(value):.{DIGITS}g}")


def list_ends(spaces: Mapping[str, Space]) -> list[Point]:
    """Points near both ends of each range, one setting at a time: a search may go there."""
    found: list[Point] = []
    for key, space in spaces.items():
        low, high = space.bounds[0], space.bounds[-1]
        inside = space.bounds if space.kind == "choice" else (low, high - 1)
        if "uniform" in space.kind:  # an end itself may be excluded
            inside = (low + (high - low) / 1000, high - (high - low) / 1000)
        found += [{key: round_value(value)} for value in inside]
    return found


def describe_point(point: Mapping[str, Any]) -> str:
    """For a table: "lr=0.001 d_model=128"."""
    return " ".join(f"{shorten(key, point)}={show_value(value)}" for key, value in point.items())


def name_point(point: Mapping[str, Any]) -> str:
    """For a folder's name: "-lr_0.001-d_model_128"; empty for an empty point."""
    parts = (f"{shorten(key, point)}_{show_value(value)}" for key, value in point.items())
    return "".join(f"-{re.sub(r'[^A-Za-z0-9.-]+', '_', part).strip('_')}" for part in parts)


def shorten(key: str, keys: Mapping[str, Any]) -> str:
    """A key without its section, where that is enough to tell it from the other keys."""
    name = key.rpartition(".")[2]
    return name if sum(other.rpartition(".")[2] == name for other in keys) == 1 else key


def show_value(value: Any) -> str:
    """A value as in a file, in one short word."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _split(name: str, option: str, found: Mapping[str, Any], example: str) -> tuple[str, str]:
    key, equals, text = (part.strip() for part in option.partition("="))
    if not equals:
        raise UserError(f"{name} {option}: expected a key and its values, as {example}: there is no '='")
    if key in OWN:
        raise UserError(f"{name} {option}: {key} is the grid's own to set: {OWN[key]}")
    check_key(key, name)
    if key in found:
        raise UserError(f"{name} {key}: found twice, expected all its values in one {name}")
    return key, text


def _read_list(text: str, source: str) -> list[Any]:
    values = read_value(f"[{text}]", source=source)
    if not isinstance(values, list):
        raise UserError(f"{source}: expected values between commas")
    return values


def _check_bounds(option: str, kind: str, bounds: tuple[Any, ...]) -> None:
    """UserError for a space without at least two values."""
    if kind == "choice":
        if len({repr(bound) for bound in bounds}) < max(2, len(bounds)):
            raise UserError(f"--sample {option}: expected two or more different values")
        return
    is_number = len(bounds) == 2 and all(_is_finite(bound) for bound in bounds)
    if not is_number or ("int" in kind and not all(isinstance(bound, int) for bound in bounds)):
        what = "whole numbers" if "int" in kind else "finite numbers"
        raise UserError(f"--sample {option}: expected {kind}(LOW,HIGH) with two {what}")
    if kind.startswith("log") and bounds[0] <= 0:
        raise UserError(f"--sample {option}: a logarithmic range needs a lower end above 0, found {bounds[0]}")
    if "int" in kind and max(map(abs, bounds)) > LARGEST:
        raise UserError(f"--sample {option}: expected whole numbers of at most {LARGEST}")
    if bounds[0] >= bounds[1]:
        raise UserError(
            f"--sample {option}: an empty range, expected LOW below HIGH, found {bounds[0]} and {bounds[1]}"
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
