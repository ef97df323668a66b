"""Small sound inputs of each reader, and changes to them that get past the checksums which guard their insides."""

from __future__ import annotations

import io
import json
import random
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from tests.games_on_disk import as_file, name_of, toy_columns
from worldmodel.encoding import EncodingConfig

Mutate = Callable[[bytes, int], bytes]
"""Changes bytes in some way, to at most so many."""
FRAMES = 3
TAR_BLOCK = 512
CHECKSUM = slice(148, 156)
"""Where a tar header holds its own sum."""
FOOTER_BYTES = 20_000
"""About the bytes at a parquet file's end that describe its columns."""
MOST_BYTES = 1 << 18
"""Longest input."""


@cache
def seed_parsed() -> tuple[bytes, ...]:
    """Parsed games: in zlib and plain, narrow and wide types, several row groups and encodings."""
    columns = toy_columns(1, FRAMES)
    wide = {path: values.astype(np.int64) if values.dtype.kind in "iu" else values for path, values in columns.items()}
    return (
        as_file(columns),
        as_file(columns, is_zlib=False),
        as_file(wide, compression="zstd"),
        as_file(columns, row_group_size=1, use_dictionary=False),
        as_file(columns, compression="none", data_page_version="2.0"),
    )


@cache
def seed_tar() -> tuple[bytes, ...]:
    """Shards: of two games with entries and frame ids, with long names, with a link."""
    content = as_file(toy_columns(2, FRAMES))
    ids = io.BytesIO()
    np.save(ids, np.arange(-123, -123 + FRAMES, dtype=np.int32))
    name = name_of(content)
    entry = json.dumps({"slp_md5": name, "is_training": True}).encode()
    game = [(f"{name}.game", content), (f"{name}.json", entry), (f"{name}.frame_ids.npy", ids.getvalue())]
    return (
        _tar(game),
        _tar([("a.game", b"x"), ("a.json", b"{}"), ("b.game", b"y")]),
        _tar([(f"{'deep/' * 40}{name}.game", b"x")], tarfile.PAX_FORMAT),
        _tar([(f"{'deep/' * 40}{name}.game", b"x")], tarfile.GNU_FORMAT),
        _tar([("é.json", b"[1]"), ("link", b"")], tarfile.PAX_FORMAT, link="link"),
    )


def _tar(files: list[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT, link: str = "") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == link:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "../../etc/passwd", 0
            archive.addfile(info, io.BytesIO(content) if name != link else None)
    return sink.getvalue()


@cache
def seed_tensors() -> tuple[bytes, ...]:
    """Encoded games as the users save them: two encodings, tensors and lists for the lengths."""
    found = []
    for config in (EncodingConfig(), EncodingConfig(state_age_as_embed=True, state_flags=True, hitstun=True)):
        layout = config.layout
        payload = {
            "floats": torch.zeros(2 * FRAMES, layout.float_width),
            "ints": torch.zeros(2 * FRAMES, layout.class_width, dtype=torch.int64),
            "game_offsets": torch.tensor([0, FRAMES, 2 * FRAMES]),
            "game_lengths": [FRAMES, FRAMES],
            "num_games": 2,
            "encoding_config": {flag: getattr(config, flag) for flag in EncodingConfig.__dataclass_fields__},
        }
        found += [_save(payload), _save({**payload, "game_lengths": torch.tensor([FRAMES, FRAMES])})]
    return tuple(found)


def _save(payload: object) -> bytes:
    sink = io.BytesIO()
    torch.save(payload, sink)
    return sink.getvalue()


def mutate_parsed(data: bytes, dice: random.Random, mutate: Mutate) -> bytes:
    """A parsed file with changes within the parquet, most of them where it describes its columns."""
    try:
        inner, is_zlib = zlib.decompressobj().decompress(data, MOST_BYTES), True
    except zlib.error:
        inner, is_zlib = data, False
    if is_zlib and dice.random() < 0.05:
        return mutate(data, MOST_BYTES)
    start = dice.choice([max(0, len(inner) - FOOTER_BYTES), 0])
    changed = _mutate_part(inner, start, dice, mutate)
    return zlib.compress(changed, 1) if is_zlib != (dice.random() < 0.05) else changed


def mutate_tar(data: bytes, dice: random.Random, mutate: Mutate) -> bytes:
    """A shard with changes in its headers, whose sums are made right again, and seldom elsewhere."""
    if dice.random() < 0.2:
        data = mutate(data, MOST_BYTES)
    headers = [at for at in range(0, len(data) - TAR_BLOCK + 1, TAR_BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return mutate(data, MOST_BYTES)
    at = dice.choice(headers)
    header = bytearray(data[at : at + TAR_BLOCK])
    first, last = dice.choice([(0, 100), (100, 108), (124, 136), (136, 148), (156, 157), (157, 257), (345, 500)])
    header[first:last] = mutate(bytes(header[first:last]), last - first).ljust(last - first, b"\0")[: last - first]
    header[CHECKSUM] = b" " * 8
    header[CHECKSUM] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + TAR_BLOCK :]


def mutate_tensors(data: bytes, dice: random.Random, mutate: Mutate) -> bytes:
    """A `.pt` with one of the files within its zip changed, whose sums are made right again, and seldom elsewhere."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, zlib.error, EOFError):
        return mutate(data, MOST_BYTES)
    if dice.random() < 0.1 or not files:
        return mutate(data, MOST_BYTES)
    names = [name for name, _ in files]
    pickles = [n for n, name in enumerate(names) if name.endswith("data.pkl")]
    chosen = pickles[0] if pickles and dice.random() < 0.7 else dice.randrange(len(files))
    files[chosen] = (names[chosen], _mutate_part(files[chosen][1], 0, dice, mutate))
    sink = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(sink, "w") as archive:
        warnings.simplefilter("ignore")  # of names that stand twice
        for name, content in files:
            archive.writestr(name, content)
    return sink.getvalue()


def _mutate_part(data: bytes, start: int, dice: random.Random, mutate: Mutate) -> bytes:
    """Change a few bytes at a random place from `start` on; most often their number stays."""
    at = dice.randrange(start, len(data)) if len(data) > start else len(data)
    length = dice.choice([1, 1, 2, 4, 8, 16, 64])
    part = data[at : at + length]
    changed = mutate(part, length + 16) if part else b""
    if dice.random() < 0.8:
        changed = changed[: len(part)].ljust(len(part), b"\0")
    return data[:at] + changed + data[at + len(part) :]
