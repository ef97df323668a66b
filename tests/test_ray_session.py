"""Which Ray a process joins."""

from __future__ import annotations

import stat
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


@pytest.mark.parametrize("older", [None, "an earlier Ray's"])
def test_the_token_is_its_owner_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: str | None) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token, found = tmp_path / ".ray/auth_token", list[str]()
    if older:
        token.parent.mkdir()
        token.write_text(older)
        token.chmod(0o644)
    monkeypatch.setattr("ray.init", lambda **_: found.append(token.read_text()))
    join_ray()
    assert found == [older] if older else len(found[0]) == 64
    assert (stat.S_IMODE(token.stat().st_mode), list(token.parent.iterdir())) == (0o600, [token])


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_no_token_is_made_beside_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "a")
    monkeypatch.setattr("ray.init", lambda **_: None)
    join_ray()
    assert not list(tmp_path.iterdir())
