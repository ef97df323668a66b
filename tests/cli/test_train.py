"""`worldmodel train` from end to end, one worker in this process."""

from __future__ import annotations

import functools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.tiny_train import read_files, slow_down, write_experiment
from tests.run.test_tracking import read_history
from tests.s3_server import serve_s3, use_s3
from worldmodel.cli.main import main
from worldmodel.model.exchange import load_users_checkpoint
from worldmodel.run.estimate import Estimator, Pace, describe_estimate
from worldmodel.run.record import RunRecord
from worldmodel.run.run_folder import read_config, read_record
from worldmodel.run.tracking import read_metrics
from worldmodel.storage import Location
from worldmodel.training.checkpoint import load_checkpoint
from worldmodel.training.checkpoint_list import list_checkpoints, newest_good, read_best

pytestmark = pytest.mark.usefixtures("no_key")


def test_a_finished_run_folder_is_complete(finished: Path, blocks: Path) -> None:
    run = Location.of(finished / "tiny")
    record = read_record(run)
    assert (record.state, record.reason, record.step) == ("finished", "", record.total_steps)
    assert record.epoch == 2
    assert record.blocks == str(blocks)
    assert [location.name for location in list_checkpoints(run)] == [
        f"step-{step:08d}" for step in (record.step // 2, record.step)
    ]
    assert read_best(run) == record.best == newest_good(run).checkpoint.state.best  # type: ignore[union-attr]
    assert read_config(run).training.num_epochs == 2
    assert "to see it work" in (finished / "tiny/card.md").read_text()
    assert record.seconds.total >= record.seconds.training + record.seconds.validation > 0


def test_metrics_have_the_users_names(finished: Path) -> None:
    rows = read_metrics(Location.of(finished / "tiny"))
    steps = [row for row in rows if "batch/loss" in row]
    epochs = [row for row in rows if "val_loss/total" in row]
    assert len(epochs) == 2
    assert all({"lr", "epoch"} <= row.keys() for row in steps)
    names = {"loss/total", "metric/position_mae", "val_loss/total", "val_loss/action", "val_metric/action_change_acc"}
    assert all(names | {"val_action/cat_movement", "epoch"} <= row.keys() for row in epochs)
    assert [row["epoch"] for row in epochs] == [1, 2]


def test_wandb_offline_holds_every_number_of_the_metrics_file(finished: Path) -> None:
    told: dict[int, dict[str, float]] = {}
    for row in read_history(next((finished / "tiny").glob("wandb/*/*.wandb"))):
        told.setdefault(int(row["step"]), {}).update(row)
    for row in read_metrics(Location.of(finished / "tiny")):
        found = told[row["step"]]
        assert {name: found[name] for name in row if name != "time"} == {n: v for n, v in row.items() if n != "time"}


def evaluate(name: Path | str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", str(name), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_fetched_copy_evaluates_to_the_same_numbers(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = evaluate(finished / "tiny", capsys)
    assert main(["fetch", str(finished / "tiny"), str(tmp_path / "copy")]) == 0
    (tmp_path / "copy/evaluation.json").unlink()
    monkeypatch.chdir(tmp_path)
    for name in ("copy", "./copy", str(tmp_path / "copy")):
        copied = evaluate(name, capsys)
        assert copied["rows"] == original["rows"]
        assert copied["run"] == str(tmp_path / "copy")
    assert json.loads((tmp_path / "copy/evaluation.json").read_text())["rows"] == original["rows"]
    best = read_best(Location.of(finished / "tiny"))
    assert best is not None
    assert original["rows"]["model"]["metric/action_ce"] == pytest.approx(best.value, rel=1e-6)
    card = (tmp_path / "copy/card.md").read_text()
    assert f"{original['rows']['kinematic']['metric/position_mae']:.5g}" in card


def test_exported_weights_are_the_checkpoints(finished: Path, tmp_path: Path) -> None:
    assert main(["export", str(finished / "tiny"), str(tmp_path / "x.pt"), "--checkpoint", "newest"]) == 0
    newest = newest_good(Location.of(finished / "tiny")).checkpoint
    assert newest is not None
    exported = load_users_checkpoint(tmp_path / "x.pt")
    assert all(torch.equal(exported.weights[name], value) for name, value in newest.weights.items())


def test_a_finished_run_is_listed_and_shown(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--storage", str(finished)]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["show", "tiny", "--storage", str(finished)]) == 0
    assert "to see it work" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ([], 2, "there is a run 'tiny' in .* already"),
        (["--resume"], 0, "'tiny' is finished at step .*nothing is left to train"),
        (["--resume", "--epochs", "1"], 2, r"has done (\d+) of \1 steps, and only .* \(1 epochs\) are asked for now"),
        (["--resume", "--run-name", "tinny"], 2, "no run 'tinny' .*did you mean 'tiny'"),
    ],
)
def test_a_name_that_was_used_is_not_trained_again(
    finished: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], status: int,
    said: str,
) -> None:  # fmt: skip
    before = read_files(finished)
    asked = ["train", str(write_experiment(tmp_path)), "--data", str(blocks), "--storage", str(finished), *more]
    assert main(asked) == status
    assert re.search(said, capsys.readouterr().err)
    assert read_files(finished) == before


