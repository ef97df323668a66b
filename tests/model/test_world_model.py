"""The models against the users' own outputs, and against themselves: cut, stepped, in low precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.golden import MODELS, Golden, random_batch
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.experiment.config import LossWeights
from worldmodel.features.batch import Inputs, Predictions
from worldmodel.model.build import build_model
from worldmodel.model.config import ModelConfig
from worldmodel.model.world_model import WorldModel
from worldmodel.training.loss import compute_loss

LAYOUT = EncodingConfig(state_age_as_embed=True).layout
SMALL = ModelConfig(d_model=32, d_state=8, n_layers=2, headdim=16, chunk_size=7, dropout=0.0)
SMALL_MLP = ModelConfig(arch="mlp", context_len=4, hidden_dim=16, trunk_dim=8, dropout=0.0)


def small_model(config: ModelConfig = SMALL) -> WorldModel:
    torch.manual_seed(0)
    return build_model(config, LAYOUT).eval()


def cut(inputs: Inputs, start: int, end: int) -> Inputs:
    """Some frames, each with the controls behind it (N = T)."""
    return Inputs(inputs.floats[:, start:end], inputs.classes[:, start:end], inputs.controls[:, start:end])


def assert_same(ours: Predictions, expected: Predictions, tolerance: float) -> None:
    assert ours.numbers.keys() == expected.numbers.keys() and ours.logits.keys() == expected.logits.keys()
    for found, wanted in ((ours.numbers, expected.numbers), (ours.logits, expected.logits)):
        for term in wanted:
            difference = float((found[term] - wanted[term]).abs().max())
            assert difference <= tolerance, term


def take(predictions: Predictions, positions: slice) -> Predictions:
    numbers = {t: v[:, positions] for t, v in predictions.numbers.items()}
    return Predictions(numbers, {t: v[:, positions] for t, v in predictions.logits.items()})


def join(parts: list[Predictions]) -> Predictions:
    numbers = {t: torch.cat([part.numbers[t] for part in parts], 1) for t in parts[0].numbers}
    return Predictions(numbers, {t: torch.cat([part.logits[t] for part in parts], 1) for t in parts[0].logits})


@pytest.mark.parametrize(("arch", "encoding"), MODELS)
def test_users_weights_give_users_predictions(shared_folder: Path, arch: str, encoding: str) -> None:
    golden = Golden(shared_folder / "golden", arch, encoding)
    model = build_model(golden.config, golden.layout).eval()
    model.load_state_dict(golden.weights())
    with torch.no_grad():
        ours, _ = model(golden.inputs())
    assert_same(ours, golden.predictions("model"), 1e-5)


@torch.no_grad()
def test_steps_over_a_sequence_equal_one_forward() -> None:
    model = small_model()
    inputs, _, _ = random_batch(LAYOUT, batch=2, positions=40)
    whole, end = model(inputs)
    state, parts = model.empty_state(2), []
    sizes = {t.shape for t in state.tensors}
    for t in range(40):
        predicted, state = model.step(cut(inputs, t, t + 1), state)
        parts.append(predicted)
        assert {t.shape for t in state.tensors} == sizes
    assert_same(join(parts), whole, 1e-4)
    for ours, expected in zip(state.tensors, end.tensors, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 24))
def test_two_parts_with_the_state_carried_equal_the_whole(split: int) -> None:
    model = small_model()
    inputs, _, _ = random_batch(LAYOUT, batch=2, positions=25)
    with torch.no_grad():
        whole, _ = model(inputs)
        first, state = model(cut(inputs, 0, split))
        second, _ = model(cut(inputs, split, 25), state)
    assert_same(join([first, second]), whole, 1e-4)


@torch.no_grad()
def test_a_window_is_the_last_position_of_a_sequence() -> None:
    model = small_model()
    inputs, _, _ = random_batch(LAYOUT, batch=3, positions=10)
    whole, _ = model(inputs)
    window, _ = model(Inputs(inputs.floats, inputs.classes, inputs.controls[:, -1:]), wants_state=False)
    last = Predictions(
        {t: v[:, -1:] for t, v in whole.numbers.items()}, {t: v[:, -1:] for t, v in whole.logits.items()}
    )
    assert_same(window, last, 1e-5)


@torch.no_grad()
def test_a_prediction_does_not_see_later_frames() -> None:
    model = small_model()
    inputs, _, _ = random_batch(LAYOUT, batch=2, positions=12)
    other, _, _ = random_batch(LAYOUT, batch=2, positions=12, seed=1)
    mixed = Inputs(*(torch.cat([getattr(inputs, n)[:, :7], getattr(other, n)[:, 7:]], 1) for n in vars(inputs)))
    assert_same(take(model(mixed)[0], slice(7)), model(cut(inputs, 0, 7))[0], 1e-5)


@torch.no_grad()
def test_forgotten_games_start_anew_and_selected_games_go_on() -> None:
    model = small_model()
    inputs, _, _ = random_batch(LAYOUT, batch=3, positions=6)
    _, state = model(cut(inputs, 0, 3))
    later = cut(inputs, 3, 6)
    fresh, _ = model(later)
    carried, _ = model(later, state)
    mixed, _ = model(later, state.forget(torch.tensor([True, False, True])))
    for row, expected in ((0, fresh), (1, carried), (2, fresh)):
        torch.testing.assert_close(mixed.logits["action"][row], expected.logits["action"][row])
    order = torch.tensor([2, 0])
    some, _ = model(Inputs(later.floats[order], later.classes[order], later.controls[order]), state.select(order))
    torch.testing.assert_close(some.logits["action"], carried.logits["action"][order])


def test_bfloat16_autocast_stays_near_float32_and_gives_every_weight_a_gradient() -> None:
    model = small_model().train()
    inputs, _, targets = random_batch(LAYOUT, batch=4, positions=20)
    exact, _ = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, state = model(inputs)
    difference = (rounded.logits["action"].float() - exact.logits["action"]).abs().max()
    assert 0 < float(difference.detach()) < 0.1
    assert state.tensors[1].dtype == torch.float32
    loss, _ = compute_loss(rounded, targets, LossWeights())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def test_chunk_size_changes_nothing() -> None:
    inputs, _, _ = random_batch(LAYOUT, batch=2, positions=30)
    weights = small_model().state_dict()
    found = []
    for chunk in (4, 64):
        model = small_model(ModelConfig(d_model=32, d_state=8, n_layers=2, headdim=16, chunk_size=chunk, dropout=0.0))
        model.load_state_dict(weights)
        with torch.no_grad():
            found.append(model(inputs)[0])
    assert_same(*found, 1e-4)


def test_the_users_size_has_their_number_of_parameters() -> None:
    model = build_model(ModelConfig(), LAYOUT)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(4.28e6, rel=0.002)


def test_initialisation_is_the_users() -> None:
    block = build_model(ModelConfig(), LAYOUT).get_submodule("layers.0.mamba")
    bias = block.get_parameter("dt_bias").detach()
    assert float(bias.min()) >= -1 and float(bias.max()) <= 1 and float(bias.std()) > 0.2
    torch.testing.assert_close(block.get_parameter("A_log").exp(), torch.arange(1.0, 13.0))
    assert torch.equal(block.get_parameter("D"), torch.ones(12))


def test_an_empty_state_is_refused_and_not_taken_for_a_start() -> None:
    model = small_model()
    inputs, _, _ = random_batch(LAYOUT, positions=3)
    _, empty = model(inputs, wants_state=False)
    with pytest.raises(UserError, match="wants_state"):
        model(inputs, empty)


@torch.no_grad()
def test_the_mlp_steps_as_it_sees_windows() -> None:
    model = small_model(SMALL_MLP)
    inputs, _, _ = random_batch(LAYOUT, batch=2, time=9, positions=6)
    whole, _ = model(inputs)
    _, state = model(Inputs(inputs.floats[:, :4], inputs.classes[:, :4], inputs.controls[:, :1]))
    for t in range(4, 9):
        frame = Inputs(inputs.floats[:, t : t + 1], inputs.classes[:, t : t + 1], inputs.controls[:, t - 3 : t - 2])
        predicted, state = model.step(frame, state)
        assert_same(predicted, take(whole, slice(t - 3, t - 2)), 1e-5)


def test_the_mlp_refuses_positions_without_enough_frames() -> None:
    inputs, _, _ = random_batch(LAYOUT, positions=9)
    with pytest.raises(UserError, match="4 frames per prediction"):
        small_model(SMALL_MLP)(inputs)


def test_a_head_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="headdim 48"):
        ModelConfig(d_model=64, headdim=48)
