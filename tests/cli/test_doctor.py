"""`worldmodel doctor`: one table, a remedy under every failed line, an exit status that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldmodel.cli.doctor import Doctor
from worldmodel.cli.main import main, parse
from worldmodel.doctor.check import Check, Outcome
from worldmodel.doctor.table import describe_check, render_table, summarise


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster, no W&B, no settings; a folder without cluster files."""
    for name in ("RAY_ADDRESS", "WORLDMODEL_STORAGE", "WORLDMODEL_DATA", "WORLDMODEL_PRICE_PER_HOUR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)


def test_the_verb_is_called_by_its_name() -> None:
    line = "doctor --storage s3://b/runs --data G --gpus-per-trial 0.5 --cluster c.yaml --wait-minutes 3 --no-rehearse"
    assert parse(line.split()) == Doctor(
        storage="s3://b/runs", data="G", gpus_per_trial=0.5, cluster=Path("c.yaml"), wait_minutes=3.0, no_rehearse=True
    )


def test_a_sound_machine_ends_with_0_and_warnings_do_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-rehearse"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("storage", "disk", "/dev/shm", "Ray", "price", "warning", "checks in"))
    assert "rehearsal" not in shown
    assert not Path("runs").exists()


def test_a_failed_check_ends_with_1_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("provider: {type: gcp}\nmetadata: {data: CHANGE-ME}\nidle_timeout_minutes: 5\n")
    assert main(["doctor", "--no-rehearse", "--cluster", "c.yaml", "--data", "absent", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    failed = {row["name"]: row for row in found["checks"] if row["outcome"] == "failed"}
    assert failed.keys() == {"cluster settings", "Ray's token", "data"} and found["failed"] == 3
    assert "metadata.data" in failed["cluster settings"]["found"]
    assert all(row["remedy"] for row in failed.values())
    assert main(["doctor", "--no-rehearse", "--data", "absent"]) == 1
    assert "→ name other games or blocks" in " ".join(capsys.readouterr().out.replace("│", "").split())


def test_without_a_storage_nothing_is_rehearsed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--storage", str(tmp_path / "file" / "runs"), "--json"]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert rows["storage"]["outcome"] == "failed"
    assert rows["rehearsal"]["outcome"] == "skipped" and "mend storage first" in rows["rehearsal"]["found"]


def test_a_gpu_that_is_asked_for_and_absent_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("PATH", "")
    assert main(["doctor", "--no-rehearse", "--gpus-per-trial", "1", "--json"]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert "no NVIDIA driver" in rows["GPU"]["found"]


@pytest.mark.parametrize(
    ("text", "found"),
    [(None, "cannot be read"), ("a: [", "cannot be read"), ("kind: Secret", "starts no cluster"), ("", "starts no")],
)
def test_a_file_that_is_no_cluster_ends_with_one_message(
    text: str | None, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path("c.yaml").write_text(text)
    assert main(["doctor", "--no-rehearse", "--cluster", "c.yaml"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: c.yaml ") and found in said.err and said.out == ""


def test_fix_needs_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--fix", "--no-rehearse"]) == 2
    assert "--cluster cluster/a100.yaml" in capsys.readouterr().err


def test_fix_makes_the_token_and_shows_the_rest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    Path("c.yaml").write_text("provider: {type: gcp, project_id: p, region: r}\nidle_timeout_minutes: 5\n")
    assert main(["doctor", "--no-rehearse", "--cluster", "c.yaml"]) == 1
    assert "doctor --cluster c.yaml --fix" in " ".join(capsys.readouterr().out.replace("│", "").split())
    assert main(["doctor", "--no-rehearse", "--cluster", "c.yaml", "--fix"]) == 0
    assert (tmp_path / ".ray/auth_token").exists()
    assert "gcloud services enable" in capsys.readouterr().out


def test_a_cloud_is_not_asked_with_a_placeholder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("provider: {type: gcp, project_id: CHANGE-ME, region: r}\nidle_timeout_minutes: 5\n")
    main(["doctor", "--no-rehearse", "--cluster", "c.yaml", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert rows["cloud account"]["outcome"] == "skipped" and "provider.project_id" in rows["cloud account"]["found"]
    assert "cloud services" not in rows


@pytest.mark.parametrize("option", [("--storage", "ftp://b/runs"), ("--data", "s3://")])
def test_a_request_that_cannot_be_carried_out_ends_with_2(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--no-rehearse", *option]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_good_lines_of_many_machines_become_one_and_bad_ones_stay_apart() -> None:
    def line(machine: int, outcome: Outcome) -> Check:
        return Check(name="disk", outcome=outcome, found="room", remedy="mend", machine=f"host{machine}")

    checks = [line(number, Outcome.OK) for number in range(5)] + [line(9, Outcome.FAILED)]
    table = render_table(checks)
    assert [list(column.cells) for column in table.columns][1] == ["5 machines", "host9"]
    assert summarise(checks, 1.25) == "6 checks in 1.2 s: 5 ok, 1 failed"
    assert describe_check(checks[-1]) == "failed: disk (host9): room; mend"