def test_the_end_is_short_for_people_and_complete_as_json(
    blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, training={"max_steps": 2}, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    assert main([*asked, "--run-name", "a"]) == 0
    shown = capsys.readouterr().out
    end = shown[shown.index("run         a finished") :]
    assert len(end.splitlines()) <= 10
    assert all(word in end for word in ("step 2 of 2", "val_metric/action_ce", "card.md", "worldmodel evaluate"))
    assert main([*asked, "--run-name", "b", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert RunRecord.model_validate({k: v for k, v in told.items() if k != "location"}) == read_record(
        Location.of(tmp_path / "b")
    )


def test_the_estimate_is_kept_and_shown_beside_what_it_took(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "3600")
    soon = functools.partial(Estimator, pace=Pace(steps=1, seconds=0.0, warmup_steps=1))
    monkeypatch.setattr("worldmodel.run.train_worker.Estimator", soon)
    slow_down(monkeypatch, 0.05)
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    assert main(["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]) == 0
    record = read_record(Location.of(tmp_path / "tiny"))
    assert record.estimate is not None
    assert record.estimate.step == 6  # of two intervals the first is warm-up
    assert record.estimate.seconds == pytest.approx(record.seconds.total, rel=0.5)
    assert record.estimate.cost_usd == pytest.approx(record.estimate.seconds)
    out = capsys.readouterr().out
    assert out.count("estimate: ") == 1
    line = describe_estimate(record)
    assert re.search(r", took .*: (\d+ % (longer|shorter) than|as) estimated$", line)
    assert line in out[out.index("run ") :]
    card = (tmp_path / "tiny/card.md").read_text()
    assert f"- Estimate: {line}" in card
    assert "WORLDMODEL_PRICE_PER_HOUR" in card


@pytest.mark.parametrize("training", [{"batch_size": 100_000}, {"sequence_length": 3500, "batch_size": 2}])
def test_batches_beyond_the_data_and_sequences_of_a_game_train(
    blocks: Path, tmp_path: Path, training: dict[str, int]
) -> None:
    path = write_experiment(tmp_path, training={**training, "num_epochs": 1}, tracking={"wandb": "disabled"})
    assert main(["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]) == 0
    rows = read_metrics(Location.of(tmp_path / "tiny"))
    assert math.isfinite(rows[-1]["val_loss/total"])


def test_a_run_on_an_object_store_is_resumed_fetched_and_evaluated(
    finished: Path, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_s3() as url:
        use_s3(monkeypatch, url)
        monkeypatch.setenv("WORLDMODEL_CACHE", str(tmp_path / "cache"))
        for file in blocks.iterdir():
            (Location.of("s3://games/blocks") / file.name).upload(file)
        path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
        asked = ["train", str(path), "--data", "s3://games/blocks", "--storage", "s3://games/runs"]
        assert main([*asked, "--epochs", "1"]) == 0
        assert main([*asked, "--epochs", "2", "--resume"]) == 0
        run = Location.of("s3://games/runs/tiny")
        record = read_record(run)
        assert (record.state, record.epoch) == ("finished", 2)
        assert [row["epoch"] for row in read_metrics(run) if "val_loss/total" in row] == [1, 2]
        assert (run / "card.md").exists()
        original = evaluate(str(run), capsys)
        assert main(["fetch", str(run), str(tmp_path / "copy"), "--checkpoint", "newest"]) == 0
        assert evaluate(tmp_path / "copy", capsys)["targets"] == original["targets"]
        newest = list_checkpoints(run)[-1]
        copied = load_checkpoint(Location.of(tmp_path / "copy/checkpoints" / newest.name))
        assert all(torch.equal(copied.weights[n], v) for n, v in load_checkpoint(newest).weights.items())


def test_train_ends_with_a_fetch_of_just_these_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a terminal shows lies outside the bucket, whose writers can replace weights and manifest."""
    monkeypatch.setattr("worldmodel.run.train.train", lambda *_: read_record(Location.of(finished / "tiny")))
    assert main(["train", str(write_experiment(tmp_path)), "--storage", str(finished)]) == 0
    [command] = re.findall(r"worldmodel fetch .*", capsys.readouterr().out)
    words = command.replace("DEST", str(tmp_path / "copy")).split()[1:]
    assert words[-2] == "--expect" and main(words) == 0
    assert (tmp_path / "copy/checkpoints").is_dir()
