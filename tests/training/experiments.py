"""Random valid experiments: a strategy for every setting, derived from its annotation."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any, Literal, Union

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from worldmodel.experiment.config import ExperimentConfig

METRICS = st.sampled_from(["val_loss/total", "val_metric/position_mae", "eval/summary_pos_mae_k10_n64"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1)
NUMBERLIKE = st.sampled_from(["5e-4", "1e9", "12", "0x1f", "true", "null", "2024-01-01", "1.5", "no", "1_000"])
CONSTRAINED: dict[str, st.SearchStrategy[Any]] = {
    "name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z") | NUMBERLIKE.filter(str.isalnum),
    "best_metric": METRICS,
    "enabled": st.just(False),
    "headdim": st.just(1),
    "lookahead": st.integers(0, 5),
}
"""Settings whose bounds lie beyond their annotation."""


def experiments() -> st.SearchStrategy[ExperimentConfig]:
    """Valid experiments of every kind."""
    return _of_type(ExperimentConfig).map(_match_mode)


def settings_of(key: str) -> st.SearchStrategy[Any]:
    """Valid values of the setting with this dotted key."""
    owner: Any = ExperimentConfig
    *section, name = key.split(".")
    for part in section:
        owner = typing.get_type_hints(owner)[part]
    return _of_setting(name, typing.get_type_hints(owner, include_extras=True)[name])


def _match_mode(config: ExperimentConfig) -> ExperimentConfig:
    if config.model.arch != "mlp":
        return config
    return dataclasses.replace(config, training=dataclasses.replace(config.training, mode="window"))


def _of_setting(name: str, kind: Any) -> st.SearchStrategy[Any]:
    return CONSTRAINED[name] if name in CONSTRAINED else _of_type(kind)


def _of_type(kind: Any) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        parts = {f.name: _of_setting(f.name, hints[f.name]) for f in dataclasses.fields(kind)}
        return st.builds(typing.cast(type, kind), **parts)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*(_of_type(part) for part in arguments))
    if origin is tuple:
        return st.lists(_of_type(arguments[0]), max_size=3).map(tuple)
    return {bool: st.booleans(), int: st.integers(0, 2**40), str: TEXTS | NUMBERLIKE, type(None): st.none()}[kind]


def _bounded(kind: type, bounds: FieldInfo) -> st.SearchStrategy[Any]:
    limits = {name: getattr(m, name) for m in bounds.metadata for name in ("ge", "gt", "lt") if hasattr(m, name)}
    low, high = limits.get("ge", limits.get("gt")), limits.get("lt")
    if kind is int:
        most = next((m.le for m in bounds.metadata if hasattr(m, "le")), 2**40)
        return st.integers(low, most)
    if kind is float:
        more = {"exclude_min": "gt" in limits, "exclude_max": high is not None}
        return st.floats(low, high, allow_nan=False, allow_infinity=False, **more)
    return TEXTS | NUMBERLIKE
