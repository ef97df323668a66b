"""What the verbs about runs say of run folders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from worldmodel.cli.main import main
from worldmodel.experiment.config import ExperimentConfig, ModelConfig
from worldmodel.model.build import build_model
from worldmodel.run.run_folder import start_run
from worldmodel.storage import Location
from worldmodel.training.checkpoint import Best, Checkpoint, CheckpointState, load_checkpoint, save_checkpoint
from worldmodel.training.checkpoint_list import find_checkpoint, mark_best, read_best


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with a run that failed and one that finished."""
    folder = tmp_path / "runs"
    failed = start_run(Location.of(folder), ExperimentConfig(name="first"), total_steps=10)
    with pytest.raises(ValueError, match="a cause"), failed.recording():
        failed.note_step(3)
        raise ValueError("a cause")
    finished = start_run(Location.of(folder), ExperimentConfig(name="second"), total_steps=1)
    with finished.recording():
        finished.note_step(1)
    return folder


def test_runs_lists_every_run_and_why_it_ended(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--storage", str(storage), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert {name: row["state"] for name, row in rows.items()} == {"first": "failed", "second": "finished"}
    assert "a cause" in rows["first"]["reason"]
    assert rows["first"]["step"] == "3/10"
    assert main(["runs", "--storage", str(storage)]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("first", "second", "failed", "finished", "a cause"))


def test_an_empty_storage_has_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"


def test_show_has_the_traceback_and_the_command_that_resumes(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "first", "--storage", str(storage)]) == 0
    shown = capsys.readouterr().out
    assert "ValueError: a cause" in shown
    assert "--resume" in shown


def test_show_is_a_page_not_markdown(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["show", "tiny", "--storage", str(finished)]) == 0
    shown = capsys.readouterr().out
    page = shown[: shown.index("location")]
    assert max(map(len, page.splitlines())) <= 80 and len(page.splitlines()) < 75
    assert (
        "to see it work" in shown and "position MAE" in shown and "| ---" not in shown and "not measured |" not in shown
    )
    assert Path(shown.split("all metrics")[1].split()[0]).read_text().startswith("<!doctype html>")


def test_a_storage_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--storage", str(tmp_path / "absent")]) == 2
    shown = capsys.readouterr()
    assert f"there is no folder {tmp_path}/absent" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    "line",
    [["runs", "--storage", "{file}"], ["show", "{file}"], ["show", "a", "--storage", "{file}"],
     ["fetch", "{file}", "{file}.copy"], ["tail", "{file}"], ["leaderboard", "{file}"]],
    ids=" ".join,
)  # fmt: skip
def test_a_file_where_runs_should_be_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    (file := tmp_path / "card.md").write_text("a file")
    assert main([part.format(file=file) for part in line]) == 2
    assert capsys.readouterr().err == f"error: {file} is a file, expected a folder\n"


