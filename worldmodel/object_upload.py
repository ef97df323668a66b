"""A large object, sent in parts: several at once, each checked by the store, and an interrupted one continued.

S3 (any endpoint) is spoken to through boto3: a part carries its md5, which the store compares before it accepts it, and
parts of an upload that was cut off are found and not sent again. Other places are written as one stream.
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow.fs as pafs

from worldmodel.object_store import StorageError, explain_failure, find_hint, read_settings
from worldmodel.storage import Location

MIB = 1 << 20
PART_BYTES = 8 * MIB
"""Bytes of a part, where the object does not need larger ones."""
MOST_PARTS = 10_000
"""Parts that S3 takes of one object."""
PARTS_AT_ONCE = 4
"""Parts of an object under way at once."""
TRIES = 8
"""Times that a request is made whose connection breaks, with growing pauses."""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """What bytes are."""

    size: int
    sha256: str
    """In hex."""
    tag: str
    """What S3 calls an object of these bytes that was sent here: the md5, or that of its parts' md5s."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a store says of an object, without its bytes."""

    size: int
    tag: str
    """Changes whenever the object is replaced: S3's ETag, elsewhere the time of the last change (Azure: in seconds)."""


class _Digester:
    """Gathers a `Digest`, part by part."""

    def __init__(self) -> None:
        self._size, self._sha256 = 0, hashlib.sha256()
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> bytes:
        """Take the next part; returns its md5."""
        self._size += len(part)
        self._sha256.update(part)
        self._parts.append(hashlib.md5(part, usedforsecurity=False).digest())
        return self._parts[-1]

    def finish(self) -> Digest:
        tag = self._parts[0].hex() if self._parts else hashlib.md5(b"", usedforsecurity=False).hexdigest()
        if self._size > PART_BYTES:
            tag = f"{hashlib.md5(b''.join(self._parts), usedforsecurity=False).hexdigest()}-{len(self._parts)}"
        return Digest(size=self._size, sha256=self._sha256.hexdigest(), tag=tag)


def compute_digest(chunks: Iterable[bytes], size: int) -> Digest:
    """What an object of `size` bytes is, whose content comes in chunks of any length."""
    digester = _Digester()
    for part in _cut(chunks, measure_part(size)):
        digester.add(part)
    return digester.finish()


