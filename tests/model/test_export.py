"""An exported step says, without this package, what the model says; what the file tells of itself is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tests.model.test_unroll import KINDS, STEPS, make_model
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.features.batch import Inputs
from worldmodel.features.facts import CATEGORIES, EVERYTHING, NUMBER_PLACES, FactEncoder, Facts
from worldmodel.model.export import describe_layout, export_step, export_weights
from worldmodel.model.unroll import CarriedMemory, WindowMemory
from worldmodel.model.world_model import WorldModel
from worldmodel.schema import PLAYERS

BATCHES = {kind: 1 + place % 3 for place, kind in enumerate(KINDS)}


def make_frames(model: WorldModel, batch: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    layout = model.layout
    highest = torch.tensor([f.vocabulary for f in layout.categories] * PLAYERS + [33])
    return [
        (
            torch.rand(batch, 1, layout.float_width),
            (torch.rand(batch, 1, layout.class_width) * highest).long(),
            torch.rand(batch, 1, layout.control_width),
        )
        for _ in range(STEPS)
    ]


def expect(model: WorldModel, frames: list[tuple[Tensor, Tensor, Tensor]], mode: str) -> list[dict[str, Tensor]]:
    """What rollouts use: the model's own step, or all frames of its window."""
    found, seen = [], [Inputs(*frame) for frame in frames]
    memory = CarriedMemory(model) if mode == "sequence" else WindowMemory(model)
    first = memory.context - 1
    joined = Inputs(*(torch.cat([frame[part] for frame in frames[: first + 1]], 1) for part in (0, 1)), frames[0][2])
    memory.begin(joined, [first])
    with torch.inference_mode():
        for inputs in seen[first:]:
            said = memory.predict(inputs)
            found.append({**said.numbers, **said.logits})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind's step, and what a process without this package made of it."""
    place = tmp_path_factory.mktemp("steps")
    for kind, (_, _, mode) in KINDS.items():
        model = make_model(kind)
        export_step(model, place / f"{kind}.pt2", {"run": kind}, mode=mode)
        frames = make_frames(model, BATCHES[kind])
        torch.save(frames, place / f"{kind}.frames")
    subprocess.run([sys.executable, "-I", Path(__file__).with_name("step_alone.py"), place], check=True, cwd=place)
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_step_is_the_models_own(folder: Path, kind: str) -> None:
    frames = torch.load(folder / f"{kind}.frames")
    expected = expect(make_model(kind), frames, KINDS[kind][2])
    said = torch.load(folder / f"{kind}.said")[-len(expected) :]
    for ours, theirs in zip(expected, said, strict=True):
        assert list(ours) == list(theirs)
        for term, value in ours.items():
            torch.testing.assert_close(theirs[term], value, rtol=1e-5, atol=1e-5)


def test_what_torch_cannot_export_names_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("sequence")
    monkeypatch.setattr(type(model), "step", lambda self, inputs, state: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(UserError, match=r"no.*--format safetensors"):
        export_step(model, tmp_path / "x.pt2", {}, mode="sequence")
    assert not list(tmp_path.iterdir())


def test_weights_come_with_what_they_need(tmp_path: Path) -> None:
    model = make_model("everything ahead")
    export_weights(model, tmp_path / "x.safetensors", {"experiment": {"model": {"d_model": 32}}})
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        own = model.state_dict()
        assert set(file.keys()) == set(own)
        assert all(torch.equal(file.get_tensor(name), own[name]) for name in own)
        told = json.loads(file.metadata()["worldmodel"])
    assert told["experiment"]["model"]["d_model"] == 32
    assert told["layout"] == describe_layout(model.layout)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_named_in_their_own_order(kind: str) -> None:
    config = KINDS[kind][1]
    told, layout = describe_layout(config.layout), config.layout
    widths = [len(told[part]) for part in ("floats", "classes", "controls")]
    assert widths == [layout.float_width, layout.class_width, layout.control_width]
    assert all(len({str(name) for name in told[part]}) == len(told[part]) for part in ("floats", "classes", "controls"))


def test_a_named_column_holds_that_value() -> None:
    config = EncodingConfig(state_age_as_embed=True, press_events=True, lookahead=1, state_flags=True, projectiles=True)
    told, encoder = describe_layout(config.layout), FactEncoder(config.layout)
    numbers = torch.zeros(1, 3, PLAYERS, EVERYTHING.float_width // PLAYERS)
    classes = torch.zeros(1, 3, PLAYERS, len(CATEGORIES), dtype=torch.int64)
    facts = Facts(numbers, classes, torch.tensor([31]), torch.zeros(1, 3, PLAYERS, 3))
    numbers[:, 0, 1, NUMBER_PLACES["percent"]] = 50.0
    numbers[:, -1, 1, NUMBER_PLACES["button_A"]] = 1.0
    floats, classes = encoder.encode(facts)
    seen = {name: (value, scale) for (name, scale), value in zip(told["floats"], floats[0, 0].tolist(), strict=True)}
    assert {name: value / scale for name, (value, scale) in seen.items() if value} == {"p1_percent": 50.0}
    assert classes[0, 0, [name for name, *_ in told["classes"]].index("stage")] == 31
    controls = dict(zip(told["controls"], encoder.encode_controls(facts.controls)[0, 0].tolist(), strict=True))
    assert {name for name, value in controls.items() if value} == {"p1_button_A+2", "p1_button_A_pressed+2"}
