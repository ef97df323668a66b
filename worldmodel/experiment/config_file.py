"""Experiment files: strict reading, complete writing.

A file is either understood wholly or refused with every problem it has, each with its dotted key: what was found, what
was expected, and the known key that comes nearest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from worldmodel.errors import UserError, nearest
from worldmodel.experiment.config import ExperimentConfig, find_conflicts
from worldmodel.experiment.config_keys import REFUSED, RENAMED, find_fixed_keys

_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_SHARE = re.compile("_acc|/cat_|_possible")
"""In the names of metrics of which a larger one is better."""
_TEXT_RULES = {
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-', the first a letter or digit (a file that gives no "
    "`name:` is called by its own name: write `name: NAME` into it; one run: `worldmodel train FILE --run-name NAME`)",
    "string_too_short": "a text that is not empty",
}


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 5e-4 as a number (YAML 1.2), which PyYAML takes for a text, and says where a value is
    impossible, such as the date 2026-02-30."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
            what = f"{node.value!r} is no {node.tag.rpartition(':')[2]} ({error})"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """The writer that quotes what `_Loader` would take for a number."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))  # type: ignore[attr-defined]


def read_experiment(text: str, *, source: str, name: str = "unnamed") -> ExperimentConfig:
    """The experiment of a YAML text; `source` is what errors call it, `name` the run's name if the text has none."""
    values, duplicates = parse_experiment(text, source=source)
    return resolve_experiment({"name": name, **values}, source=source, problems=duplicates)


def parse_experiment(text: str, *, source: str) -> tuple[dict[str, Any], list[str]]:
    """The values of a YAML text, section by section, and a line for each key that it sets twice.

    Raises:
        UserError: the text is no YAML, or has no sections.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        duplicates = list(_find_duplicates(node)) if node else []
        values = loader.construct_document(node) if node else None
        json.dumps(values, default=str)  # refuses what holds itself, and keys that are no names
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UserError(f"{source}: not valid YAML: {error}") from None
    if not isinstance(values, dict) or not values:
        raise UserError(f"{source}: found {_quote(values)}, expected sections such as `model:` and `training:`")
    return values, duplicates


def read_value(text: str, *, source: str) -> Any:
    """One value of an experiment, as its file would give it. UserError where the text is none."""
    try:
        value = _Loader(text).get_single_data()
        json.dumps(value, default=str)  # as above
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise UserError(f"{source}: the value is no YAML: {error}") from None
    return value


def resolve_experiment(
    values: Mapping[str, Any], *, source: str, problems: list[str] | None = None
) -> ExperimentConfig:
    """The one gate to an `ExperimentConfig`: nested plain values, checked, completed with defaults.

    Args:
        values: section to key to value, as YAML or JSON gives them; what is absent takes its default.
        source: what an error's first line names (a file, a preset, a trial).
        problems: what is known to be wrong already; reported together with the rest.

    Raises:
        UserError: everything that is wrong, one line for each problem.
    """
    found = list(problems or ())
    known = _keep_known(values, found)
    config = _validate(infer(known), found)
    found += find_conflicts(config) if config else ()
    if config is None or found:
        count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise UserError("\n  ".join([f"{source}: {count}", *found]))
    return config


def override(config: ExperimentConfig, changes: Mapping[str, Any], *, source: str = "overrides") -> ExperimentConfig:
    """The experiment with some dotted keys ("training.lr") set; checked like a file, so `{}` checks `config` itself."""
    values = as_values(config)
    problems = []
    for key, value in changes.items():
        *section, name = key.split(".")
        inner = values.get(section[0], {}) if section else values
        if len(section) > 1 or not isinstance(inner, dict):
            problems.append(f"{key}: unknown key{nearest(key, flatten(as_values(ExperimentConfig())))}")
        elif section:
            values[section[0]] = {**inner, name: value}
        else:
            values[name] = value
    return resolve_experiment(values, source=source, problems=problems)


def to_yaml(config: ExperimentConfig, origins: Mapping[str, str] | None = None) -> str:
    """The experiment as a complete YAML file, defaults included; reading it gives `config` back.

    `origins`: dotted key to where its value comes from; stands behind each value as a comment.
    """
    width = 120 if origins is None else math.inf  # a folded text has no room for a comment
    text = str(yaml.dump(as_values(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width))
    return text if origins is None else _annotate(text, origins)


def _annotate(text: str, origins: Mapping[str, str]) -> str:
    lines, section = [], ""
    for line in text.splitlines():
        found = re.match(r"( *)(\w+):( |$)", line)
        key = f"{section}.{found[2]}" if found and found[1] else found[2] if found else ""
        section = found[2] if found and not found[1] else section
        is_whole = not re.search(r"""['"]""", line) or line.endswith(("'", '"'))  # a text goes on in the next line
        lines.append(f"{line:<40}  # {origins[key]}" if key in origins and is_whole else line)
    return "\n".join(lines) + "\n"


def describe_changes(config: ExperimentConfig) -> list[tuple[str, Any, Any]]:
    """(dotted key, default, value) of every setting that differs from its default; name and goal are no settings."""
    default, actual = (flatten(as_values(c)) for c in (ExperimentConfig(), config))
    return [(k, default[k], v) for k, v in actual.items() if v != default[k] and k not in ("name", "goal")]


def list_keys() -> tuple[str, ...]:
    """Every dotted key that a file may set, in file order."""
    return tuple(flatten(as_values(ExperimentConfig())))


@cache
def _adapter() -> TypeAdapter:  # bare: beartype knows no subscripted one
    return TypeAdapter(ExperimentConfig)


@cache
def _sections() -> dict[str, frozenset[str]]:
    """Section name to its keys; "" stands for the top level."""
    hints = typing.get_type_hints(ExperimentConfig)
    inner = {f.name: hints[f.name] for f in dataclasses.fields(ExperimentConfig)}
    found = {
        n: frozenset(f.name for f in dataclasses.fields(t)) for n, t in inner.items() if dataclasses.is_dataclass(t)
    }
    return {"": frozenset(inner), **found}


def as_values(config: ExperimentConfig) -> dict[str, Any]:
    """The experiment as plain values, section by section."""
    values = dataclasses.asdict(config)
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]  # tuples become lists, as in YAML


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key to value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _find_duplicates(node: yaml.Node, prefix: str = "", depth: int = 2) -> Iterator[str]:
    if not isinstance(node, yaml.MappingNode) or not depth:
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        dotted, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if dotted in lines:
            yield f"{dotted}: found twice (lines {lines[dotted]} and {line}), expected once"
        lines[dotted] = line
        yield from _find_duplicates(value, f"{dotted}.", depth - 1)


