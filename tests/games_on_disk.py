"""Games with any values that their types can hold, written as the parsed layout: what readers and blocks must keep."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.blocks.encode import EncodeOptions, EncodeSummary, encode
from worldmodel.games.toy import write_toy_games
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE, Code, Kind, Storage, code_table, parsed_type

ColumnPath = tuple[str, ...]
Columns = dict[ColumnPath, np.ndarray]
_WIDE_TYPES = {"uint8": np.int64, "uint16": np.int64, "int64": np.int64, "float32": np.float32, "bool": np.bool_}
"""Types of the archive variant, where every integer is an int64."""


def list_leaves(kind: pa.DataType = None, at: ColumnPath = ()) -> dict[ColumnPath, str]:
    """Path to Arrow type of every column of the parsed layout."""
    kind = parsed_type() if kind is None else kind
    if not pa.types.is_struct(kind):
        return {at: str(kind).replace("float", "float32") if str(kind) == "float" else str(kind)}
    return {path: leaf for child in kind for path, leaf in list_leaves(child.type, (*at, child.name)).items()}


def random_columns(seed: int, frames: int, *, is_tight: bool = False, is_archive: bool = False) -> Columns:
    """Any values of each column's type. Tight: those of a console. Archive: int64 and fractions where that occurs."""
    dice = np.random.default_rng(seed)
    columns = {path: _random(dice, kind, frames) for path, kind in list_leaves().items() if path[0] != "stage"}
    columns["stage",] = np.full(frames, dice.choice([2, 3, 8, 28, 31, 32]), dtype=np.int64)
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            path = (f"p{player}", *field.column)
            if field.storage is Storage.BIT and field.bits == 1:
                columns[path] = dice.random(frames) < 0.5
            if field.code is not None:
                between = np.where(dice.random(frames) < 0.1, -0.0, dice.random(frames)).astype(np.float32)
                columns[path] = dice.choice(code_table(Code(field.code)), frames) if is_tight else between
            if is_tight and field.name in ("hitlag", "combo_count"):
                columns[path] = dice.integers(0, 256, frames).astype(columns[path].dtype)
    for group in SPARSE:
        for path in group.paths:
            filled = dice.random(frames) < dice.choice([0.0, 0.0, 0.3])
            for name, _ in group.fields:
                keep = filled & (dice.random(frames) < 0.7)
                columns[*path, name] = np.where(keep, columns[*path, name], 0).astype(columns[*path, name].dtype)
    return _as_archive(columns, dice) if is_archive else columns


def _random(dice: np.random.Generator, kind: str, frames: int) -> np.ndarray:
    if kind == "float32":
        values = dice.normal(0, 60, frames).astype(np.float32)
        odd = np.array([0.0, -0.0, 1e-42, -3.4e38, 0.5, 255.0, 256.0, 65535.0, 65536.0], dtype=np.float32)
        return np.where(dice.random(frames) < 0.3, dice.choice(odd, frames), values)
    if kind == "bool":
        return dice.random(frames) < 0.5
    return dice.integers(0, np.iinfo(kind).max, frames, endpoint=True).astype(kind)


def _as_archive(columns: Columns, dice: np.random.Generator) -> Columns:
    """The variant with floats and int64 everywhere, and without Nana."""
    found = {path: values.astype(_WIDE_TYPES[str(values.dtype)]) for path, values in columns.items()}
    for player in (f"p{player}" for player in range(PLAYERS)):
        frames = len(found[player, "x"])
        found[player, "facing"] = columns[player, "facing"].astype(np.float32)
        found[player, "percent"] = (dice.integers(0, 4000, frames) / 7).astype(np.float32)
        found[player, "stocks"] = columns[player, "stocks"].astype(np.float32)
        found[player, "combo_count"] = dice.integers(0, 65536, frames)
        for byte in range(5):
            found[player, f"state_flags_{byte}"] = columns[player, f"state_flags_{byte}"]
    return {path: values for path, values in found.items() if "nana" not in path}


