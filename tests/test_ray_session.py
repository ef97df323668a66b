"""Which Ray a process joins."""

from __future__ import annotations

import socket
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tune.round1 import main
from worldmodel import ray_session
from worldmodel.cli.main import main as train
from worldmodel.errors import UserError
from worldmodel.ray_session import check_address, is_on_cluster, join_ray


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


@pytest.fixture
def no_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tokens are made below the test's own home."""
    monkeypatch.setenv("HOME", str(tmp_path))


def listen(answer: bytes | None) -> tuple[socket.socket, str]:
    """A server that answers so to whoever connects; None: it says nothing."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            stream, _ = server.accept()
            stream.recv(1000)
            if answer is not None:
                stream.sendall(answer)
                stream.close()
            held.append(stream)

    held: list[socket.socket] = []
    threading.Thread(target=serve, daemon=True).start()
    return server, f"127.0.0.1:{server.getsockname()[1]}"


DEAD = ["127.0.0.1:1", "ray://127.0.0.1:1", "foo.invalid", "foo.invalid:6379", "127.0.0.1:x"]


@pytest.mark.parametrize("address", DEAD)
def test_a_ray_that_is_gone_is_one_message_in_seconds(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    begin = time.monotonic()
    with pytest.raises(UserError, match=rf"(?s)RAY_ADDRESS={address}.*`unset RAY_ADDRESS`"):
        join_ray()
    assert time.monotonic() - begin < 30


def test_workers_of_a_ray_that_is_gone_are_refused_before_games_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", DEAD[0])
    (tmp_path / "x.yaml").write_text("tracking: {wandb: disabled}\n")
    asked = ["train", str(tmp_path / "x.yaml"), "--workers", "2", "--data", str(tmp_path / "none")]
    assert train(asked) == 2
    assert f"no Ray answers at RAY_ADDRESS={DEAD[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError, RuntimeError, ValueError])
def test_what_ray_says_of_an_address_is_one_message(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise error("Could not find any running Ray instance")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(
        UserError, match=r"RAY_ADDRESS=auto cannot be joined .*running Ray instance.*`worldmodel doctor`"
    ):
        join_ray()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_what_listens_and_is_no_ray_is_told_from_one(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "CONNECT_SECONDS", 0.5)
    server, address = listen(answer)
    with server, pytest.raises(UserError, match=f"no Ray answers at RAY_ADDRESS={address}"):
        check_address(address)


def test_a_ray_that_answers_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    server, address = listen(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    joined: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", f" {address} ")
    monkeypatch.setattr("ray.init", lambda address, **_: joined.append(address))
    with server:
        join_ray()
    assert joined == [address]


@pytest.mark.usefixtures("no_tokens")
@pytest.mark.parametrize("address", ["", " ", "\t"])
def test_a_blank_address_names_no_ray(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.init", lambda address, **_: joined.append(address))
    join_ray()
    assert (joined, is_on_cluster()) == (["local"], False)


@pytest.mark.usefixtures("no_tokens")
def test_ray_s_sockets_go_to_a_short_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str | None] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("ray.init", lambda _temp_dir=None, **_: found.append(_temp_dir))
    for folder in ("/tmp/x", "/tmp/" + "slurm_jobdir_" * 6):
        monkeypatch.setenv("TMPDIR", folder)
        join_ray()
    assert found == [None, "/tmp/ray"]
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(UserError, match=r"RAY_TMPDIR has 83 bytes, .*: set RAY_TMPDIR to a short folder"):
        join_ray()


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