def _keep_known(values: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """The settings among `values`; every other key is judged and dropped."""
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _sections()[""]:
            problems.append(_judge_unknown("", name))
        elif name in _sections() and isinstance(value, dict | None):
            known[name] = {k: v for k, v in (value or {}).items() if _is_setting(name, k, v, problems)}
        else:
            known[name] = value
    return known


def _is_setting(section: str, key: Any, value: Any, problems: list[str]) -> bool:
    dotted = f"{section}.{key}"
    fixed = find_fixed_keys()
    if key in _sections()[section]:
        return True
    if dotted in REFUSED:
        problems.append(f"{dotted}: nothing here reads it ({REFUSED[dotted]}); remove the line")
    elif dotted not in fixed:
        problems.append(_judge_unknown(section, key))
    elif isinstance(value, bool) or value != fixed[dotted]:
        problems.append(f"{dotted}: found {_quote(value)}, expected {fixed[dotted]}: the schema fixes it")
    return False


def _judge_unknown(section: str, key: Any) -> str:
    dotted = f"{section}.{key}" if section else str(key)
    home = [f"{other}.{key}" if other else str(key) for other, keys in _sections().items() if key in keys]
    known = {k.removeprefix(f"{section}.") for k in find_fixed_keys() if k.startswith(f"{section}.")}
    hint = f" (did you mean {home[0]!r}?)" if home else nearest(str(key), sorted(_sections()[section] | known))
    return f"{dotted}: unknown key{hint}"


def infer(values: Mapping[str, Any], *, is_file: bool = True) -> dict[str, Any]:
    """The values with what a users' file implies: no device, no limit, an MLP by its sizes (only in a file), windows by
    the MLP, the best mode by the best metric."""
    known = dict(values)
    data, model, training = (known.get(name) or {} for name in ("data", "model", "training"))
    if not all(isinstance(section, dict) for section in (data, model, training)):
        return known
    if data.get("max_games") == 0 and not isinstance(data["max_games"], bool):
        known["data"] = {**data, "max_games": None}
    sizes = set(model) if is_file and "arch" not in model else set()
    if {"hidden_dim", "trunk_dim"} & sizes and not {"d_model", "n_layers"} & sizes:
        known["model"] = model = {**model, "arch": "mlp"}
    if "best_mode" not in training and isinstance(metric := training.get("best_metric"), str):
        training = {**training, "best_mode": "max" if _SHARE.search(metric) else "min"}
    if training.get("device", "") is None:
        training = {**training, "device": "auto"}
    if model.get("arch") == "mlp" and "mode" not in training:
        training = {**training, "mode": "window"}
    if training:
        known["training"] = training
    return known


def _validate(known: dict[str, Any], problems: list[str]) -> ExperimentConfig | None:
    """The experiment; where values are wrong, the one without them, so that its conflicts are found as well."""
    try:
        config: ExperimentConfig = _adapter().validate_json(json.dumps(known, default=str), strict=True)
        return config
    except UserError as error:
        problems.append(str(error))
    except ValidationError as error:
        wrong = _explain(error, known)
        problems += wrong.values()
        return _validate(_drop(known, set(wrong)), problems)
    return None


def _drop(values: Mapping[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if f"{prefix}{name}" not in keys}
    return {n: _drop(v, keys, f"{n}.") if isinstance(v, dict) and not prefix else v for n, v in kept.items()}


def _explain(error: ValidationError, known: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key to its line: a union's several complaints about one value become one."""
    expected: dict[tuple[str, ...], list[str]] = {}
    for item in error.errors():
        path = tuple(str(part) for part in item["loc"])
        path = path[:2] if path[0] in _sections() else path[:1]
        rule = _TEXT_RULES.get(item["type"], item["msg"].removeprefix("Input should be "))
        if item["type"] == "literal_error":
            renamed = RENAMED.get((".".join(path), str(item["input"])))
            own = nearest(str(item["input"]), re.findall(r"'([^']*)'", rule))
            rule += f"; what it was is called {renamed!r} now" if renamed else own
        expected.setdefault(path, []).append("a section of keys" if item["type"] == "dataclass_type" else rule)
    return {
        ".".join(path): f"{'.'.join(path)}: found {_quote(_pick(known, path))}, "
        f"expected {' or '.join(dict.fromkeys(rules))}"
        for path, rules in expected.items()
    }


def _pick(values: Any, path: tuple[str, ...]) -> Any:
    return _pick(values[path[0]], path[1:]) if path else values


def _quote(value: Any) -> str:
    return json.dumps(value, default=str)
