"""A finished run, made once for all tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.tiny_train import write_experiment
from tests.games_on_disk import encode_toy_games
from worldmodel.cli.main import main


@pytest.fixture(scope="session")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded toy games."""
    return encode_toy_games(tmp_path_factory.mktemp("games"))


@pytest.fixture(scope="session")
def finished(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a finished run "tiny", tracked offline."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        asked = [str(write_experiment(folder)), "--data", str(blocks), "--storage", str(folder / "runs")]
        assert main(["train", *asked]) == 0
    return folder / "runs"


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B has no key here."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WORLDMODEL_PRICE_PER_HOUR", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no netrc"))
