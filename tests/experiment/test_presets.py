"""Presets: what they say they set is what they set."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.experiments import experiments
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig, ModelConfig, TrainingConfig
from worldmodel.experiment.config_file import list_keys
from worldmodel.experiment.presets import PRESETS, apply_preset


@given(experiments(), st.sampled_from(sorted(PRESETS)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_preset_sets_the_keys_it_names_and_no_other(config: ExperimentConfig, name: str) -> None:
    changed, named = apply_preset(name, config)
    for key in list_keys():
        before, after = (reduce(getattr, key.split("."), c) for c in (config, changed))
        assert after == named.get(key, before), key


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'laptop'"):
        apply_preset("latop", ExperimentConfig())


@pytest.mark.parametrize(("arch", "lr"), [("mlp", 1e-3), ("mamba2", 5e-4)])
@pytest.mark.parametrize(("is_everything", "epochs"), [(False, 2), (True, 1)])
def test_round1_is_the_published_setting(arch: str, lr: float, is_everything: bool, epochs: int) -> None:
    encoding = EncodingConfig(state_age_as_embed=True, press_events=is_everything, lookahead=1)
    start = ExperimentConfig(
        model=ModelConfig(arch="mlp" if arch == "mlp" else "mamba2", context_len=30),
        training=TrainingConfig(mode="window"),
        encoding=encoding,
    )
    config, _ = apply_preset("round1", start)
    training = config.training
    assert (training.lr, training.num_epochs, training.batch_size, training.clip) == (lr, epochs, 512, 1.0)
    assert (training.mode, config.model.context_len, training.schedule) == ("window", 10, "epoch_cosine")
    assert (config.data.split, training.train_split, training.amp) == ("first", 0.9, False)
    assert (config.encoding, config.model.arch) == (encoding, arch)


def test_the_laptop_preset_trains_a_third_of_the_full_models_width_on_sequences() -> None:
    config, _ = apply_preset("laptop", ExperimentConfig(model=ModelConfig(arch="mlp")))
    assert config.model.arch == "mamba2"
    assert config.training.mode == "sequence"
    assert config.model.d_model < ModelConfig().d_model


@pytest.mark.parametrize(("name", "batch"), [("a100", 256), ("h100", 512), ("l4", 64)])
@pytest.mark.parametrize("arch", ["mamba2", "mlp"])
def test_gpu_presets_keep_the_experiments_model(name: str, batch: int, arch: str) -> None:
    model = ModelConfig(arch="mlp" if arch == "mlp" else "mamba2", d_model=256)
    config, _ = apply_preset(name, ExperimentConfig(model=model, training=TrainingConfig(mode="window", amp=False)))
    assert config.model == model
    assert config.training.amp
    expected = ("window", 512) if arch == "mlp" else ("sequence", batch)
    assert (config.training.mode, config.training.batch_size) == expected
