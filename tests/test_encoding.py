"""Widths are those of the users' Round 1."""

from __future__ import annotations

import pytest

from worldmodel.encoding import EncodingConfig
from worldmodel.schema import PLAYERS, STAGE

CONTEXT = 10
ROUND_1 = [
    (EncodingConfig(), 29, 26, 1846),
    (EncodingConfig(state_age_as_embed=True), 28, 26, 1986),
    (EncodingConfig(press_events=True), 29, 42, 1862),
    (EncodingConfig(lookahead=1), 29, 52, 1872),
    (EncodingConfig(state_age_as_embed=True, press_events=True), 28, 42, 2002),
    (EncodingConfig(state_age_as_embed=True, lookahead=1), 28, 52, 2012),
    (EncodingConfig(state_age_as_embed=True, press_events=True, lookahead=1), 28, 84, 2044),
]


@pytest.mark.parametrize(("config", "floats", "control", "mlp_input"), ROUND_1)
def test_widths_are_the_published_ones(config: EncodingConfig, floats: int, control: int, mlp_input: int) -> None:
    layout = config.layout
    assert (layout.float_width // PLAYERS, layout.control_width) == (floats, control)
    assert CONTEXT * layout.frame_width + layout.control_width == mlp_input


def test_every_flag_changes_a_width() -> None:
    def widths(config: EncodingConfig) -> tuple[int, ...]:
        return config.layout.float_width, config.layout.class_width, config.layout.control_width

    base = widths(EncodingConfig())
    for flag, value in EncodingConfig.__dataclass_fields__.items():
        if flag == "targets":  # of outputs, not of inputs
            continue
        assert widths(EncodingConfig(**{flag: 1 if value.type == "int" else True})) != base, flag


def test_embeddings_are_those_of_the_fields_and_the_stage() -> None:
    layout = EncodingConfig(state_age_as_embed=True).layout
    assert layout.categories[-1].name == "state_age"
    assert layout.embedding_width == PLAYERS * sum(f.embedding for f in layout.categories) + STAGE.embedding


@pytest.mark.parametrize("config", [case[0] for case in ROUND_1])
def test_target_widths_do_not_depend_on_how_inputs_are_shown(config: EncodingConfig) -> None:
    base = EncodingConfig().layout
    assert config.layout.number_targets == base.number_targets
    assert config.layout.class_targets == base.class_targets


def test_published_targets_are_fourteen_numbers_and_four_classes_of_the_same_inputs() -> None:
    everything, published = EncodingConfig().layout, EncodingConfig(targets="published").layout
    assert PLAYERS * sum(published.number_width(term) for term in published.number_targets) == 14
    assert PLAYERS * len(published.class_targets) == 4
    assert published.number_targets.items() <= everything.number_targets.items()
    assert (published.frame_width, published.control_width) == (everything.frame_width, everything.control_width)
