"""What a record says of the code and the command behind a run, wherever its process was started."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import worldmodel
from worldmodel.run.record import hash_source, make_command


def ask_copy(folder: Path) -> str:
    """What a copy of the package below `folder`, outside any checkout, calls its commit."""
    program = "from worldmodel.run.record import read_commit; print(read_commit())"
    asked = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def test_code_without_history_is_named_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLDMODEL_COMMIT", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    shutil.copytree(Path(worldmodel.__file__).parent, tmp_path / "worldmodel")
    assert ask_copy(tmp_path) == f"source-{hash_source()[:12]}"
    with (tmp_path / "worldmodel/schema.py").open("a") as file:
        file.write("# another version\n")
    changed = ask_copy(tmp_path)
    assert changed.startswith("source-")
    assert changed != f"source-{hash_source()[:12]}"


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["/venv/bin/worldmodel", "train", "a b.yaml"], {}, "worldmodel train 'a b.yaml'"),
        (["tune/round1.py", "--seeds", "3"], {}, "python tune/round1.py --seeds 3"),
        (["default_worker.py", "--secret"], {"WORLDMODEL_COMMAND": "python x.py"}, "python x.py"),
        (
            ["tune/round1.py"],
            {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"metadata": {"job_submission_id": "1"}, "runtime_env": {}})},
            "ray job submit -- python tune/round1.py",
        ),
        (
            ["tune/round1.py"],
            {
                "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(
                    {"metadata": {"job_submission_id": "1"}, "runtime_env": {"working_dir": "gcs://x.zip"}}
                )
            },
            "ray job submit --working-dir . -- python tune/round1.py",
        ),
    ],
)
def test_a_command_can_be_typed_again_as_it_stands(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str], expected: str
) -> None:
    for name in ("WORLDMODEL_COMMAND", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", arguments)
    assert make_command() == expected
