"""Object storage for the hosts: SeaweedFS, a real S3 server."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from tests.cluster.lab.machine import GATEWAY
from tests.cluster.lab.waiting import wait_for

KEY, SECRET = "lab", "lab-secret"
SERVERS = ("s3", "master", "volume", "filer")
START_SECONDS = 60


@contextmanager
def serve_store(folder: Path, *buckets: str) -> Iterator[str]:
    """The URL of a server on the hosts' link that has empty buckets and one identity, KEY with SECRET."""
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    rights = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "List", "Write"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "lab", **rights}]}))
    first = 10_000 + 10 * secrets.randbelow(900)  # others' servers of the same ports would share its sockets in /tmp
    ports = {name: first + place for place, name in enumerate(SERVERS)}
    command = [
        str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder / 'data'}", "-s3",
        f"-s3.config={folder / 's3.json'}", f"-ip={GATEWAY}", "-ip.bind=0.0.0.0", "-volume.max=50",
        "-master.volumeSizeLimitMB=64", *(f"-{name}.port={port}" for name, port in ports.items()),
    ]  # fmt: skip
    url = f"http://{GATEWAY}:{ports['s3']}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        tell = (folder / "log").read_text
        wait_for(lambda: process.poll() is not None or _is_up(url), START_SECONDS, "SeaweedFS", tell)
        assert process.poll() is None, f"SeaweedFS ended:\n{tell()[-3000:]}"
        for bucket in buckets:
            _make_bucket(url, bucket)
        yield url
    finally:
        process.kill()
        process.wait()


def open_client(url: str) -> Any:
    """A boto3 client of the server."""
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )


def list_keys(url: str, bucket: str, prefix: str = "") -> list[str]:
    """Names of the objects in a bucket."""
    pages = open_client(url).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def _make_bucket(url: str, bucket: str) -> None:
    client = open_client(url)
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):  # asked again where the first answer was late
        client.create_bucket(Bucket=bucket)


def _is_up(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError as error:
        return error.code == 403
    except OSError:
        return False
    return True


def read_json(url: str, bucket: str, key: str) -> dict[str, Any]:
    """An object that holds JSON; empty where there is none."""
    try:
        return dict(json.loads(open_client(url).get_object(Bucket=bucket, Key=key)["Body"].read()))
    except ClientError:
        return {}


def upload_folder(url: str, folder: Path, bucket: str, prefix: str) -> None:
    """Put a folder's files into a bucket."""
    client = open_client(url)
    for path in filter(Path.is_file, folder.rglob("*")):
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")
