"""`worldmodel plan`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.training.tiny_runs import write_blocks
from worldmodel.cli.main import main

EXPERIMENT = {
    "model": {"d_model": 32, "d_state": 8, "headdim": 16, "n_layers": 1, "context_len": 4},
    "training": {"sequence_length": 8, "batch_size": 6, "device": "cpu", "threads": 1},
}
PEAK = {"value": 312, "date": "2021-06", "source": "data sheet"}
PRICES = {
    "gpus": {"A100": {"pattern": "A100", "bf16_tflops": PEAK, "memory_tb_s": {**PEAK, "value": 2}}},
    "providers": {
        "modal": {"gpu_hour": {"A100": {"value": 2.5, "date": "2026-02", "source": "notes"}}},
        "azure": {"machine_hour": {"NC96": {"value": 16, "gpu": "A100", "gpus": 4, "date": "2025", "source": "list"}}},
        "aws": {"gpu_hour": {"A100": {"value": 3.5, "date": "2025", "source": "list"}}},
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with blocks, an experiment and a price file."""
    folder = tmp_path_factory.mktemp("plan")
    write_blocks(folder)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (folder / "prices.yaml").write_text(yaml.safe_dump(PRICES))
    return folder


@pytest.fixture(autouse=True)
def settings(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDMODEL_PRICES", str(place / "prices.yaml"))
    monkeypatch.setattr("worldmodel.cli.plan.PROBE_SECONDS", 0.3)
    for name in ("WORLDMODEL_PRICE_PER_HOUR", "WORLDMODEL_PROVIDER"):
        monkeypatch.delenv(name, raising=False)


def ask(place: Path, *more: str) -> list[str]:
    return ["plan", str(place / "tiny.yaml"), "--data", str(place / "blocks"), *more]


def test_a_plan_names_counts_prices_and_what_is_unknown(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(ask(place, "--trials", "7", "--epochs", "3", "--budget-usd", "4")) == 0
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= 100
    assert shown.out.index("AWS") < shown.out.index("Azure") < shown.out.index("modal")
    for word in ("8 games", "measured here", "A100", "modal", "2026-02", "$2.50", "7 runs", "assumed, not measured"):
        assert word in shown.out
    assert "price of this machine unknown" in shown.out
    assert "set WORLDMODEL_PRICE_PER_HOUR" in " ".join(shown.out.split())
    assert "tiny differs from the defaults" in shown.err
    assert not (place / "runs").exists()


def test_as_json_it_is_one_object_with_the_same_numbers(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "1.5")
    assert main(ask(place, "--json", "--trials", "2")) == 0
    found = json.loads(capsys.readouterr().out)
    here, *others = found["compute"]
    assert [(row["provider"], row["usd_per_hour"]) for row in others] == [("aws", 3.5), ("azure", 4), ("modal", 2.5)]
    other = others[-1]
    assert here["usd"] == pytest.approx(1.5 * here["hours"])
    assert here["grid_usd"] == pytest.approx(2 * here["usd"])
    assert other["usd"] == pytest.approx(2.5 * other["hours"])
    assert found["work"]["total_steps"] == 2 * found["work"]["steps_per_epoch"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--budget-usd", "0"], "--budget-usd 0: expected a number above 0"),
        (["--trials", "0"], "--trials 0: expected at least 1"),
        (["--preset", "laptob"], "did you mean 'laptop'"),
    ],
)
def test_what_cannot_be_planned_is_refused_at_once(
    place: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(ask(place, *more)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "differs from the defaults" not in error
