"""What a run, a run that fails and a grid leave behind and print holds no secret of their environment."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.games_on_disk import encode_toy_games
from tests.s3_server import serve_s3

is_long = os.environ.get("WORLDMODEL_FAULTS") == "long"
pytestmark = [
    pytest.mark.faults,
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not is_long, reason="whole runs and a grid: make test-faults FAULTS=long"),
]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret-4f1c2d", "AWS_SESSION_TOKEN": "planted-session-token-77aa31",
    "WANDB_API_KEY": "0planted0wandb0key0aaaaaaaaaaaaaaaaaaaaa", "RAY_AUTH_TOKEN": "planted-ray-token-5e5e5e",
    "AZURE_STORAGE_KEY": "planted-azure-key-99bb10", "HF_TOKEN": "planted-other-token-c0ffee",
}  # fmt: skip
PASSWORD = "planted-proxy-password-123"
SMALL = {
    "model": {"d_model": 32, "d_state": 8, "headdim": 16, "n_layers": 1},
    "training": {
        "sequence_length": 64, "batch_size": 16, "num_epochs": 1, "device": "cpu", "threads": 1, "amp": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with serve_s3() as url:
        yield url


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with encoded games and experiments: one that is sound, and one whose learning rate is absurd."""
    encode_toy_games(tmp_path)
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(SMALL))
    wild = {**SMALL["training"], "lr": 1e30, "clip": 1e30, "warmup_pct": 0.0, "num_epochs": 50}
    (tmp_path / "wild.yaml").write_text(yaml.safe_dump({**SMALL, "training": wild}))
    return tmp_path


def run(place: Path, store: str, *words: str, ray: Path | None = None) -> tuple[int, str]:
    """Exit status and all that is printed; everything that is left behind lies below `place`, and Ray's below `ray`."""
    host = store.removeprefix("http://")
    environment = {
        **os.environ, **SECRETS, "AWS_ACCESS_KEY_ID": "planted-key-id", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": store, "WANDB_BASE_URL": f"http://user:{PASSWORD}@{host}", "OMP_NUM_THREADS": "1",
        "HOME": str(place / "home"), "RAY_TMPDIR": str(ray or place),
    }  # fmt: skip
    (place / "home").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=230
    )
    return done.returncode, done.stdout.decode(errors="replace")


def find_secrets(folder: Path, printed: str) -> list[str]:
    """Where a secret stands: file, or "printed", and whose it is."""
    planted = {**SECRETS, "a password in an address": PASSWORD}
    found = [f"printed: {name}" for name, value in planted.items() if value in printed]
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content += gzip.decompress(content)
        found += [f"{path.relative_to(folder)}: {name}" for name, value in planted.items() if value.encode() in content]
    return found


def test_a_run_that_ends_well_and_one_that_fails_leave_no_secret(place: Path, store: str) -> None:
    train = ["-m", "worldmodel.cli.main", "train"]
    more = ["--data", str(place / "blocks"), "--storage", str(place / "runs")]
    status, printed = run(place, store, *train, str(place / "good.yaml"), *more)
    assert status == 0, printed
    failed, said = run(place, store, *train, str(place / "wild.yaml"), *more)
    assert failed == 1 and "NonFiniteError" in said
    assert (place / "runs/good/run.json").exists() and (place / "runs/wild/card.md").exists()
    assert find_secrets(place, printed + said) == []


def test_what_cannot_be_read_is_told_without_a_secret(place: Path, store: str) -> None:
    train = ["-m", "worldmodel.cli.main", "train", str(place / "good.yaml"), "--data", str(place / "blocks")]
    printed = ""
    for storage in (
        "s3://nowhere/runs", f"s3://planted-key-id:{SECRETS['AWS_SECRET_ACCESS_KEY']}@games/runs", "/proc/nowhere"
    ):  # fmt: skip
        status, said = run(place, store, *train, "--storage", storage)
        assert status == 2, said
        printed += said
    assert find_secrets(place, printed) == []


@pytest.mark.timeout(300)
def test_a_grid_and_its_ray_leave_no_secret(place: Path, store: str) -> None:
    settings = [
        "model.d_model=32", "model.d_state=8", "model.headdim=16", "model.n_layers=1", "training.sequence_length=64",
        "training.batch_size=16", "training.amp=false", "training.device=cpu", "training.max_steps=2",
        "tracking.wandb=offline",
    ]  # fmt: skip
    words = [
        "tune/round1.py", "--data", str(place / "blocks"), "--storage", str(place / "runs"), "--name", "grid",
        "--experiments", "baseline", "1a", "--set", *settings,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # it holds sockets, whose names may not be long
        status, printed = run(place, store, *words, ray=Path(short))
        assert status == 0, printed
        assert list(Path(short).rglob("*.log"))  # Ray's own logs are searched as well
        assert find_secrets(place, printed) + find_secrets(Path(short), "") == []
