"""How S3, Google's and Azure's storage are opened, and how what they refuse becomes a message that says what to set."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from worldmodel.errors import UserError
from worldmodel.redaction import hide_secrets


class StorageError(UserError):
    """A place that cannot be read or written; the message names it and says what to set."""


class MissingError(StorageError):
    """There is no such file."""


class DamagedError(StorageError):
    """Stored bytes are not those that were saved."""


class DiskError(StorageError):
    """A local disk that refuses: no room, no right. It is of no use to ask it again at once."""


AZURE = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_CONNECTION_STRING")


def read_settings() -> tuple[str | None, ...]:
    """What of the environment decides which store answers: endpoint, region, key and profile, then what Azure needs."""
    read = os.environ.get
    endpoint = read("AWS_ENDPOINT_URL_S3") or read("AWS_ENDPOINT_URL")
    region = read("AWS_REGION") or read("AWS_DEFAULT_REGION")
    named = (read("AWS_ACCESS_KEY_ID"), read("AWS_PROFILE"), *map(read, AZURE))
    return endpoint or None, region or None, *named


def open_store(scheme: str, bucket: str) -> pafs.FileSystem:
    """The file system of `scheme` (`s3`, `gs` or `az`) for a bucket, as the environment describes it; opened once.

    Raises:
        StorageError: there is no such bucket.
    """
    return _open_store(scheme, bucket, read_settings(), HASTY if _silence.is_lately else PATIENT)


@dataclass(frozen=True)
class Patience:
    """How long a store is asked again that does not do what it is asked."""

    tries: int
    """Times that S3 is asked."""
    seconds: float
    """Time for an answer to begin, and for a connection; curl gives what was sent six seconds more."""


PATIENT, HASTY = Patience(tries=3, seconds=3.0), Patience(tries=1, seconds=2.0)
LATELY_SECONDS = 60.0
"""Time for which a store that did not answer is asked hastily: what ends a run must not wait for it again and again."""


class _Silence:
    """When a store last did not answer this process."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def is_lately(self) -> bool:
        return time.monotonic() < self._until

    def note(self, error: Exception) -> None:
        """Remember an error where it says that nobody answered in time."""
        if any(mark in str(error) for mark in SILENCE):
            self._until = time.monotonic() + LATELY_SECONDS


SILENCE = ("Timeout was reached", "timed out", "curlCode: 28")
"""What errors say of a store that did not answer."""
_silence = _Silence()


@cache
def _open_store(scheme: str, bucket: str, settings: tuple[str | None, ...], patience: Patience) -> pafs.FileSystem:
    if scheme == "gs":
        return pafs.GcsFileSystem(retry_time_limit=timedelta(seconds=4 * patience.tries * patience.seconds))
    if scheme == "az":
        store = _open_azure(*settings[-len(AZURE) :])
        where, remedy = "this storage account", "set AZURE_STORAGE_ACCOUNT"
    else:
        endpoint, region = settings[:2]
        if region is None:
            region = "us-east-1" if endpoint else pafs.resolve_s3_region(bucket)
        store = pafs.S3FileSystem(
            endpoint_override=endpoint, region=region, connect_timeout=patience.seconds,
            request_timeout=patience.seconds, allow_delayed_open=True,  # a small file in one request
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=patience.tries),
        )  # fmt: skip
        where, remedy = hide_secrets(endpoint or "S3"), "set AWS_ENDPOINT_URL and AWS_REGION"
    # Listing a bucket that does not exist looks like an empty folder, so a typo is found here, once.
    if not _may_exist(store, bucket):
        raise StorageError(f"there is no bucket {bucket!r} at {where}; create it, or {remedy}")
    return store


def _may_exist(store: pafs.FileSystem, bucket: str) -> bool:
    """False where there is no such bucket; who may only use a folder of it is not told, and goes on."""
    try:
        return bool(store.get_file_info(bucket).type != pafs.FileType.NotFound)
    except OSError as error:
        if "ACCESS_DENIED" not in str(error):
            raise
        return True


def _open_azure(account: str | None, key: str | None, connection: str | None) -> pafs.FileSystem:
    """Azure's storage: an account and its key, or the identity of the machine or of `az login`; or what the text that
    Azure calls a connection string says, which can name an emulator's address.
    """
    said = dict(part.split("=", 1) for part in (connection or "").split(";") if "=" in part)
    account, key = said.get("AccountName") or account, said.get("AccountKey") or key
    if not account:
        raise StorageError("az:// needs the name of a storage account: set AZURE_STORAGE_ACCOUNT")
    endpoint = urlsplit(said.get("BlobEndpoint", ""))
    is_elsewhere = bool(endpoint.netloc) and not endpoint.netloc.startswith(f"{account}.")
    place = {"authority": endpoint.netloc, "scheme": endpoint.scheme} if is_elsewhere else {}
    options = {f"{api}_storage_{name}": value for api in ("blob", "dfs") for name, value in place.items()}
    return pafs.AzureFileSystem(account, account_key=key or None, **options)


HINTS = (
    (("NO_SUCH_BUCKET", "' not found", "NoSuchBucket", "ContainerNotFound"),
     "check the bucket's name, AWS_ENDPOINT_URL and AWS_REGION"),
    (("ACCESS_DENIED", "Forbidden", "INVALID_ACCESS_KEY", "SIGNATURE", "credential", "EXPIRED", "PERMISSION_DENIED",
      "AccessDenied", "InvalidAccessKey", "SignatureDoesNotMatch", "ExpiredToken", "AuthenticationFailed",
      "AuthorizationPermissionMismatch", "AuthorizationFailure", "OAuth2 access token"),
     "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role; for "
     "gs:// GOOGLE_APPLICATION_CREDENTIALS; for az:// AZURE_STORAGE_KEY or `az login`) and what they may do with this "
     "bucket"),
    (("NETWORK_CONNECTION", "curlCode", "resolve", "timed out", "Timeout", "UNAVAILABLE", "Could not connect",
      "Connection was closed", "Connection refused"),
     "check the network and AWS_ENDPOINT_URL"),
    (("PermanentRedirect", "Moved Permanently", "301"), "set AWS_REGION to the bucket's region"),
)  # fmt: skip


def find_hint(place: str, doing: str, error: Exception) -> str:
    """What to do about an error of a store or a disk, after a semicolon; "" where nothing can be told."""
    if "://" not in place:
        is_written = doing == "write" and isinstance(error, OSError)
        return "; choose a folder on a disk with room that you may write to" if is_written else ""
    found = (advice for marks, advice in HINTS if any(mark in str(error) for mark in marks))
    return "; " + next(found, "check the store's name, credentials and network")


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
        if isinstance(error, NotADirectoryError) and doing == "list":
            raise DiskError(f"{place} is a file, expected a folder") from error
        if isinstance(error, NotADirectoryError) and doing == "read":
            raise MissingError(f"there is no file at {place}") from error
        _silence.note(error)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kind = StorageError if "://" in place else DiskError
        raise kind(hide_secrets(f"cannot {doing} {place}: {reason}{find_hint(place, doing, error)}")) from error