def measure_part(size: int) -> int:
    """Bytes of each part of an object of `size` bytes, but the last."""
    least = -(-size // MOST_PARTS)
    return max(PART_BYTES, -(-least // MIB) * MIB)


def look_up(location: Location) -> Stored | None:
    """What the store says of an object; None where there is none.

    Raises:
        StorageError: it does not answer, or refuses.
    """
    if location.scheme == "s3":
        return _look_up_s3(location)
    with explain_failure(str(location), "look up"):
        info = location.filesystem.get_file_info(location.path)
    return Stored(size=info.size, tag=str(info.mtime_ns)) if info.type == pafs.FileType.File else None


def send_object(location: Location, chunks: Iterable[bytes], size: int) -> Digest:
    """Store `size` bytes, which come in chunks of any length, as one object; it appears whole or not at all.

    Returns:
        What was sent. Whether it is what was stored, `look_up` and the store's own bytes say.

    Raises:
        StorageError: it cannot be stored, or the chunks are more or less than `size` bytes.
    """
    if location.scheme == "s3":
        return _send_large(location, chunks, size) if size > PART_BYTES else _send_small(location, chunks, size)
    digester = _Digester()
    with location.open_output() as stream:
        for part in _cut(chunks, measure_part(size)):
            digester.add(part)
            stream.write(part)
        _check_size(location, digester.finish(), size)
    return digester.finish()


def _check_size(location: Location, digest: Digest, size: int) -> None:
    if digest.size != size:
        raise StorageError(f"{location}: {digest.size} bytes came, expected {size}: the source changed meanwhile")


def _cut(chunks: Iterable[bytes], length: int) -> Iterator[bytes]:
    """The same bytes in pieces of `length`; the last is what remains."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= length:
            yield bytes(buffer[:length])
            del buffer[:length]
    if buffer:
        yield bytes(buffer)


def _send_small(location: Location, chunks: Iterable[bytes], size: int) -> Digest:
    digester, content = _Digester(), b"".join(chunks)
    md5 = digester.add(content)
    _check_size(location, digester.finish(), size)
    with _explain(location, "write"):
        _open_client().put_object(**_name(location), Body=content, ContentMD5=_encode(md5))
    return digester.finish()


def _send_large(location: Location, chunks: Iterable[bytes], size: int) -> Digest:
    client, name, digester = _open_client(), _name(location), _Digester()
    with _explain(location, "write"):
        upload, have = _find_unfinished(location)
        upload = upload or client.create_multipart_upload(**name)["UploadId"]
    finished: list[dict[str, Any]] = []
    waiting: deque[Future[dict[str, Any]]] = deque()
    with _explain(location, "write"), ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        for number, part in enumerate(_cut(chunks, measure_part(size)), start=1):
            md5 = digester.add(part)
            if have.get(number) == (len(part), md5.hex()):
                part = b""  # it is there: its number and its name are all that is needed
            waiting.append(pool.submit(_send_part, name | {"UploadId": upload, "PartNumber": number}, part, md5))
            if len(waiting) >= PARTS_AT_ONCE:
                finished.append(waiting.popleft().result())
        finished += [future.result() for future in waiting]
    _check_size(location, digester.finish(), size)
    with _explain(location, "write"):
        client.complete_multipart_upload(**name, UploadId=upload, MultipartUpload={"Parts": finished})
    return digester.finish()


def _send_part(place: dict[str, Any], part: bytes, md5: bytes) -> dict[str, Any]:
    """Sends a part, unless its bytes are none; returns what the end of the upload must say of it."""
    number = place["PartNumber"]
    if not part:
        return {"PartNumber": number, "ETag": f'"{md5.hex()}"'}
    answer = _open_client().upload_part(**place, Body=part, ContentMD5=_encode(md5))
    return {"PartNumber": number, "ETag": answer["ETag"]}


def _find_unfinished(location: Location) -> tuple[str, dict[int, tuple[int, str]]]:
    """The newest upload of this object that was cut off, and its parts: number to size and md5; "" where there is none.

    Who may not list uploads starts a new one.
    """
    from botocore.exceptions import ClientError

    client, name = _open_client(), _name(location)
    try:
        found = client.list_multipart_uploads(Bucket=name["Bucket"], Prefix=name["Key"]).get("Uploads", [])
        ours = [upload for upload in found if upload["Key"] == name["Key"]]
        if not ours:
            return "", {}
        newest = max(ours, key=lambda upload: upload["Initiated"])["UploadId"]
        pages = client.get_paginator("list_parts").paginate(**name, UploadId=newest)
        parts = [part for page in pages for part in page.get("Parts", [])]
    except ClientError as error:
        if error.response["ResponseMetadata"].get("HTTPStatusCode") not in (403, 404, 501):
            raise
        return "", {}
    return newest, {part["PartNumber"]: (part["Size"], part["ETag"].strip('"')) for part in parts}


def _look_up_s3(location: Location) -> Stored | None:
    from botocore.exceptions import ClientError

    location.filesystem  # noqa: B018  a bucket that does not exist is named here
    with _explain(location, "look up"):
        try:
            head = _open_client().head_object(**_name(location))
        except ClientError as error:
            if error.response["ResponseMetadata"].get("HTTPStatusCode") == 404:
                return None
            raise
    return Stored(size=head["ContentLength"], tag=head["ETag"].strip('"'))


def _name(location: Location) -> dict[str, Any]:
    bucket, _, key = location.path.partition("/")
    return {"Bucket": bucket, "Key": key}


def _encode(md5: bytes) -> str:
    return base64.b64encode(md5).decode()


def _open_client() -> Any:
    return _make_client(read_settings())


@cache
def _make_client(settings: tuple[str | None, ...]) -> Any:
    import boto3
    from botocore.config import Config

    endpoint, region = settings[:2]
    config = Config(
        retries={"max_attempts": TRIES, "mode": "standard"},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=64,
        # The md5 that each request carries is what every S3 server understands.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region or "us-east-1", config=config)


@contextmanager
def _explain(location: Location, doing: str) -> Iterator[None]:
    """What boto3 raises, as one message that says what to do."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise StorageError(f"cannot {doing} {location}: {error}{find_hint(str(location), doing, error)}") from error
