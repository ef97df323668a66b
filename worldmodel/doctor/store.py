"""Whether a storage can be listed, written, read and deleted from here, and if not, why."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from typing import Any

from worldmodel.doctor.check import Check, failed, passed, warned
from worldmodel.doctor.store_errors import NO_CREDENTIALS, Refusal, explain_refusal, read_region
from worldmodel.object_store import StorageError, read_settings
from worldmodel.storage import Location

STORE, ACCOUNT, REGION = "storage", "storage account", "storage region"
PROBE = ".doctor"
"""How the file begins that is written, read and deleted."""
PROBE_BYTES = 64 << 10
CONNECT_SECONDS, READ_SECONDS = 5, 10
"""Longest waits for the store: it must answer a preflight at once."""
OTHERS = {"gs": "Google Cloud Storage", "az": "Azure", "file": "a disk of this machine"}
"""What serves a scheme other than S3."""
SLOW_SECONDS = 5.0
"""A write, a read and a delete that take longer are remarked on."""


def examine_storage(place: str, machine_region: str = "") -> Iterator[Check]:
    """A place for runs: the account there (S3), then a file written, read back and deleted.

    `machine_region`: where the machines stand, as far as it is known.
    """
    location = Location.of(place)
    if location.scheme == "s3":
        checks = list(_ask_s3(location, machine_region))
        yield from checks
        if any(check.is_failed for check in checks):
            return
    yield _try_round_trip(location)


def describe_endpoint(location: Location) -> str:
    """Which store answers for a place."""
    endpoint, region, *_ = read_settings()
    if location.scheme != "s3":
        return OTHERS[location.scheme]
    return f"endpoint {endpoint or 'AWS'}, region {region or ('us-east-1' if endpoint else 'as the bucket says')}"


def _try_round_trip(location: Location) -> Check:
    """Write, read and delete a small file by the way that runs use."""
    probe = location / f"{PROBE}-{secrets.token_hex(6)}"
    content = secrets.token_bytes(PROBE_BYTES)
    began, doing = time.monotonic(), "written"
    try:
        made = _list_missing(location)
        probe.write_bytes(content)
        doing = "read back"
        if probe.read_bytes() != content:
            return failed(STORE, f"{probe} returned other bytes than were written", "use another storage")
        doing = "deleted"
        probe.delete()
        for path in made:
            path.rmdir()
    except StorageError as error:
        return _explain_round_trip(location, doing, error)
    seconds = time.monotonic() - began
    found = f"{location} written, read and deleted in {seconds:.2f} s ({describe_endpoint(location)})"
    if seconds > SLOW_SECONDS:
        return warned(STORE, found, "checkpoints will be slow: use a storage near the machines")
    return passed(STORE, found)


def _list_missing(location: Location) -> list[Any]:
    """Local folders that a write makes, deepest first: a look must leave nothing behind."""
    local = location.local_path()
    return [path for path in (local, *local.parents) if not path.exists()] if local else []


def _explain_round_trip(location: Location, doing: str, error: StorageError) -> Check:
    cause = error.__cause__
    refusal = explain_refusal(cause) if cause is not None and location.scheme == "s3" else None
    found = f"{location} cannot be {doing} ({describe_endpoint(location)})"
    if refusal is None:
        return failed(STORE, f"{found}: {error}", "see the message")
    return failed(STORE, f"{found}: {refusal.found}", refusal.remedy)


def make_client(service: str, region: str | None = None) -> Any:
    """A boto3 client that answers soon or not at all, for the region and endpoint of the environment."""
    import boto3
    from botocore.config import Config

    wait = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": 1})
    session = boto3.Session()  # boto3's own keeps the credentials that it found first
    return session.client(service, region_name=region or read_settings()[1] or "us-east-1", config=wait)


def _ask_s3(location: Location, machine_region: str) -> Iterator[Check]:
    """Who asks, whether the bucket may be listed, and where it is: by botocore, which gives refusals their names."""
    bucket, _, key = location.path.partition("/")
    endpoint, region, *_ = read_settings()
    try:
        import boto3

        credentials = boto3.Session().get_credentials()
        if credentials is None:
            yield _refuse(location, NO_CREDENTIALS)
            return
        answer = make_client("s3").list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except Exception as error:  # noqa: BLE001  (the edge to a library that raises many kinds: each one is told)
        yield _explain_s3(location, error)
        return
    yield passed(ACCOUNT, f"{location} can be listed; credentials from {credentials.method}")
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    yield from compare_regions(bucket, headers.get("x-amz-bucket-region", ""), (endpoint, region), machine_region)


def compare_regions(
    bucket: str, actual: str, settings: tuple[str | None, str | None], machine_region: str
) -> Iterator[Check]:
    """The bucket's region against what is set, and against where the machines stand."""
    endpoint, region = settings
    if not actual:  # a store that has none
        return
    if region and actual != region and not endpoint:
        yield failed(REGION, f"bucket {bucket} is in {actual}, AWS_REGION is {region}", f"set AWS_REGION={actual}")
    elif machine_region and actual != machine_region and not endpoint:
        yield warned(
            REGION, f"bucket {bucket} is in {actual}, the machines in {machine_region}: every read crosses regions, "
            "slowly and for money", f"use a bucket in {machine_region}, or machines in {actual}",
        )  # fmt: skip
    else:
        yield passed(REGION, f"bucket {bucket} is in {actual}")


def _explain_s3(location: Location, error: Exception) -> Check:
    refusal = explain_refusal(error)
    if refusal is None:
        text = " ".join(str(error).split())
        return failed(
            ACCOUNT, f"{location} cannot be listed: {text} ({describe_endpoint(location)})", "see the message"
        )
    region = read_region(error)
    if region:
        set_to = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "not set"
        refusal = Refusal(found=f"{refusal.found}, {region}; AWS_REGION is {set_to}", remedy=f"set AWS_REGION={region}")
    return _refuse(location, refusal)


def _refuse(location: Location, refusal: Refusal) -> Check:
    return failed(
        ACCOUNT, f"{location} cannot be listed ({describe_endpoint(location)}): {refusal.found}", refusal.remedy
    )
