"""W&B's offline file, read far enough to know whether all rows are in it: a full disk loses them without a word.

It is a log as LevelDB writes it (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of its
own: blocks of 32 KiB, in them records of crc32 (4 bytes), length (2), part (1: whole, 2: first, 3: middle, 4: last) and
content. W&B's checksums begin with other bytes than LevelDB's, and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

HEADER_BYTES = 7
"""Size of a file without records; also of a record's own header."""
BLOCK_BYTES = 32768
LAST_PARTS = (1, 4)


def count_rows(path: Path) -> int:
    """Rows of metrics in the file; a record that is torn ends it, or is passed over."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record

    found = 0
    for content in _list_records(path.read_bytes()):
        try:
            found += Record.FromString(content).WhichOneof("record_type") == "history"
        except DecodeError:
            continue
    return found


def _list_records(content: bytes) -> Iterator[bytes]:
    position, whole = HEADER_BYTES, b""
    while position + HEADER_BYTES <= len(content):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < HEADER_BYTES:  # a block's end is too small for a record
            position += left
            continue
        length, part = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        whole += content[position + HEADER_BYTES : position + HEADER_BYTES + length]
        position += HEADER_BYTES + length
        if part in LAST_PARTS:
            yield whole
            whole = b""
