"""What `worldmodel train` does not begin, and says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.tiny_train import write_experiment
from tests.games_on_disk import encode_here
from tests.training.test_memory import limit_samples
from worldmodel.cli.main import main
from worldmodel.run.run_folder import read_config, read_record
from worldmodel.storage import Location

pytestmark = pytest.mark.usefixtures("no_key")


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, ["--data", ""], "name games or blocks with --data"),
        ({}, ["--data", "{tmp}/absent"], "does not exist"),
        ({}, ["--data", "{tmp}/empty"], "is empty: expected"),
        ({}, ["--workers", "9"], "9 workers cannot share 8 partitions of the data: use 1 to 8"),
        ({}, ["--workers", "4..2"], "expected a number of workers, or the least and the most, as 2..8"),
        ({}, ["--workers", "two"], "expected a number of workers, or the least and the most, as 2..8"),
        ({}, ["--workers", "0..2"], "expected a number of workers, or the least and the most, as 2..8"),
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
