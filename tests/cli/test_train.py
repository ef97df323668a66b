"""`worldmodel train` from end to end, one worker in this process."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.games_on_disk import encode_here
from tests.s3_server import serve_s3, use_s3
from tests.training.test_memory import limit_samples
from tests.training.test_tracking import read_history
from worldmodel.cli.main import main
from worldmodel.games.toy import write_toy_games
from worldmodel.model.exchange import load_users_checkpoint
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Checkpoint, load_checkpoint
from worldmodel.training.checkpoint_list import list_checkpoints, newest_good, read_best
from worldmodel.training.estimate import Estimator, Pace, describe_estimate
from worldmodel.training.feed import Batch, Feed
from worldmodel.training.record import RunRecord
from worldmodel.training.run_folder import read_config, read_record
from worldmodel.training.tracking import read_metrics

EXPERIMENT: dict[str, Any] = {
    "goal": "to see it work",
    "model": {"d_model": 32, "d_state": 8, "headdim": 16, "n_layers": 1},
    "training": {
        "sequence_length": 64, "batch_size": 16, "num_epochs": 2, "amp": False, "device": "cpu", "threads": 1,
        "log_interval": 3,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded toy games."""
    folder = tmp_path_factory.mktemp("games")
    write_toy_games(folder / "toy", 4, seed=0)
    encode_here(folder / "toy", folder / "blocks")
    return folder / "blocks"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B has no key here."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WORLDMODEL_PRICE_PER_HOUR", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no netrc"))