def toy_columns(seed: int, frames: int) -> Columns:
    """A game as a model may see it: small finite values, classes within their vocabularies, a few items."""
    dice = np.random.default_rng(seed)
    columns = random_columns(seed, frames, is_tight=True)
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            path = (f"p{player}", *field.column)
            if field.kind is Kind.CONTINUOUS:
                columns[path] = dice.integers(0, 120, frames).clip(*field.bounds).astype(columns[path].dtype)
            if field.kind is Kind.CONTINUOUS and field.tight is None:
                columns[path] = dice.normal(0, 30, frames).clip(*field.bounds).astype(np.float32)
            if field.name == "state_age":
                columns[path] = (dice.integers(0, 600, frames) / 4).astype(np.float32)
            if field.kind is Kind.CATEGORY:
                columns[path] = dice.integers(0, field.vocabulary - 1, frames).astype(columns[path].dtype)
    for group in SPARSE:
        for path in group.paths:
            for name in ("x", "y"):
                if (*path, name) in columns:
                    columns[*path, name] = np.clip(columns[*path, name], -300, 300)
    return columns


def nest(columns: Mapping[ColumnPath, np.ndarray | pa.Array]) -> pa.StructArray:
    """The struct array whose leaves these columns are."""
    names = list(dict.fromkeys(path[0] for path in columns))
    children = []
    for name in names:
        below = {path[1:]: values for path, values in columns.items() if path[0] == name}
        children.append(pa.array(below[()]) if () in below else nest(below))
    return pa.StructArray.from_arrays(children, names=names)


def as_file(columns: Mapping[ColumnPath, np.ndarray | pa.Array], *, is_zlib: bool = True, **options: object) -> bytes:
    """A parsed file's bytes; `options` are those of `pq.write_table`."""
    return table_as_file(pa.table({"root": nest(columns)}), is_zlib=is_zlib, **options)


def table_as_file(table: pa.Table, *, is_zlib: bool = True, **options: object) -> bytes:
    """A table as a parsed file's bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return zlib.compress(sink.getvalue(), 1) if is_zlib else sink.getvalue()


def name_of(content: bytes) -> str:
    """A game's name."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write_folder(
    folder: Path, files: Mapping[str, bytes], more: Mapping[str, dict[str, object]] | None = None
) -> list[str]:
    """A parsed folder of files by md5; `more`: what else meta.json says of a game. Returns the md5s."""
    (folder / "games").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / "games" / name).write_bytes(content)
    entries = [{"slp_md5": name, **(more or {}).get(name, {})} for name in files]
    (folder / "meta.json").write_text(json.dumps(entries))
    return list(files)


def write_games(folder: Path, seeds: range, frames: int = 40) -> list[str]:
    """A parsed folder of small games, one per seed."""
    files = [as_file(toy_columns(seed, frames + seed)) for seed in seeds]
    return write_folder(folder, {name_of(content): content for content in files})


def encode_here(source: Path, out: Path, **options: object) -> EncodeSummary:
    """Encode without Ray."""
    return encode(str(source), str(out), EncodeOptions(cpus=0, **options))  # type: ignore[arg-type]


def encode_toy_games(folder: Path, count: int = 4, seed: int = 0) -> Path:
    """Toy games in `folder`/toy, encoded into `folder`/blocks, which is returned."""
    write_toy_games(folder / "toy", count, seed)
    encode_here(folder / "toy", folder / "blocks")
    return folder / "blocks"


def read_columns(content: bytes) -> Columns:
    """Every column of a parsed file, read column by column with nothing of the package."""
    raw = zlib.decompress(content) if content[:4] != b"PAR1" else content
    root = pq.read_table(io.BytesIO(raw)).column("root").combine_chunks()
    found: Columns = {}
    for path in _paths(root.type, ()):
        array = root
        for part in path:
            array = array.field(part)
        found[path] = array.to_numpy(zero_copy_only=False)
    return found


def _paths(kind: pa.DataType, at: ColumnPath) -> list[ColumnPath]:
    if not pa.types.is_struct(kind):
        return [at]
    return [path for child in kind for path in _paths(child.type, (*at, child.name))]
