"""Which Ray a process joins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune.round1 import main
from worldmodel.errors import UserError
from worldmodel.ray_session import join_ray


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has joined none."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head:443"])
def test_the_address_for_jobs_is_refused_with_what_to_do(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rf"RAY_ADDRESS={address} .*ray job submit .*`unset RAY_ADDRESS`"):
        join_ray()


def test_a_grid_that_is_run_here_with_the_address_for_jobs_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert main(["--storage", str(tmp_path), "--dry-run"]) == 2
    assert "ray job submit" in capsys.readouterr().err
