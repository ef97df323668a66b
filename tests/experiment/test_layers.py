"""Layers of an experiment: the later one wins, and each value has an origin."""

from __future__ import annotations

import dataclasses
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.experiments import settings_of
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import list_keys, read_experiment, to_yaml
from worldmodel.experiment.layers import (
    Layer,
    Resolved,
    complete_origins,
    load_experiment,
    read_layers,
    read_settings,
    resolve_file,
    resolve_layers,
)
from worldmodel.experiment.scales import SCALES
from worldmodel.redaction import hide_secrets

FREE = [
    key for key in list_keys()
    if key not in ("name", "model.arch", "training.mode", "training.best_mode") and not key.startswith("self_forcing.")
]  # fmt: skip
"""Keys whose values are valid whatever the others are."""


def get(found: Resolved, key: str) -> Any:
    value = reduce(getattr, key.split("."), found.config)
    return list(value) if isinstance(value, tuple) else value


@given(st.data(), st.sampled_from(sorted(SCALES)), st.sampled_from(["mamba2", "mlp"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_file_wins_over_every_scale(data: st.DataObject, scale: str, arch: str) -> None:
    keys = data.draw(st.lists(st.sampled_from(FREE), unique=True, max_size=8))
    values = {key: data.draw(settings_of(key)) for key in keys}
    file = Layer.of("a.yaml", {"name": "a", "model.arch": arch, "model.headdim": 1, **values})
    found = resolve_layers([file], scale, source="a.yaml")
    for key, value in values.items():
        assert get(found, key) == (list(value) if isinstance(value, tuple) else value), key
        assert found.origins[key] == "a.yaml"


@given(st.data(), st.sampled_from(sorted(SCALES)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_last_layer_wins_and_is_the_origin(data: st.DataObject, scale: str) -> None:
    key = data.draw(st.sampled_from(FREE))
    values = [data.draw(settings_of(key)) for _ in range(3)]
    count = data.draw(st.integers(1, 3))
    names = ("a.yaml", "--set", "--vary")
    first, *more = (Layer.of(name, {key: value}) for name, value in zip(names, values[:count], strict=False))
    found = resolve_layers([Layer.of("base.yaml", {"model.headdim": 1}), first], scale, more, source="a.yaml")
    expected = values[count - 1]
    assert get(found, key) == (list(expected) if isinstance(expected, tuple) else expected)
    assert found.origins[key] == names[count - 1]


@pytest.mark.parametrize("scale", SCALES)
def test_a_stored_experiment_resolves_to_itself_on_every_scale(tmp_path: Path, scale: str) -> None:
    config = dataclasses.replace(load_experiment(write(tmp_path, "a", model={"d_model": 128}), "laptop"), name="a")
    (tmp_path / "a.yaml").write_text(to_yaml(config))
    assert load_experiment(tmp_path / "a.yaml", scale) == config


def write(folder: Path, name: str, /, **values: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_file_takes_the_rest_from_the_file_it_extends(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path, "base", name="base", training={"lr": 0.1, "clip": 3.0}, data={"max_games": 7})
    write(tmp_path / "deep", "middle", extends="../base.yaml", training={"lr": 0.2})
    found = resolve_file(write(tmp_path, "top", extends="deep/middle.yaml", training={"weight_decay": 0.5}), "laptop")
    training = found.config.training
    assert (training.lr, training.clip, training.weight_decay, found.config.name) == (0.2, 3.0, 0.5, "top")
    assert [found.origins[f"training.{key}"] for key in ("lr", "clip", "weight_decay", "batch_size")] == [
        "middle.yaml", "base.yaml", "top.yaml", "scale laptop",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a": {"extends": "a.yaml"}}, "in a circle"),
        ({"a": {"extends": "b.yaml"}, "b": {"extends": "a.yaml"}}, r"a\.yaml -> .*b\.yaml -> .*a\.yaml"),
        ({"a": {"extends": "bse.yaml"}, "base": {"goal": "x"}}, r"no such experiment file \(did you mean 'base.yaml'"),
        ({"a": {"extends": ["base.yaml"]}}, "expected the path of another experiment file"),
        ({"a": {"extends": "base.yaml"}, "base": {"training": {"lrr": 1}}}, "training.lrr: unknown key"),
        ({"a": {"training": {"lr": 0}}}, r"a\.yaml: 1 problem\n  training\.lr: found 0"),
    ],
)
def test_a_wrong_file_is_one_message(tmp_path: Path, files: dict[str, dict[str, Any]], said: str) -> None:
    for name, values in files.items():
        write(tmp_path, name, **values)
    with pytest.raises(UserError, match=said):
        resolve_file(tmp_path / "a.yaml")


def test_an_unknown_scale_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--scale laptob: unknown scale"):
        resolve_file(write(tmp_path, "a", goal="x"), "laptob")


def test_a_wrong_value_names_the_layer_that_set_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.lr: found -1.*\(--set\)"):
        resolve_file(write(tmp_path, "a", goal="x"), "laptop", [Layer.of("--set", {"training.lr": -1})])


def test_an_old_complete_file_keeps_its_values_and_is_told_once(tmp_path: Path) -> None:
    path = write(tmp_path, "old", model={"d_model": 384, "dropout": 0.1}, training={"lr": 2e-3, "batch_size": 64})
    found = resolve_file(path, "laptop")
    assert (found.config.model.d_model, found.config.training.lr) == (384, 2e-3)
    [note] = found.notes
    assert "wins over scale laptop: model.d_model 384 (not 192)" in note and "and 1 more" in note
    assert "\n" not in note
    assert resolve_file(write(tmp_path, "new", goal="x"), "laptop").notes == ()


def test_an_mlp_is_one_by_any_layer_and_sees_windows(tmp_path: Path) -> None:
    path = write(tmp_path, "a", model={"hidden_dim": 64})
    assert (load_experiment(path, "laptop").model.arch, load_experiment(path, "laptop").training.mode) == (
        "mlp", "window",
    )  # fmt: skip
    plain = write(tmp_path, "b", goal="x")
    by_option = resolve_file(plain, "a100", [Layer.of("--set", {"model.arch": "mlp"})]).config
    assert (by_option.training.mode, by_option.training.batch_size) == ("window", 512)
    assert resolve_file(plain, "a100", [Layer.of("--set", {"model.hidden_dim": 64})]).config.model.arch == "mamba2"


def test_origins_are_comments_that_reading_ignores(tmp_path: Path) -> None:
    path = write(tmp_path, "a", goal="two\nlines: 'and' more", data={"stage_filter": [1, 2]}, tracking={"tags": ["x"]})
    found = resolve_file(path, "laptop", [Layer.of("--set", {"training.lr": 0.5})])
    text = to_yaml(found.config, complete_origins(found.origins))
    assert read_experiment(text, source="written") == found.config
    lines = {line.split(":")[0].strip(): line.rpartition("# ")[2] for line in text.splitlines() if "# " in line}
    assert (lines["lr"], lines["d_model"], lines["stage_filter"], lines["clip"]) == (
        "--set", "scale laptop", "a.yaml", "default",
    )  # fmt: skip


def test_settings_are_read_as_in_a_file_and_each_once() -> None:
    found = read_settings(["training.lr=1e-3", "training.amp=false", "data.stage_filter=[2, 3]", "tracking.group=a=b"])
    assert found == {"training.lr": 1e-3, "training.amp": False, "data.stage_filter": [2, 3], "tracking.group": "a=b"}
    with pytest.raises(UserError, match="found twice"):
        read_settings(["training.lr=1", "training.lr=2"])
    assert read_settings([" training.lr = 1e-3"]) == {"training.lr": 1e-3}
    for wrong, said in (("training.lr", "there is no '='"), ("=3", "there is nothing before '='")):
        with pytest.raises(UserError, match=said) as refused:
            read_settings([wrong])
        assert hide_secrets(str(refused.value)) == str(refused.value)


def test_a_long_chain_of_files_is_refused(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path, f"a{number}", extends=f"a{number + 1}.yaml")
    with pytest.raises(UserError, match=r"a0\.yaml: more than \d+ files extend one another"):
        read_layers(tmp_path / "a0.yaml")


@pytest.mark.parametrize(("metric", "mode"), [("val_metric/action_acc", "max"), ("val_loss/total", "min")])
def test_the_best_metric_decides_the_best_mode(tmp_path: Path, metric: str, mode: str) -> None:
    other = {"best_metric": "val_action/cat_edge", "best_mode": "max"}
    path, change = write(tmp_path, "a", training=other), {"training.best_metric": metric}
    assert resolve_file(path, more=[Layer.of("--set", change)]).config.training.best_mode == mode
    both = change | {"training.best_mode": "max"}
    assert resolve_file(path, more=[Layer.of("--set", both)]).config.training.best_mode == "max"


def test_layers_of_a_file_begin_with_what_it_extends(tmp_path: Path) -> None:
    write(tmp_path, "base", goal="x")
    assert [layer.origin for layer in read_layers(write(tmp_path, "a", extends="base.yaml"))] == ["base.yaml", "a.yaml"]


def test_a_file_may_name_the_scale_of_commands_that_name_none(tmp_path: Path) -> None:
    write(tmp_path, "base", scale="laptop")
    path = write(tmp_path, "a", extends="base.yaml", goal="x")
    assert load_experiment(path) == load_experiment(path, "laptop") != load_experiment(path, "a100")
    with pytest.raises(UserError, match=r"b\.yaml: scale: huge: unknown scale"):
        load_experiment(write(tmp_path, "b", scale="huge"))
    with pytest.raises(UserError, match="expected the name of a scale"):
        load_experiment(write(tmp_path, "c", scale=3))


def test_no_scale_is_the_built_in_defaults_and_says_so(tmp_path: Path) -> None:
    found = resolve_file(write(tmp_path, "a", goal="x"))
    assert found.config == ExperimentConfig(name="a", goal="x")
    assert "--scale full" in found.notes[0]
    (tmp_path / "a.yaml").write_text(to_yaml(found.config))
    assert resolve_file(tmp_path / "a.yaml").notes == ()
