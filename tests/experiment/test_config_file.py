"""Experiment files: what is written reads back, and nothing that is wrong passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.experiments import experiments, settings_of
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import (
    describe_changes,
    list_keys,
    override,
    read_experiment,
    resolve_experiment,
    to_yaml,
)
from worldmodel.experiment.config_keys import REFUSED, find_fixed_keys
from worldmodel.experiment.layers import load_experiment

KEYS = list_keys()
SECTIONED = [key for key in KEYS if "." in key]
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write_key(key: str, value: object) -> str:
    """A file that sets one dotted key."""
    section, _, name = key.rpartition(".")
    return json.dumps({section: {name: value}} if section else {name: value})


def refuse(text: str) -> str:
    """The message with which a text is refused."""
    with pytest.raises(UserError) as caught:
        read_experiment(text, source="some.yaml")
    return str(caught.value)


@quick
@given(experiments())
def test_a_written_experiment_reads_back_equal(config: ExperimentConfig) -> None:
    assert read_experiment(to_yaml(config), source="written") == config


@quick
@given(experiments())
def test_a_written_experiment_is_plain_yaml_with_every_key(config: ExperimentConfig) -> None:
    written = yaml.safe_load(to_yaml(config))
    flat = {f"{n}.{k}" if isinstance(v, dict) else n for n, v in written.items() for k in (v if v else [n])}
    assert flat == set(KEYS)


@quick
@given(st.sampled_from(SECTIONED), st.data())
def test_one_changed_key_is_the_only_change_described(key: str, data: st.DataObject) -> None:
    value = data.draw(settings_of(key))
    try:
        changed = override(ExperimentConfig(), {key: value})
    except UserError:
        assert key in ("model.arch", "model.d_model")  # these depend on others
        return
    section, name = key.split(".")
    default = getattr(getattr(ExperimentConfig(), section), name)
    assert [k for k, _, _ in describe_changes(changed)] == ([] if value == default else [key])
    assert getattr(getattr(changed, section), name) == value


@given(experiments())
@settings(quick, max_examples=20)
def test_overriding_nothing_changes_nothing(config: ExperimentConfig) -> None:
    assert override(config, {}) == config


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_the_wrong_type_is_refused_by_its_dotted_key(key: str) -> None:
    message = refuse(write_key(key, [{"a": 1}]))
    assert message.startswith("some.yaml: 1 problem\n")
    assert f'{key}: found [{{"a": 1}}], expected ' in message


@pytest.mark.parametrize("key", KEYS)
def test_a_misspelt_key_is_refused_and_the_right_one_named(key: str) -> None:
    section, _, name = key.rpartition(".")
    misspelt = f"{section}.{name}x" if section else f"{name}x"
    message = refuse(write_key(misspelt, 1))
    assert f"{misspelt}: unknown key" in message
    assert f"did you mean '{name}'?" in message


def test_a_key_in_the_wrong_section_is_sent_home() -> None:
    assert "model.lr: unknown key (did you mean 'training.lr'?)" in refuse("model: {lr: 1e-3}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.lr", 0), ("training.lr", float("inf")), ("training.lr", float("nan")), ("training.num_epochs", 0),
        ("training.batch_size", 0), ("training.train_split", 0), ("training.train_split", 1), ("training.clip", 0),
        ("training.warmup_pct", 1), ("training.weight_decay", -1e-5), ("training.checkpoint_minutes", 0),
        ("training.sequence_length", 0), ("model.dropout", 1), ("model.n_layers", 0), ("model.headdim", 7),
        ("model.output_scale", float("inf")), ("model.copy_prior", float("inf")), ("model.chunk_size", 10**9),
        ("data.max_games", -1), ("data.stage_filter", -1), ("data.stage_filter", [2, -1]), ("encoding.lookahead", -1),
        ("loss_weights.action", -1), ("name", "a/b"), ("name", ""), ("name", ".."), ("self_forcing.curriculum", [0]),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(key: str, value: object) -> None:
    assert key in refuse(yaml.safe_dump(json.loads(write_key(key, value))))


@pytest.mark.parametrize(
    ("key", "value"),
    [("training.batch_size", "64"), ("training.batch_size", 64.5), ("training.batch_size", True), ("training.amp", 1),
     ("training.amp", "true"), ("training.lr", "fast"), ("data.dataset_dir", 3), ("training", 3),
     ("tracking.tags", "a")],
)  # fmt: skip
def test_nothing_is_converted_in_silence(key: str, value: object) -> None:
    assert f"{key}: found {json.dumps(value)}, expected " in refuse(write_key(key, value))


@pytest.mark.parametrize("text", ["5e-4", "5E-4", "+5.e-4", ".5e-3", "0.0005", "5.0e-4"])
def test_every_way_to_write_a_number_is_a_number(text: str) -> None:
    assert read_experiment(f"training: {{lr: {text}}}", source="").training.lr == 5e-4


def test_a_whole_number_serves_where_a_fraction_may_stand() -> None:
    assert read_experiment("loss_weights: {action: 2}", source="").loss_weights.action == 2.0


def test_all_problems_of_a_file_are_in_one_message() -> None:
    message = refuse(
        "modle: {}\n"
        "encoding: {focal_offset: 0, xy_scale: 3, lokahead: 1}\n"
        "training: {lr: 0, batch_size: x}\n"
        "training: {mode: windw}\n"
        "self_forcing: {ratio: 0}\n"
    )
    assert message.startswith("some.yaml: 7 problems\n")
    for part in ("modle:", "focal_offset:", "xy_scale:", "lokahead:", "found twice", "'window'?", "ratio:"):
        assert part in message


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    message = refuse("training:\n  lr: 1e-3\n  num_epochs: 2\n  lr: 1e-4\n")
    assert "training.lr: found twice (lines 2 and 4), expected once" in message


@pytest.mark.parametrize("key", find_fixed_keys())
def test_what_the_schema_fixes_is_taken_when_equal_and_refused_otherwise(key: str) -> None:
    value = find_fixed_keys()[key]
    assert read_experiment(write_key(key, value), source="") == ExperimentConfig()
    assert f"{key}: found {value + 1}, expected {value}: the schema fixes it" in refuse(write_key(key, value + 1))


@pytest.mark.parametrize("key", REFUSED)
def test_what_nothing_reads_is_refused_with_the_reason(key: str) -> None:
    for value in (0, False, 3):
        message = refuse(write_key(key, value))
        assert f"{key}: nothing here reads it ({REFUSED[key]})" in message


def test_refused_and_fixed_keys_are_no_settings() -> None:
    assert not (set(REFUSED) | set(find_fixed_keys())) & set(KEYS)


def test_the_users_encodings_agree_with_the_schema(shared_folder: Path) -> None:
    encodings = json.loads((shared_folder / "golden" / "index.json").read_text())["encodings"]
    for name, encoding in encodings.items():
        kept = {k: v for k, v in encoding.items() if f"encoding.{k}" in {*KEYS, *find_fixed_keys()}}
        config = resolve_experiment({"encoding": kept}, source=name)
        assert config.encoding.layout.float_width == 2 * encoding["float_per_player"]
        assert set(find_fixed_keys()) <= {f"encoding.{k}" for k in kept}


def test_a_users_mlp_file_is_one() -> None:
    config = read_experiment("model: {context_len: 10, hidden_dim: 512}\ntraining: {device: null}", source="")
    assert (config.model.arch, config.training.mode, config.training.device) == ("mlp", "window", "auto")
    assert "training.mode" in refuse("model: {arch: mlp}\ntraining: {mode: sequence}")


def test_no_games_at_most_means_all_games() -> None:
    assert read_experiment("data: {max_games: 0}", source="").data.max_games is None


def test_the_users_self_forcing_section_is_taken() -> None:
    text = "self_forcing: {enabled: true, ratio: 4, unroll_length: 3, curriculum: [1, 2, 3]}"
    found = read_experiment(text, source="").self_forcing
    assert (found.enabled, found.ratio, found.longest, found.curriculum) == (True, 4, 3, (1, 2, 3))


def test_the_stem_names_the_run_unless_the_file_does(tmp_path: Path) -> None:
    path = tmp_path / "e018a-sf-minimal.yaml"
    path.write_text("training: {lr: 1e-3}\n")
    assert load_experiment(path).name == "e018a-sf-minimal"
    path.write_text("name: other\n")
    assert load_experiment(path).name == "other"


def test_an_absent_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "baseline.yaml").write_text("name: baseline\n")
    with pytest.raises(UserError, match=r"baselin\.yaml: no such experiment file \(did you mean 'baseline\.yaml'\?\)"):
        load_experiment(tmp_path / "baselin.yaml")


@pytest.mark.parametrize(
    "content",
    [b"", b"# nothing\n", b"- a\n", b"a: [\n", b"\xff\xfe\x00", b"? {a: 1}\n: 2\n", b"goal: a\x07b\n",
     pytest.param(b"[" * 3000, id="deep"), b"goal: &itself [*itself]\n", b"goal: {2026-02-28: a date}\n",
     b"goal: !!int ''\n"],
)  # fmt: skip
def test_a_file_that_holds_no_experiment_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_experiment(path)


def test_an_impossible_date_is_named_with_its_line() -> None:
    with pytest.raises(UserError, match=r"(?s)'2026-02-30' is no timestamp \(day is out of range.*line 2, column 7"):
        read_experiment("name: a\ngoal: 2026-02-30\n", source="a.yaml")


def test_a_folder_is_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(tmp_path)


@pytest.mark.parametrize("key", ["training.lrr", "a.b.c", "modle.arch", "name.x"])
def test_overriding_an_unknown_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(UserError, match=f"overrides: 1 problem\n  {key}|overrides: 1 problem\n  modle"):
        override(ExperimentConfig(), {key: 1})
