"""A card says what the record says, and nothing that was not measured."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml

from worldmodel.experiment.config import ExperimentConfig, TrackingConfig, TrainingConfig
from worldmodel.run.card import ABSENT, render_card, write_card
from worldmodel.run.record import RunRecord, State
from worldmodel.run.run_folder import start_run
from worldmodel.run.tracking import Tracker
from worldmodel.storage import Location

CONFIG = ExperimentConfig(name="trial", goal="Does a larger batch help?", training=TrainingConfig(lr=0.5))
RECORD = RunRecord(
    name="trial",
    goal=CONFIG.goal,
    state=State.FINISHED,
    step=30,
    total_steps=30,
    command="worldmodel train trial.yaml",
    commit="abc123",
    data_fingerprint="d0d0",
    seconds={"total": 3700.0, "training": 3000.0, "validation": 600.0},
    price_per_hour_usd=1.8,
    device={"name": "Some CPU", "gpu": "NVIDIA H200"},
    notes=["W&B is offline"],
)
METRICS = [
    {"step": 10, "loss/total": 3.0, "val_metric/action_ce": 0.7, "val_loss/total": None},
    {"step": 20, "loss/total": 2.0, "val_metric/action_ce": 0.2, "val_loss/total": 2.5},
    {"step": 30, "loss/total": 1.0, "val_metric/action_ce": 0.3},
]


def read_front(card: str) -> dict[str, object]:
    found = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def read_tables(card: str) -> dict[str, list[str]]:
    """First cell of every table row to the other cells."""
    rows = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in card.splitlines() if line.startswith("| ")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_front_matter_is_the_records() -> None:
    front = read_front(render_card(RECORD, CONFIG, METRICS))
    assert {name: front[name] for name in ("name", "state", "steps", "commit", "data_fingerprint")} == {
        "name": "trial",
        "state": "finished",
        "steps": 30,
        "commit": "abc123",
        "data_fingerprint": "d0d0",
    }
    assert front["schema_hash"] == RECORD.schema_hash
    assert front["model_hash"] == RECORD.model_hash
    assert front["metric_version"] == RECORD.metric_version


def test_the_table_says_which_version_of_the_metrics_it_shows() -> None:
    newer = RECORD.model_copy(update={"metric_version": 7})
    assert "## Results (metric version 7)\n\n| metric" in render_card(newer, CONFIG, METRICS)


def test_results_are_first_best_and_last() -> None:
    tables = read_tables(render_card(RECORD, CONFIG, METRICS))
    assert tables["metric"] == ["first", "best (step 20)", "last"]
    assert tables["val_metric/action_ce"] == ["0.7", "0.2", "0.3"]
    assert tables["val_loss/total"] == tables["loss"] == ["2.5", "2.5", "2.5"]
    assert "loss/total" not in tables


def test_an_evaluation_has_a_table_without_empty_rows() -> None:
    evaluated = {"persistence": {"val_metric/action_ce": 0.68}, "kinematic": {"val_metric/action_ce": 0.19}}
    card = render_card(RECORD, CONFIG, METRICS, evaluated)
    tables = read_tables(card[card.rindex("All validation games") :])
    assert tables["metric"] == ["persistence", "kinematic"]
    assert tables["val_metric/action_ce"] == ["0.68", "0.19"]
    assert "val_loss/total" not in tables
    assert "All validation games" not in render_card(RECORD, CONFIG, METRICS)


def test_best_is_the_largest_where_larger_is_better() -> None:
    config = replace(CONFIG, training=TrainingConfig(best_mode="max"))
    assert read_tables(render_card(RECORD, config, METRICS))["val_metric/action_ce"][1] == "0.7"


def test_what_was_not_measured_is_said_to_be() -> None:
    bare = RunRecord(name="trial")
    card = render_card(bare, CONFIG, [])
    assert read_tables(card)["val_metric/action_ce"] == [ABSENT, ABSENT, ABSENT]
    assert f"- Cost: {ABSENT} (price unknown)" in card
    assert f"- Time: {ABSENT}" in card
    assert read_front(card)["parameters"] is None


def test_settings_that_differ_from_the_defaults_are_listed() -> None:
    tables = read_tables(render_card(RECORD, CONFIG, METRICS))
    assert tables["training.lr"] == ["0.5", f"{TrainingConfig().lr}"]
    assert [name for name in tables if name.startswith("training.")] == ["training.lr"]
    assert "Every setting has its default." in render_card(RECORD, ExperimentConfig(), METRICS)
    record = RECORD.model_copy(update={"origins": {"training.lr": "--set"}})
    assert read_tables(render_card(record, CONFIG, METRICS))["training.lr"][-1] == "--set"


def test_cost_time_command_and_goal_are_the_records() -> None:
    card = render_card(RECORD, CONFIG, METRICS)
    for part in (
        "- Cost: $1.85",
        "- Time: 1h01m",
        "NVIDIA H200, 1 worker",
        "Does a larger batch help?",
        "- W&B is off",
    ):
        assert part in card
    assert "- Command: `worldmodel train trial.yaml`" in card


@pytest.mark.parametrize("name", ["a|b", "x: y"])
def test_a_failure_shows_its_reason_its_error_and_how_to_go_on(name: str) -> None:
    failed = RECORD.model_copy(
        update={"state": State.FAILED, "reason": f"ValueError: {name}", "traceback": "Traceback: here\n",
                "resume_command": "worldmodel train trial.yaml --resume"}
    )  # fmt: skip
    card = render_card(failed, CONFIG, METRICS)
    assert f"failed at step 30 of 30, {failed.updated:%Y-%m-%d %H:%M} UTC (ValueError: {name})" in card
    assert "```\nTraceback: here\n```" in card
    assert "- Resume: `worldmodel train trial.yaml --resume`" in card
    assert read_front(card)["state"] == "failed"


def test_the_card_of_a_folder_is_that_of_its_files(tmp_path: object) -> None:
    run = start_run(Location.of(str(tmp_path)), CONFIG, total_steps=2)
    with run.recording(), Tracker(run.location, TrackingConfig(wandb="disabled"), {}, run.note, "id") as tracker:
        tracker.log({"val_metric/action_ce": 0.25}, 2)
        run.note_step(2)
    write_card(run.location)
    card = (run.location / "card.md").read_text()
    assert read_tables(card)["val_metric/action_ce"] == ["0.25", "0.25", "0.25"]
    assert read_front(card)["state"] == "finished"
    page = (run.location / "card.html").read_text()
    assert "<h1>trial</h1>" in page and "action_ce" in page
