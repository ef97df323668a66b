"""The steps before a first `ray up`: a token and a key pair that `--fix` makes, and machines that take the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from worldmodel.doctor.check import Check, Outcome
from worldmodel.doctor.cluster_steps import KEY, MACHINE, TOKEN, check_steps

OWN = {
    "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]},
    "auth": {"ssh_user": "me", "ssh_private_key": "~/.ssh/worldmodel_ed25519"},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without token and keys, and an ssh that no machine answers."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    answer_ssh(tmp_path, monkeypatch, "echo 'connect to host: Connection timed out' >&2; exit 255")
    return tmp_path


def answer_ssh(home: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an `ssh` first on the PATH."""
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin/ssh").write_text(f"#!/bin/sh\n{script}\n")
    (home / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}:/usr/bin:/bin")


def look(home: Path, document: dict[str, Any] = OWN, *, fix: bool = False) -> dict[str, Check]:
    """The checks of a file, by their names."""
    (home / "c.yaml").write_text(yaml.safe_dump(document))
    return {check.name: check for check in check_steps(home / "c.yaml", fix=fix)}


def test_without_fix_nothing_is_made(home: Path) -> None:
    found = look(home)
    for name in (TOKEN, KEY):
        assert found[name].is_failed and f"doctor --cluster {home}/c.yaml --fix` makes it" in found[name].remedy
    assert not (home / ".ray").exists() and not (home / ".ssh").exists()


def test_fix_makes_token_and_key_for_their_owner_alone(home: Path) -> None:
    found = look(home, fix=True)
    token, key = home / ".ray/auth_token", home / ".ssh/worldmodel_ed25519"
    assert found[TOKEN].outcome is found[KEY].outcome is Outcome.OK and "made" in found[KEY].found
    assert len(token.read_text()) == 64 and token.stat().st_mode & 0o777 == 0o600
    assert key.stat().st_mode & 0o777 == 0o600 and key.with_suffix(".pub").read_text().startswith("ssh-ed25519 ")
    before = token.read_text(), key.read_text()
    assert "made" not in look(home, fix=True)[KEY].found
    assert (token.read_text(), key.read_text()) == before


def test_fix_mends_an_empty_and_an_open_token(home: Path) -> None:
    token = home / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("")
    assert look(home)[TOKEN].is_failed
    look(home, fix=True)
    made = token.read_text()
    token.chmod(0o644)
    assert "others" in look(home)[TOKEN].found
    assert look(home, fix=True)[TOKEN].outcome is Outcome.OK
    assert token.stat().st_mode & 0o777 == 0o600 and token.read_text() == made != ""


def test_a_token_of_the_environment_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-of-the-shell")
    check = look(home, fix=True)[TOKEN]
    assert check.is_failed and "unset RAY_AUTH_TOKEN" in check.remedy and "secret" not in check.found + check.remedy


def test_a_missing_ssh_keygen_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home / "bin"))
    check = look(home, fix=True)[KEY]
    assert check.is_failed and "ssh-keygen" in check.found


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            "me@10.0.0.2: Permission denied (publickey).",
            "ssh-copy-id -i {home}/.ssh/worldmodel_ed25519.pub me@10.0.0.2",
        ),
        ("connect to host 10.0.0.2 port 22: Connection refused", "that SSH listens there"),
    ],
)
def test_a_machine_that_refuses_the_key_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, said: str, remedy: str
) -> None:
    answer_ssh(home, monkeypatch, f'case "$*" in *10.0.0.2*) echo "{said}" >&2; exit 255;; esac')
    checks = [check for check in check_steps(_write(home), fix=True) if check.name == MACHINE]
    assert [check.outcome for check in checks] == [Outcome.OK, Outcome.FAILED]
    assert "10.0.0.1" in checks[0].found and said in checks[1].found
    assert remedy.format(home=home) in checks[1].remedy


def _write(home: Path) -> Path:
    (home / "c.yaml").write_text(yaml.safe_dump(OWN))
    return home / "c.yaml"


def test_addresses_left_unset_are_not_asked(home: Path) -> None:
    document = {**OWN, "provider": {"type": "local", "head_ip": "CHANGE-ME", "worker_ips": ["CHANGE-ME"]}}
    assert MACHINE not in look(home, document, fix=True)


def test_ray_makes_the_key_of_a_cloud_itself(home: Path) -> None:
    found = look(home, {"provider": {"type": "aws", "region": "us-west-2"}, "auth": {"ssh_user": "ubuntu"}})
    assert KEY not in found and TOKEN in found
    assert look(home, {"resources": {"accelerators": "A100:1"}, "run": "x"}) == {}, "SkyPilot needs none"