def write_experiment(folder: Path, **changes: Any) -> Path:
    """An experiment file; `training` and the like are merged."""
    values = {**EXPERIMENT, **{k: {**EXPERIMENT.get(k, {}), **v} for k, v in changes.items()}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def finished(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a finished run "tiny", tracked offline."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        asked = [str(write_experiment(folder)), "--data", str(blocks), "--storage", str(folder / "runs")]
        assert main(["train", *asked]) == 0
    return folder / "runs"


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
    assert original["rows"]["model"]["metric/position_mae"] == pytest.approx(best.value, rel=1e-6)
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


def read_files(storage: Path) -> dict[Path, bytes]:
    """Every file but W&B's, whose own process still writes its log."""
    return {path: path.read_bytes() for path in storage.rglob("*") if path.is_file() and "wandb" not in path.parts}


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ([], 2, "there is a run 'tiny' in .* already"),
        (["--resume"], 0, "'tiny' is finished at step .*nothing is left to train"),
        (["--resume", "--epochs", "1"], 0, "nothing is left to train"),
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
    assert all(word in end for word in ("step 2 of 2", "val_metric/position_mae", "card.md", "worldmodel evaluate"))
    assert main([*asked, "--run-name", "b", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert RunRecord.model_validate({k: v for k, v in told.items() if k != "location"}) == read_record(
        Location.of(tmp_path / "b")
    )


def take_newest(run: Path) -> Checkpoint:
    found = newest_good(Location.of(run)).checkpoint
    assert found is not None
    return found


def take_last_metrics(run: Path) -> dict[str, float]:
    """Those of an epoch; the others are of an interval, or depend on the clock."""
    last = read_metrics(Location.of(run))[-1]
    return {name: value for name, value in last.items() if name.startswith(("loss/", "metric/", "val_", "action/"))}


@pytest.fixture
def after_step() -> Iterator[Any]:
    """Calls an action once a run has done some steps."""
    threads: list[threading.Thread] = []

    def watch(run: Path, step: int, action: Any) -> None:
        def wait() -> None:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if any(row["step"] >= step for row in read_metrics(Location.of(run))):
                    action()
                    return
                time.sleep(0.01)

        threads.append(threading.Thread(target=wait, daemon=True))
        threads[-1].start()

    yield watch
    for thread in threads:
        thread.join(5)


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGTERM, "SIGTERM: the process was asked to end"), (signal.SIGINT, "Ctrl-C")]
)
def test_a_signal_saves_a_checkpoint_and_the_resumed_run_equals_an_uninterrupted_one(
    finished: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], after_step: Any, number: int,
    reason: str,
) -> None:  # fmt: skip
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    after_step(tmp_path / "tiny", 3, lambda: os.kill(os.getpid(), number))
    assert main(asked) == 130
    record = read_record(Location.of(tmp_path / "tiny"))
    assert record.state == "stopped"
    assert reason in record.reason
    assert 3 <= record.step < (record.total_steps or 0)
    saved = take_newest(tmp_path / "tiny")
    assert (saved.state.step, saved.state.tags[-1]) == (record.step, "stop")
    assert "--resume" in capsys.readouterr().out
    assert "stopped" in (tmp_path / "tiny/card.md").read_text()
    assert main([*asked, "--resume"]) == 0
    resumed, expected = take_newest(tmp_path / "tiny"), take_newest(finished / "tiny")
    assert all(torch.equal(resumed.weights[name], value) for name, value in expected.weights.items())
    assert all(torch.equal(resumed.optimizer[name], value) for name, value in expected.optimizer.items())
    assert resumed.state.best == expected.state.best
    mine, theirs = (
        {
            n: v
            for n, v in read_metrics(Location.of(run))[-1].items()
            if "/" in n and not n.startswith(("speed", "batch"))
        }
        for run in (tmp_path / "tiny", finished / "tiny")
    )
    assert mine == theirs
    assert f"resumed from step-{record.step:08d}" in capsys.readouterr().out


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every batch takes so much longer."""
    quick = Feed.batches

    def batches(self: Feed, step: int) -> list[Batch]:
        time.sleep(seconds)
        return quick(self, step)

    monkeypatch.setattr(Feed, "batches", batches)


@pytest.mark.parametrize("option", ["--budget-usd", "--budget-hours"])
def test_a_budget_stops_a_run_well_and_the_resumed_run_equals_an_uninterrupted_one(
    finished: Path, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "3600")  # a dollar a second
    limit = 0.7 if option == "--budget-usd" else 0.7 / 3600
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        slow_down(patch, 0.15)
        assert main([*asked, option, f"{limit:g}"]) == 130
    record = read_record(Location.of(tmp_path / "tiny"))
    assert record.state == "stopped"
    assert record.reason.startswith("budget of ")
    assert 0 < record.step < (record.total_steps or 0)
    assert 0.7 <= record.seconds.total == pytest.approx(record.cost_usd)
    saved = take_newest(tmp_path / "tiny")
    assert (saved.state.step, saved.state.tags[-1]) == (record.step, "stop")
    assert float(record.resume_command.split(option)[1]) > limit
    assert record.resume_command in capsys.readouterr().out
    before = read_files(tmp_path)
    assert main([*asked, option, f"{limit:g}", "--resume"]) == 2
    assert re.search(f"cannot go on: budget of .* ask for more, such as {option}", capsys.readouterr().err)
    assert read_files(tmp_path) == before
    assert main([*asked, option, f"{100 * limit:g}", "--resume"]) == 0
    resumed, expected = take_newest(tmp_path / "tiny"), take_newest(finished / "tiny")
    assert all(torch.equal(resumed.weights[name], value) for name, value in expected.weights.items())
    assert all(torch.equal(resumed.optimizer[name], value) for name, value in expected.optimizer.items())
    later = read_record(Location.of(tmp_path / "tiny"))
    assert (later.seconds_before, later.cost_before_usd) == (record.seconds.total, record.cost_usd)
    assert later.cost_usd == pytest.approx(later.seconds.total)


def test_the_estimate_is_kept_and_shown_beside_what_it_took(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "3600")
    soon = functools.partial(Estimator, pace=Pace(steps=1, seconds=0.0, warmup_steps=1))
    monkeypatch.setattr("worldmodel.training.train_worker.Estimator", soon)
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


def test_a_resume_to_another_length_says_what_becomes_of_the_learning_rate(
    blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    assert main([*asked, "--epochs", "1"]) == 0
    steps = read_record(Location.of(tmp_path / "tiny")).step
    assert "learning rate" not in capsys.readouterr().err
    assert main([*asked, "--epochs", "3", "--resume"]) == 0
    said = f"the run was to have {steps} steps (1 epochs), from step {steps} on it has {3 * steps} (3 epochs)"
    assert said in capsys.readouterr().err
    assert any(said in note for note in read_record(Location.of(tmp_path / "tiny")).notes)
    assert main([*asked, "--epochs", "3", "--resume"]) == 0
    assert "learning rate" not in capsys.readouterr().err


def test_a_failing_run_says_why_everywhere(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = Feed.batches

    def batches(self: Feed, step: int) -> list[Batch]:
        first, *others = clean(self, step)
        bad = first.inputs.floats + (math.nan if step == 5 else 0.0)
        return [dataclasses.replace(first, inputs=dataclasses.replace(first.inputs, floats=bad)), *others]

    monkeypatch.setattr(Feed, "batches", batches)
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    began = time.monotonic()
    assert main(asked) == 1
    assert time.monotonic() - began < 30
    record = read_record(Location.of(tmp_path / "tiny"))
    assert record.state == "failed"
    assert record.reason.startswith("NonFiniteError: ")
    assert "at step 6 " in record.reason
    assert "_close_interval" in record.traceback
    assert any(line.startswith("step 3/") for line in record.last_lines)
    card = (tmp_path / "tiny/card.md").read_text()
    assert "NonFiniteError" in card
    assert "--resume" in card
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert f"{tmp_path}/tiny keeps what happened" in said


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, ["--data", ""], "name games or blocks with --data"),
        ({}, ["--data", "{tmp}/absent"], "does not exist"),
        ({}, ["--data", "{tmp}/empty"], "is empty: expected"),
        ({}, ["--workers", "3"], "use one of [1, 2, 4, 8]"),
        ({}, ["--preset", "laptob"], "did you mean 'laptop'"),
        ({}, ["--storage", "{tmp}/file"], "Not a directory; choose a folder"),
        ({"training": {"lern_rate": 1}}, [], "training.lern_rate: unknown key"),
        ({"training": {"device": "cuda"}}, [], "'cuda' was asked for"),
        ({"training": {"best_metric": "val_metric/position"}}, [], "did you mean 'val_metric/position_mae'"),
        ({"model": {"context_len": 90_000}}, [], "context_len 90000"),
        ({"data": {"max_games": 1}}, [], "1 game cannot be split"),
        ({"data": {"stage_filter": 1}}, [], "passes the filters"),
        ({}, ["--budget-hours", "0"], "--budget-hours 0: expected a number above 0"),
        ({}, ["--budget-usd", "-2"], "--budget-usd -2: expected a number above 0"),
        ({}, ["--budget-usd", "nan"], "--budget-usd nan: expected a number above 0"),
        ({}, ["--budget-usd", "5"], "set WORLDMODEL_PRICE_PER_HOUR"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused_before_a_run_begins(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any], options: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    given = {"--data": str(blocks), "--storage": str(tmp_path / "runs")}
    given |= {options[k]: options[k + 1].format(tmp=tmp_path) for k in range(0, len(options), 2)}
    asked = [word for pair in given.items() if pair[1] for word in pair]
    assert main(["train", str(write_experiment(tmp_path, **changes)), *asked]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert "differs from the defaults" not in error
    assert not (tmp_path / "runs/tiny").exists()


def test_a_damaged_block_is_named_and_not_trained_on(
    blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode_here(blocks.parent / "toy", tmp_path / "blocks")
    block = next((tmp_path / "blocks").glob("*.arrow"))
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 1
    block.write_bytes(content)
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    assert main(["train", str(path), "--data", str(tmp_path / "blocks"), "--storage", str(tmp_path)]) == 2
    assert f"block {block} is damaged" in capsys.readouterr().err
    record = read_record(Location.of(tmp_path / "tiny"))
    assert (record.state, record.step) == ("failed", 0)
    assert str(block) in record.reason


def test_a_batch_that_does_not_fit_is_named_and_auto_batch_goes_on_with_its_parts(
    finished: Path, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    asked = ["train", str(path), "--data", str(blocks), "--storage", str(tmp_path)]
    limit_samples(monkeypatch, 12)
    assert main(asked) == 2
    record = read_record(Location.of(tmp_path / "tiny"))
    assert (record.state, record.step) == ("failed", 0)
    assert "16 sequences at a time do not fit, 8 do (tried)" in record.reason
    said = capsys.readouterr().err
    assert record.reason in said
    assert "Traceback" not in said
    assert main([*asked, "--auto-batch", "--resume"]) == 0
    said = capsys.readouterr().err
    parts = read_config(Location.of(tmp_path / "tiny")).training.batch_parts
    assert parts > 1
    assert f"--auto-batch: training.batch_parts {parts}: " in said
    ours, whole = read_record(Location.of(tmp_path / "tiny")), read_record(Location.of(finished / "tiny"))
    assert (ours.state, ours.step) == (whole.state, whole.step)
    assert ours.metrics["val_loss/total"] == pytest.approx(whole.metrics["val_loss/total"], rel=0.05)


def test_where_auto_batch_finds_nothing_no_run_begins(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, tracking={"wandb": "disabled"})
    limit_samples(monkeypatch, 0)
    assert main(["train", str(path), "--data", str(blocks), "--storage", str(tmp_path), "--auto-batch"]) == 2
    assert "even the smallest parts" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("training", [{"batch_size": 100_000}, {"sequence_length": 5000, "batch_size": 2}])
def test_batches_and_sequences_longer_than_the_data_train_all_the_same(
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
