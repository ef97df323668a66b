"""Uploads to servers that others wrote: SeaweedFS as an S3 store with rights, Azurite as Azure's storage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cutting_proxy import cutting
from tests.faults.object_storage import BUCKET, find_ports, serve_weed
from tests.games_on_disk import encode_here, write_folder, write_games
from tests.infra.toolbox import TOOLS
from tests.s3_server import use_s3
from worldmodel.cli.main import main
from worldmodel.games.upload import UploadOptions, upload_games
from worldmodel.object_store import _open_azure, read_settings
from worldmodel.storage import Location

pytestmark = pytest.mark.slow
MB = 1_000_000
ACCOUNT, CONTAINER = "worldmodeltest", "ours"
ACCOUNT_KEY = "d29ybGRtb2RlbCB0ZXN0IGtleQ=="


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_weed(tmp_path_factory.mktemp("weed") / "data") as url:
        yield url


@pytest.fixture(scope="module")
def azurite() -> Iterator[str]:
    """What names a server of Azure's storage with one container."""
    program, node = TOOLS / "node/node_modules/azurite/dist/src/blob/main.js", shutil.which("node")
    if node is None or not program.exists():
        pytest.skip("no node or no azurite: tests/infra/install.sh installs it")
    (port,) = find_ports(1)
    process = subprocess.Popen(
        [node, program, "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence",
         "--blobHost", "127.0.0.1", "--blobPort", str(port)],
        env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{ACCOUNT_KEY}"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    said = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                _open_azure(None, None, said).create_dir(CONTAINER)
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None, "azurite did not start"
                time.sleep(0.3)
        yield said
    finally:
        process.kill()
        process.wait()


def write_large(folder: Path) -> Path:
    """Eight games of 3 MB, which nobody opens."""
    random = np.random.default_rng(0)
    write_folder(folder, {f"{n:032x}": random.bytes(3 * MB) for n in range(8)})
    return folder


def read_all(folder: Location) -> dict[str, bytes]:
    return {e.name: (folder / e.name).read_bytes() for e in folder.list_entries() if e.name.endswith(".tar")}


def test_seaweedfs_gets_what_was_sent_over_connections_that_break(
    weed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write_large(tmp_path / "large"), Location.of(f"s3://{BUCKET}/large")
    with cutting(weed, after=4 * MB, times=3) as (url, cuts):
        use_s3(monkeypatch, url)
        upload_games(str(source), str(target), UploadOptions(shard_mb=12.0))
        assert cuts.made == 3
    use_s3(monkeypatch, weed)
    again = upload_games(str(source), str(target), UploadOptions(shard_mb=12.0))
    assert (again.sent, again.damaged) == (0, []), "its tags are those that were computed"
    upload_games(str(source), str(tmp_path / "direct"), UploadOptions(shard_mb=12.0))
    assert read_all(target) == read_all(Location.of(tmp_path / "direct"))
    name = sorted(read_all(target))[0]
    (target / name).write_bytes(b"damaged")
    assert upload_games(str(source), str(target), UploadOptions(shard_mb=12.0)).damaged == [name]
    assert read_all(target) == read_all(Location.of(tmp_path / "direct"))


@pytest.mark.parametrize("secret", ["wrong", "secret"])
def test_a_key_that_seaweedfs_refuses_is_named_with_what_to_check(
    weed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], secret: str
) -> None:
    write_games(tmp_path / "games", range(2))
    use_s3(monkeypatch, weed)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key" if secret == "wrong" else "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    assert main(["upload", str(tmp_path / "games"), f"s3://{BUCKET}/refused"]) == 2
    assert "check the credentials" in capsys.readouterr().err


def test_azure_keeps_the_games_and_gives_them_back(
    azurite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
    assert read_settings()[-1] == azurite
    write_games(tmp_path / "games", range(5))
    target = Location.of(f"abfs://{CONTAINER}/melee")
    options = UploadOptions(shard_mb=0.05)
    first = upload_games(str(tmp_path / "games"), str(target), options)
    assert first.objects > 1 and upload_games(str(tmp_path / "games"), str(target), options).sent == 0
    name = sorted(read_all(target))[0]
    time.sleep(1.1)  # Azure tells times of change in whole seconds
    (target / name).write_bytes(bytes(len(read_all(target)[name])))
    assert upload_games(str(tmp_path / "games"), str(target), options).damaged == [name]
    assert main(["fetch", str(target), str(tmp_path / "here"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fetched"] == first.objects
    loose = encode_here(tmp_path / "games", tmp_path / "loose").index.fingerprint
    assert encode_here(target, tmp_path / "there").index.fingerprint == loose  # type: ignore[arg-type]
    assert encode_here(tmp_path / "here", tmp_path / "fetched").index.fingerprint == loose


def test_a_container_that_is_not_there_is_named(
    azurite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite)
    write_games(tmp_path / "games", range(2))
    assert main(["upload", str(tmp_path / "games"), "az://others/melee"]) == 2
    assert "there is no bucket 'others'" in capsys.readouterr().err
