"""Stepping frame by frame, each on the frame made before, equals reading all frames again for every one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.games_on_disk import encode_here, write_games
from worldmodel.encoding import EncodingConfig
from worldmodel.features.batch import Inputs, Predictions
from worldmodel.features.facts import FactEncoder, FactReader, Facts
from worldmodel.features.feedback import Feedback
from worldmodel.features.plan import Samples
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.model.build import build_model
from worldmodel.model.config import ModelConfig
from worldmodel.model.unroll import Unroller, make_memory
from worldmodel.model.world_model import WorldModel

CONTEXT, STEPS = 24, 20
MAMBA: dict[str, Any] = {
    "d_model": 32, "d_state": 8, "headdim": 16, "n_layers": 2, "chunk_size": 8, "context_len": 5, "dropout": 0.1,
    "kinematic_head": True, "output_scale": 0.05, "copy_prior": 6.0,
}  # fmt: skip
MLP: dict[str, Any] = {"arch": "mlp", "context_len": 5, "hidden_dim": 32, "trunk_dim": 16}
KINDS: dict[str, tuple[dict[str, Any], EncodingConfig, str]] = {
    "sequence": (MAMBA, EncodingConfig(), "sequence"),
    "age and presses": (MAMBA, EncodingConfig(state_age_as_embed=True, press_events=True), "sequence"),
    "everything ahead": (
        MAMBA,
        EncodingConfig(lookahead=2, projectiles=True, state_flags=True, hitstun=True, press_events=True),
        "sequence",
    ),
    "published ahead": (MAMBA, EncodingConfig(targets="published", lookahead=1), "sequence"),
    "window": (MAMBA, EncodingConfig(), "window"),
    "window ahead": (MAMBA, EncodingConfig(lookahead=1), "window"),
    "mlp": (MLP, EncodingConfig(press_events=True), "window"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = tmp_path_factory.mktemp("games")
    write_games(folder / "games", range(3), 60)
    index = encode_here(folder / "games", folder / "blocks").index
    return FrameStore(folder / "blocks", index, index.games, StoreOptions(with_items=True))


def make_model(kind: str) -> WorldModel:
    sizes, encoding, _ = KINDS[kind]
    torch.manual_seed(3)
    model = build_model(ModelConfig(**sizes), encoding.layout).eval()
    for name, parameter in model.named_parameters():
        if "_head." in name:  # those of deltas begin at 0: nothing would move
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def make_unroller(kind: str, model: WorldModel) -> Unroller:
    return Unroller(make_memory(model, KINDS[kind][2]), Feedback(model.layout))


def read(store: FrameStore, kind: str, frames: int = CONTEXT + STEPS) -> Facts:
    samples = Samples(np.arange(3), np.array([2, 0, 5]))
    return FactReader(KINDS[kind][1]).read(store, samples, frames)


def predict_again(model: WorldModel, facts: Facts, controls: torch.Tensor, mode: str) -> Predictions:
    """The prediction behind the last of these frames, by one pass over all that the model may see."""
    encoder, ahead = FactEncoder(model.layout), model.layout.config.lookahead
    seen = facts.cut(slice(0, facts.frames - ahead))
    floats, classes = encoder.encode(seen if mode == "sequence" else seen.cut(slice(-model.config.context_len, None)))
    given = torch.cat([facts.controls, controls.unsqueeze(1)], 1)
    predictions: Predictions = model(Inputs(floats, classes, encoder.encode_controls(given)))[0]
    return predictions


@torch.inference_mode()
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_step_says_what_reading_every_frame_again_says(store: FrameStore, kind: str) -> None:
    model, every = make_model(kind), read(store, kind)
    unroller, facts = make_unroller(kind, model), every.cut(slice(0, CONTEXT))
    unroller.begin(facts)
    moved = 0.0
    for time in range(CONTEXT, CONTEXT + STEPS):
        controls = every.controls[:, time]
        expected = predict_again(model, facts, controls, KINDS[kind][2])
        said = unroller.predict(controls)
        for term, values in said.numbers.items():
            assert torch.allclose(values, expected.numbers[term], atol=1e-4, rtol=1e-4), (term, time)
        for term, values in said.logits.items():
            assert torch.allclose(values, expected.logits[term], atol=1e-4, rtol=1e-4), (term, time)
        made = unroller.accept(unroller.feedback.advance(facts, said, controls))
        moved += float((made.get("x") - facts.get("x")[:, -1:]).abs().max())
        facts = facts.join(made)
    assert moved > 0.01  # what it is fed is its own


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["sequence", "everything ahead", "window"])
def test_a_start_at_several_frames_is_the_starts_alone(store: FrameStore, kind: str) -> None:
    model, every, ends = make_model(kind), read(store, kind), (8, 9, 20)
    together = make_unroller(kind, model)
    together.begin(every.cut(slice(0, 20)), ends)
    controls = torch.cat([every.controls[:, end] for end in ends])
    made = [together.step(controls) for _ in range(3)][-1]
    for row, end in enumerate(ends):
        alone = make_unroller(kind, model)
        alone.begin(every.cut(slice(0, end)))
        single = [alone.step(every.controls[:, end]) for _ in range(3)][-1]
        assert torch.allclose(single.numbers, made.numbers[3 * row : 3 * row + 3], atol=1e-4, rtol=1e-4)
        assert torch.equal(single.classes, made.classes[3 * row : 3 * row + 3])


@torch.inference_mode()
def test_what_is_predicted_moves_on_and_the_rest_follows_its_rule(store: FrameStore) -> None:
    model, every = make_model("sequence"), read(store, "sequence")
    unroller = make_unroller("sequence", model)
    unroller.begin(every.cut(slice(0, CONTEXT)))
    frames = [unroller.step(every.controls[:, time]) for time in range(CONTEXT, CONTEXT + STEPS)]
    start, last = every.cut(slice(CONTEXT - 1, CONTEXT)), frames[-1]
    for name in ("x", "y", "speed_y", "shield_strength"):
        assert not torch.equal(last.get(name), start.get(name)), name
    assert torch.equal(last.get("character"), start.get("character"))
    assert torch.equal(last.controls[:, 0], every.controls[:, CONTEXT + STEPS - 1])
    assert torch.equal(last.get("percent"), last.get("percent").round())
    ages = torch.cat([frame.get("state_age") for frame in frames], 1)
    actions = torch.cat([frame.get("action") for frame in frames], 1)
    held = actions[:, 1:] == actions[:, :-1]
    assert bool((ages[:, 1:] >= ages[:, :-1])[held].all()), "an age falls only where an action begins"