def test_people_see_short_numbers_and_no_python_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = start_run(Location.of(tmp_path), ExperimentConfig(name="tiny"), device={"name": "a processor"})
    best = Best(metric="val_metric/position_mae", value=1 / 3, step=4, path="checkpoints/step-00000004")
    run.update(best=best, metrics={"loss/total": 2 / 3}, checkpoint=best.path)
    with run.recording():
        run.note_step(4)
    for line in (["runs", "--storage", str(tmp_path)], ["show", str(tmp_path / "tiny")]):
        assert main(line) == 0
        shown = capsys.readouterr().out
        assert "0.3333" in shown
        assert not re.search(r"[{}]|None|\d\.\d{7}", shown)
    assert main(["runs", "--storage", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["best"] == 1 / 3


def test_a_trial_is_named_by_its_grid(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_run(Location.of(storage / "grid"), ExperimentConfig(name="1a-seed0"))
    assert main(["runs", "--storage", str(storage), "--json"]) == 0
    assert "grid/1a-seed0" in [row["name"] for row in json.loads(capsys.readouterr().out)["runs"]]
    assert main(["show", "grid/1a-seed0", "--storage", str(storage), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["location"] == str(storage / "grid/1a-seed0")
    assert main(["show", "grid", "--storage", str(storage)]) == 2
    assert "is a grid: name one of its trials: grid/1a-seed0" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["show"], ["fetch", "DEST"]])
def test_an_absent_run_is_named_with_the_nearest(
    storage: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    assert main([verb[0], "secnd", *verb[1:], "--storage", str(storage)]) == 2
    assert "there is no run 'secnd'" in (error := capsys.readouterr().err)
    assert "did you mean 'second'?" in error


def test_fetching_from_a_run_without_checkpoints_is_refused(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "second", str(storage / "dest"), "--storage", str(storage)]) == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert not (storage / "dest").exists()


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Checkpoint]:
    """A storage with a run "tiny" and the newest of its two checkpoints."""
    config = ExperimentConfig(name="tiny", model=ModelConfig(d_model=16, n_layers=1, headdim=8, d_state=4))
    run = start_run(Location.of(tmp_path), config)
    for step in (4, 8):
        model = build_model(config.model, config.encoding.layout)
        newest = Checkpoint.of(model, torch.optim.AdamW(model.parameters()), CheckpointState(step=step, epoch=2))
        save_checkpoint(run.location, newest)
    return tmp_path, newest


def test_fetch_brings_the_same_bytes(trained: tuple[Path, Checkpoint], capsys: pytest.CaptureFixture[str]) -> None:
    storage, newest = trained
    (storage / "tiny/evaluation.json").write_text("{}")
    assert main(["fetch", "tiny", str(storage / "here"), "--storage", str(storage), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert all(Path(path).exists() for path in shown["files"])
    assert json.loads((storage / "here/run.json").read_text())["name"] == "tiny"
    for name in ("run.json", "config.yaml", "evaluation.json"):
        assert (storage / "here" / name).read_bytes() == (storage / "tiny" / name).read_bytes()
    fetched = load_checkpoint(Location.of(storage / "here/checkpoints/step-00000008"))
    assert fetched.state.step == 8
    assert all(torch.equal(fetched.weights[name], value) for name, value in newest.weights.items())


def test_a_fetch_goes_on_where_it_was_interrupted(trained: tuple[Path, Checkpoint]) -> None:
    storage, newest = trained
    asked = ["fetch", str(storage / "tiny"), str(storage / "here")]
    assert main(asked) == 0
    weights = storage / "here/checkpoints/step-00000008/weights.safetensors"
    (storage / "here/checkpoints/step-00000008/manifest.json").unlink()
    weights.write_bytes(weights.read_bytes()[:100])
    assert main(asked) == 0
    fetched = load_checkpoint(Location.of(storage / "here/checkpoints/step-00000008"))
    assert all(torch.equal(fetched.weights[name], value) for name, value in newest.weights.items())


def test_a_best_checkpoint_comes_with_the_pointer_to_it(trained: tuple[Path, Checkpoint]) -> None:
    storage, _ = trained
    run, here = Location.of(storage / "tiny"), Location.of(storage / "here")
    mark_best(run, Best(metric="val_loss/total", value=1.0, step=4, path="checkpoints/step-00000004"))
    assert main(["fetch", str(run), str(here), "--checkpoint", "newest"]) == 0
    assert read_best(here) is None
    assert main(["fetch", str(run), str(here)]) == 0
    assert read_best(here) == read_best(run)
    assert find_checkpoint(here, "best").name == "step-00000004"


@pytest.mark.parametrize(
    ("there", "named"), [("run", "holds another run"), ("file", "is a file"), ("notes", "holds other things")]
)
def test_a_fetch_overwrites_nothing_else(
    trained: tuple[Path, Checkpoint], capsys: pytest.CaptureFixture[str], there: str, named: str
) -> None:
    storage, _ = trained
    start_run(Location.of(storage), ExperimentConfig(name="run"))
    (storage / "notes").mkdir()
    for path in (storage / "file", storage / "notes/mine.txt"):
        path.write_text("mine")
    before = {path: path.read_bytes() for path in (storage / there).rglob("*") if path.is_file()}
    assert main(["fetch", str(storage / "tiny"), str(storage / there)]) == 2
    assert named in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (storage / there).rglob("*") if path.is_file()} == before
