"""What a user may write for a place: a path, `file://`, or an object store's URI in any of its spellings."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from worldmodel.object_store import StorageError

SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}


def read_address(text: str) -> str:
    """The absolute local path, or the URI (`s3://`, `gs://` or `az://`), that a user's path or URI means.

    Raises:
        StorageError: an unknown scheme, an object store without a bucket, or what names no place at all.
    """
    try:
        parts = urlsplit(text)
        is_local = parts.scheme == "file" or "://" not in text
        path = Path(unquote(parts.path) if parts.scheme == "file" else text)
        path = path.expanduser().absolute() if is_local else path
        str(path).encode()
    except (ValueError, RuntimeError) as error:  # no address, no such user whose home it could be, no UTF-8
        raise StorageError(f"{text!a} names no place: {error}") from None
    if "\0" in str(path):
        raise StorageError(f"{text!a} names no place: a name holds no zero byte")
    if not is_local:
        return _read_uri(text, parts)
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise StorageError(f"{text} names {parts.netloc!r} as a machine: write file:///FOLDER, or the path alone")
    if parts.scheme in SCHEMES:
        raise StorageError(f"{text} lacks a slash: write {parts.scheme}://BUCKET/FOLDER")
    return str(path)


def _read_uri(text: str, parts: SplitResult) -> str:
    if parts.scheme not in SCHEMES:
        raise StorageError(f"{text}: scheme {parts.scheme!r} is unknown; use a local path, s3://, gs:// or az://")
    if "@" in parts.netloc and SCHEMES[parts.scheme] != "az":
        raise StorageError(
            f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}: an address is written down and shown, so it "
            "holds no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if not parts.netloc:
        raise StorageError(f"{text} names no bucket; write {parts.scheme}://BUCKET/FOLDER")
    if "@" in parts.netloc and SCHEMES[parts.scheme] == "az":
        container, account = parts.netloc.split("@", 1)
        raise StorageError(
            f"{text} names its account in the address; set AZURE_STORAGE_ACCOUNT={account.split('.')[0]} and write "
            f"az://{container}{parts.path}"
        )
    return f"{SCHEMES[parts.scheme]}://{text.split('://', 1)[1].strip('/')}"
