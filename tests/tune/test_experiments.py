"""The experiment files of Round 1: short, and different from the baseline only where they say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from worldmodel.experiment.config_file import describe_changes, override
from worldmodel.experiment.layers import load_experiment

FOLDER = Path(__file__).parents[2] / "tune" / "experiments"
NAMES = ("baseline", "1a", "2a", "3a", "1a-2a", "3a-1a", "3a-1a-2a")
PUBLISHED_WIDTHS = {
    "baseline": (29, 26), "1a": (28, 26), "2a": (29, 42), "3a": (29, 52), "1a-2a": (28, 42), "3a-1a": (28, 52),
    "3a-1a-2a": (28, 84),
}  # fmt: skip
FLAGS = {"1a": "encoding.state_age_as_embed", "2a": "encoding.press_events", "3a": "encoding.lookahead"}


def flatten(values: dict[str, object]) -> set[str]:
    return {f"{n}.{k}" if isinstance(v, dict) else n for n, v in values.items() for k in (v if v else [n])}


def test_the_folder_holds_the_seven_experiments() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_the_published_widths(name: str) -> None:
    layout = load_experiment(FOLDER / f"{name}.yaml").encoding.layout
    assert (layout.float_width // 2, layout.control_width) == PUBLISHED_WIDTHS[name]


@pytest.mark.parametrize("name", NAMES)
def test_each_differs_from_the_baseline_only_in_its_encodings(name: str) -> None:
    baseline = load_experiment(FOLDER / "baseline.yaml")
    config = load_experiment(FOLDER / f"{name}.yaml")
    expected = {key: True for part, key in FLAGS.items() if part in name.split("-")}
    if name == "3a-1a-2a":
        expected["training.num_epochs"] = 1
    changes = {k: int(v) if k == "encoding.lookahead" else v for k, v in expected.items()}
    assert override(baseline, {**changes, "name": config.name, "goal": config.goal}) == config


@pytest.mark.parametrize("name", NAMES)
def test_each_says_in_its_first_lines_what_it_changes_and_what_was_published(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    header = text.split("\n\n")[0]
    baseline = load_experiment(FOLDER / "baseline.yaml")
    config = load_experiment(FOLDER / f"{name}.yaml")
    differing = {k for k, _, _ in set(describe_changes(config)) ^ set(describe_changes(baseline))}
    assert all(line.startswith("#") for line in header.splitlines())
    assert all(key in header for key in differing)
    assert "Published" in header


@pytest.mark.parametrize("name", NAMES)
def test_each_holds_only_what_makes_the_experiment(name: str) -> None:
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert values.pop("extends", "baseline.yaml") == "baseline.yaml"
    assert flatten(values) <= {"goal", "scale", "data.max_games", *FLAGS.values(), "training.num_epochs"}
