"""Facts are the stored values; what a model sees of them is what it sees of the stored frames, bit for bit."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.games_on_disk import encode_here, read_columns, write_games
from worldmodel.blocks.index import Index
from worldmodel.encoding import EncodingConfig
from worldmodel.errors import UserError
from worldmodel.features.batch import Predictions
from worldmodel.features.facts import CATEGORIES, CONTROL_PLACES, NUMBER_PLACES, FactEncoder, FactReader, Facts
from worldmodel.features.feedback import Choice, Feedback
from worldmodel.features.plan import Samples, SampleShape
from worldmodel.features.store import FrameStore, StoreOptions
from worldmodel.features.view import FeatureView
from worldmodel.schema import DEATHS, FIELDS, PLAYER_FIELDS, PLAYERS, REBIRTH

FRAMES = 50
CONFIGS = {
    "base": EncodingConfig(),
    "age": EncodingConfig(state_age_as_embed=True, press_events=True),
    "everything": EncodingConfig(press_events=True, lookahead=1, projectiles=True, state_flags=True, hitstun=True),
    "published": EncodingConfig(targets="published", lookahead=2, press_events=True),
}


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    folder = tmp_path_factory.mktemp("games")
    write_games(folder / "games", range(4), FRAMES)
    return folder, encode_here(folder / "games", folder / "blocks").index


def open_all(games: tuple[Path, Index]) -> tuple[FrameStore, Samples]:
    folder, index = games
    store = FrameStore(folder / "blocks", index, index.games, StoreOptions(with_items=True))
    return store, Samples(np.arange(len(index.games)), np.array([3, 0, 7, 1]))


def test_facts_are_the_files_own_values(games: tuple[Path, Index]) -> None:
    folder, index = games
    store, samples = open_all(games)
    found = FactReader(EncodingConfig()).read(store, samples, 20).to_arrays()
    assert found.keys() == FIELDS.keys()
    for row, (game, start) in enumerate(zip(index.games, samples.starts.tolist(), strict=True)):
        columns = read_columns((folder / "games/games" / game.md5).read_bytes())
        for field in PLAYER_FIELDS:
            for player in range(PLAYERS):
                true = columns[f"p{player}", *field.column][start : start + 20]
                np.testing.assert_array_equal(found[field.name][row, :, player], true, err_msg=field.name)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_model_sees_of_facts_what_it_sees_of_stored_frames(games: tuple[Path, Index], name: str) -> None:
    config = CONFIGS[name]
    store, samples = open_all(games)
    shape = SampleShape(mode="sequence", context=4, length=16, lookahead=config.lookahead)
    inputs, targets = FeatureView(config).view(store, samples, shape)
    facts = FactReader(config).read(store, samples, shape.frames)
    encoder, feedback = FactEncoder(config.layout), Feedback(config.layout)
    floats, classes = encoder.encode(facts)
    assert torch.equal(floats[:, :16], inputs.floats)
    assert torch.equal(classes[:, :16], inputs.classes)
    assert torch.equal(encoder.encode_controls(facts.controls, positions=16), inputs.controls)
    for position in (0, 15):
        frame = position + config.lookahead
        numbers, said = feedback.aim(facts.cut(slice(frame, frame + 1)), facts.cut(slice(frame + 1, frame + 2)))
        for term, values in numbers.items():
            assert torch.allclose(values[:, 0], targets.numbers[term][:, position], atol=1e-6)
        for term, values in said.items():
            assert torch.equal(values[:, 0], targets.classes[term][:, position])


@pytest.mark.parametrize("name", list(CONFIGS))
def test_who_says_the_truth_makes_the_true_frame(games: tuple[Path, Index], name: str) -> None:
    layout = CONFIGS[name].layout
    store, samples = open_all(games)
    facts = FactReader(CONFIGS[name]).read(store, samples, 12)
    feedback = Feedback(layout)
    facts.numbers[:, 10, :, NUMBER_PLACES["stocks"]] = 255  # they never rise
    true = facts.cut(slice(11, 12))
    true.numbers[..., NUMBER_PLACES["percent"]] += 200  # it never falls
    numbers, classes = feedback.aim(facts.cut(slice(10, 11)), true)
    numbers["binary"] = numbers["binary"] * 2 - 1
    logits = {
        term: torch.nn.functional.one_hot(classes[term], field.vocabulary).float()
        for term, field in layout.class_targets.items()
    }
    made = feedback.advance(facts.cut(slice(0, 11)), Predictions(numbers, logits), true.controls[:, 0])
    predicted = [f for fields in layout.number_targets.values() for f in fields] + list(layout.class_targets.values())
    for field in predicted:
        assert torch.allclose(made.get(field.name).double(), true.get(field.name).double(), rtol=1e-5, atol=1e-3)
    assert torch.equal(made.controls, true.controls)
    assert torch.equal(made.get("character"), facts.get("character")[:, 10:11])


def make_facts(actions: list[int], ages: list[float], hitlag: list[int]) -> Facts:
    """One game of as many frames, the same for both players."""
    numbers = torch.zeros(1, len(ages), 2, CONTROL_PLACES.stop)
    classes = torch.zeros(1, len(ages), 2, len(CATEGORIES), dtype=torch.int64)
    facts = Facts(numbers, classes, torch.tensor([2]))
    facts.numbers[..., NUMBER_PLACES["state_age"]] = torch.tensor(ages)[None, :, None, None]
    facts.numbers[..., NUMBER_PLACES["hitlag"]] = torch.tensor(hitlag).float()[None, :, None, None]
    facts.classes[..., CATEGORIES.index(FIELDS["action"])] = torch.tensor(actions)[None, :, None]
    return facts


@pytest.mark.parametrize(
    ("actions", "ages", "hitlag", "chosen", "expected"),
    [
        ([14], [7.0], [0], 14, 8.0),
        ([20, 20], [4.0, 7.0], [0, 0], 20, 10.0),
        ([14, 14], [7.0, 7.0], [0, 5], 14, 7.0),
        ([14, 14], [7.0, 7.0], [5, 1], 14, 8.0),
        ([14, 14], [7.0, 8.0], [0, 0], 24, 0.0),
        ([14, 14], [7.0, 8.0], [0, 0], 20, 1.0),
        ([14, 14], [7.0, 8.0], [0, 0], 178, -1.0),
    ],
    ids=["counts", "own speed", "frozen", "thawed", "begins at 0", "begins at 1", "begins at -1"],
)
def test_the_age_of_an_action_follows_its_rule(
    actions: list[int], ages: list[float], hitlag: list[int], chosen: int, expected: float
) -> None:
    layout = EncodingConfig(targets="published").layout
    facts = make_facts(actions, ages, hitlag)
    numbers = {term: torch.zeros(1, 1, 2, layout.number_width(term)) for term in layout.number_targets}
    logits = {term: torch.zeros(1, 1, 2, field.vocabulary) for term, field in layout.class_targets.items()}
    logits["action"][..., chosen] = 1
    made = Feedback(layout).advance(facts, Predictions(numbers, logits), facts.controls[:, -1])
    assert made.get("state_age").tolist() == [[[expected] * 2]]
    assert made.get("hitlag").tolist() == [[[max(0, hitlag[-1] - 1)] * 2]]


def test_whole_numbers_stay_whole_and_in_range_and_the_others_pass_gradients() -> None:
    layout = EncodingConfig().layout
    facts = make_facts([14], [0.0], [0])
    numbers = {t: torch.full((1, 1, 2, layout.number_width(t)), -0.012) for t in layout.number_targets}
    numbers = {term: values.requires_grad_() for term, values in numbers.items()}
    logits = {term: torch.zeros(1, 1, 2, field.vocabulary) for term, field in layout.class_targets.items()}
    made = Feedback(layout).advance(facts, Predictions(numbers, logits), facts.controls[:, -1])
    assert made.get("percent").tolist() == [[[0.0, 0.0]]]
    assert made.get("hitlag").tolist() == [[[0.0, 0.0]]]
    assert made.get("x").tolist() == [[[pytest.approx(-0.24)] * 2]]
    made.numbers.sum().backward()
    gradient = numbers["continuous"].grad
    assert gradient is not None
    assert torch.allclose(gradient, torch.tensor([100.0, 20.0, 20.0, 100.0]).expand_as(gradient))
    dynamics = numbers["dynamics"].grad
    assert dynamics is not None and not dynamics.any()


def deal(facts: Facts, percent: float, action: int = 14, stocks: float = 0) -> Facts:
    """The frame after, in which a model predicts so much damage, an action and so many stocks; all else is 0."""
    layout = EncodingConfig().layout
    numbers = {term: torch.zeros(1, 1, 2, layout.number_width(term)) for term in layout.number_targets}
    numbers["continuous"][..., 0] = percent * FIELDS["percent"].scale
    place = layout.number_targets["dynamics"].index(FIELDS["stocks"])
    numbers["dynamics"][..., place] = stocks * FIELDS["stocks"].scale
    logits = {term: torch.zeros(1, 1, 2, field.vocabulary) for term, field in layout.class_targets.items()}
    logits["action"][..., action] = 1
    return Feedback(layout).advance(facts, Predictions(numbers, logits), facts.controls[:, -1])


def test_damage_that_is_predicted_in_fractions_adds_up_and_is_seen_in_whole_percents() -> None:
    config = EncodingConfig()
    facts, shown, seen = make_facts([14], [0.0], [0]), [], []
    for _ in range(30):
        facts = deal(facts, 0.11)
        shown.append(facts.get("percent")[0, 0, 0].item())
        seen.append(FactEncoder(config.layout).encode(facts)[0][0, 0, 0].item() / FIELDS["percent"].scale)
    assert shown == [round(0.11 * frame) for frame in range(1, 31)]
    assert seen == pytest.approx(shown)
    assert facts.to_arrays()["percent"].tolist() == [[[3, 3]]]


def test_damage_falls_only_to_nothing_and_only_where_a_player_comes_back() -> None:
    facts = deal(make_facts([14], [0.0], [0]), 37.4)
    shown = []
    for percent in (-0.3, -30.0, 0.1, 0.5):
        facts = deal(facts, percent)
        shown.append(facts.get("percent")[0, 0, 0].item())
    assert shown == [37, 37, 37, 37]
    back = deal(facts, 0.2, action=REBIRTH)
    assert back.get("percent").tolist() == [[[0, 0]]]
    assert deal(back, 3.0, action=REBIRTH).get("percent").tolist() == [[[3, 3]]]


@pytest.mark.parametrize("death", DEATHS)
def test_a_stock_is_lost_where_a_death_begins_and_none_ever_comes_back(death: int) -> None:
    facts = make_facts([14], [0.0], [0])
    facts.numbers[..., NUMBER_PLACES["stocks"]] = 1
    shown = []
    for action, stocks in ((14, 3.0), (death, 1.0), (death, 1.0), (REBIRTH, 2.0), (death, 1.0)):
        facts = deal(facts, 0, action, stocks)
        shown.append(facts.get("stocks")[0, 0].tolist())
    assert shown == [[1, 1], [0, 0], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": nan}, {"temperature": inf}, {"seed": 1 << 64}], ids=str
)
def test_no_class_is_chosen_by_a_temperature_or_a_seed_that_means_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"found {next(iter(options))} .*expected"):
        Choice(**options)


def test_drawn_classes_follow_their_probabilities_and_the_seed() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    drawn = Choice(temperature=0.5, seed=3).pick(logits)
    shares = torch.bincount(drawn, minlength=3) / len(logits)
    assert torch.allclose(shares, (logits[0] / 0.5).softmax(-1), atol=0.015)
    assert torch.equal(drawn, Choice(temperature=0.5, seed=3).pick(logits))
    assert not torch.equal(drawn, Choice(temperature=0.5, seed=4).pick(logits))
    assert torch.equal(Choice().pick(logits), torch.full((20_000,), 2))


def test_players_trade_places_where_they_are_swapped(games: tuple[Path, Index]) -> None:
    store, samples = open_all(games)
    config = EncodingConfig(projectiles=True)
    facts = FactReader(config).read(store, samples, 5)
    swapped = torch.tensor([1, 0, 1, 0])
    view = FeatureView(config)
    stages = store.stages[torch.from_numpy(samples.games)]
    seen = view.merge(store.gather(samples, 5), 5, stages, swapped)
    floats, classes = FactEncoder(config.layout).encode(facts.swap_players(swapped))
    assert torch.equal(floats, seen.numbers)
    assert torch.equal(classes, seen.classes)
