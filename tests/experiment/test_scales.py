"""Scales: what they set, and that nothing else of the file is theirs."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import pytest

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.experiment.config_file import as_values, flatten, list_keys
from worldmodel.experiment.layers import load_experiment
from worldmodel.experiment.scales import ALIASES, SCALES, find_scale, scale_values

BASELINE = Path(__file__).parents[2] / "tune" / "experiments" / "baseline.yaml"


def write(folder: Path, text: str = "") -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"goal: a test\n{text}")
    return path


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("arch", ["mamba2", "mlp"])
def test_scale_sets_its_keys_and_no_other(tmp_path: Path, scale: str, arch: str) -> None:
    config = load_experiment(write(tmp_path, f"model: {{arch: {arch}}}\n"), scale)
    named = scale_values(scale, arch)
    for key in set(list_keys()) - {"name", "goal", "model.arch", "training.mode"}:
        before, after = (reduce(getattr, key.split("."), c) for c in (ExperimentConfig(), config))
        assert after == named.get(key, before), key


@pytest.mark.parametrize("scale", SCALES)
def test_scale_states_nothing_that_is_a_default(scale: str) -> None:
    defaults = flatten(as_values(ExperimentConfig()))
    assert {k: v for k, v in SCALES[scale].items() if defaults[k] == v} == {}


def test_unknown_scale_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'laptop'.*full, laptop"):
        find_scale("latop")
    assert {find_scale(old) for old in ALIASES} <= set(SCALES)


@pytest.mark.parametrize(("arch", "lr"), [("mlp", 1e-3), ("mamba2", 5e-4)])
@pytest.mark.parametrize(("name", "epochs"), [("1a-2a", 2), ("3a-1a-2a", 1)])
def test_published_is_the_setting_of_round1(tmp_path: Path, arch: str, lr: float, name: str, epochs: int) -> None:
    path = write(tmp_path, f"extends: {BASELINE.parent / name}.yaml\nmodel: {{arch: {arch}}}\n")
    config = load_experiment(path, "published")
    training = config.training
    assert (training.lr, training.num_epochs, training.batch_size, training.clip) == (lr, epochs, 512, 1.0)
    assert (training.mode, config.model.context_len, training.schedule) == ("window", 10, "epoch_cosine")
    assert (config.data.split, training.train_split, training.amp) == ("first", 0.9, False)
    assert (config.data.max_games, config.model.is_published, config.model.arch) == (2000, True, arch)


def test_laptop_trains_half_of_the_full_width_on_sequences() -> None:
    full, laptop = (load_experiment(BASELINE, scale) for scale in ("full", "laptop"))
    assert laptop.model.d_model == full.model.d_model // 2
    assert laptop.training.mode == "sequence"


@pytest.mark.parametrize(("scale", "batch"), [("a100", 256), ("h100", 512), ("l4", 64)])
@pytest.mark.parametrize("arch", ["mamba2", "mlp"])
def test_gpu_scales_keep_the_full_model(tmp_path: Path, scale: str, batch: int, arch: str) -> None:
    path = write(tmp_path, f"model: {{arch: {arch}}}\n")
    config = load_experiment(path, scale)
    assert config.model == load_experiment(path, "full").model
    expected = ("window", 512) if arch == "mlp" else ("sequence", batch)
    assert (config.training.mode, config.training.batch_size) == expected
