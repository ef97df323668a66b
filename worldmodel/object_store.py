"""How S3 and Google Cloud Storage are opened, and how what they refuse becomes one message that says what to set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from functools import cache

import pyarrow as pa
import pyarrow.fs as pafs

from worldmodel.errors import UserError


class StorageError(UserError):
    """A place that cannot be read or written; the message names it and says what to set."""


class MissingError(StorageError):
    """There is no such file."""


def _settings() -> tuple[str | None, str | None, str | None, str | None]:
    """What of the environment decides which store answers: endpoint, region, key and profile."""
    read = os.environ.get
    endpoint = read("AWS_ENDPOINT_URL_S3") or read("AWS_ENDPOINT_URL")
    region = read("AWS_REGION") or read("AWS_DEFAULT_REGION")
    return endpoint or None, region or None, read("AWS_ACCESS_KEY_ID"), read("AWS_PROFILE")


def open_store(scheme: str, bucket: str) -> pafs.FileSystem:
    """The file system of `scheme` (`s3` or `gs`) for a bucket, as the environment describes it; opened once.

    Raises:
        StorageError: there is no such bucket.
    """
    return _open_store(scheme, bucket, _settings())


@cache
def _open_store(scheme: str, bucket: str, settings: tuple[str | None, ...]) -> pafs.FileSystem:
    if scheme == "gs":
        return pafs.GcsFileSystem(retry_time_limit=timedelta(seconds=60))
    endpoint, region = settings[:2]
    if region is None:
        region = "us-east-1" if endpoint else pafs.resolve_s3_region(bucket)
    store = pafs.S3FileSystem(endpoint_override=endpoint, region=region, connect_timeout=10)
    # Listing a bucket that does not exist looks like an empty folder, so a typo is found here, once.
    if store.get_file_info(bucket).type == pafs.FileType.NotFound:
        raise StorageError(
            f"there is no bucket {bucket!r} at {endpoint or 'S3'}; create it, or set AWS_ENDPOINT_URL and AWS_REGION"
        )
    return store


HINTS = (
    (("NO_SUCH_BUCKET", "' not found"), "check the bucket's name, AWS_ENDPOINT_URL and AWS_REGION"),
    (("ACCESS_DENIED", "Forbidden", "INVALID_ACCESS_KEY", "SIGNATURE", "credential", "EXPIRED", "PERMISSION_DENIED"),
     "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role; for "
     "gs:// GOOGLE_APPLICATION_CREDENTIALS) and what they may do with this bucket"),
    (("NETWORK_CONNECTION", "curlCode", "resolve", "timed out", "Timeout", "UNAVAILABLE"),
     "check the network and AWS_ENDPOINT_URL"),
    (("PermanentRedirect", "Moved Permanently", "301"), "set AWS_REGION to the bucket's region"),
)  # fmt: skip


def _find_hint(place: str, error: Exception) -> str:
    if "://" not in place:
        return "choose a folder on a disk with room that you may write to" if isinstance(error, OSError) else ""
    found = (advice for marks, advice in HINTS if any(mark in str(error) for mark in marks))
    return next(found, "check the store's name, credentials and network")


@contextlib.contextmanager
def explain_failure(place: str, doing: str) -> Iterator[None]:
    """Turns what a file system raises into one message that says what to do."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise MissingError(f"there is no file at {place}") from error
    except (OSError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(f"cannot {doing} {place}: {reason}; {_find_hint(place, error)}") from error
