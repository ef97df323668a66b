"""A block made by somebody else is refused by name; it neither ends the process nor shows memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.games_on_disk import as_file, encode_here, name_of, toy_columns, write_folder
from worldmodel.blocks.block import METADATA_KEY, Block
from worldmodel.blocks.layout import layout_named
from worldmodel.errors import UserError
from worldmodel.schema import Storage

FRAMES, FAR = 40, 10_000_000


def _claim_rows(content: bytes) -> bytes:
    """A block of so many rows that the file holds a fraction of them."""
    for width in (1, *(layout_named("tight").width(storage) for storage in Storage)):
        content = content.replace(struct.pack("<q", FRAMES * width), struct.pack("<q", FAR * width))
    return content


def _point_far(block: pa.RecordBatch) -> pa.RecordBatch:
    """A frame's items that begin where no item is."""
    place = block.schema.get_field_index("items")
    offsets = block.column(place).offsets.to_numpy().copy()
    offsets[1:-1] = FAR
    items = pa.Array.from_buffers(
        block.schema.field(place).type, len(block), [None, pa.py_buffer(offsets)], children=[block.column(place).values]
    )
    return block.set_column(place, block.schema.field(place), items)


def _retype(block: pa.RecordBatch) -> pa.RecordBatch:
    other = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(FRAMES, np.float64)), 1)
    return block.set_column(0, "float32", other)


def _say(about: Callable[[bytes], bytes]) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    return lambda block: block.replace_schema_metadata({METADATA_KEY: about(block.schema.metadata[METADATA_KEY])})


HOSTILE = {
    "items beyond the file": _point_far,
    "another type": _retype,
    "a column less": lambda block: block.drop_columns(["uint8"]),
    "no JSON": _say(lambda about: b"{"),
    "a list": _say(lambda about: b"[1]"),
    "deep JSON": _say(lambda about: b"[" * 100_000),
    "no such layout": _say(lambda about: about.replace(b'"layout": "', b'"layout": "x')),
    "more frames": _say(lambda about: about.replace(b'"frames": 40', b'"frames": 4000')),
    "negative frames": _say(lambda about: about.replace(b'"games": [', b'"games": [{"frames": -1}, {"frames": 1}, ')),
    "frames in words": _say(lambda about: about.replace(b'"frames": 40', b'"frames": "forty"')),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    content = as_file(toy_columns(3, FRAMES))
    write_folder(folder / "games", {name_of(content): content})
    index = encode_here(folder / "games", folder / "blocks").index
    return folder / "blocks" / index.blocks[0].name


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_block_is_refused_by_name(stored: Path, tmp_path: Path, kind: str) -> None:
    batch = HOSTILE[kind](pa.ipc.open_file(pa.memory_map(str(stored))).get_batch(0))
    with pa.ipc.new_file(str(tmp_path / "b.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(UserError, match=r"block .*b\.arrow cannot be read"):
        Block.open(tmp_path / "b.arrow")


def test_a_block_that_claims_more_rows_than_it_holds_is_refused(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "b.arrow").write_bytes(_claim_rows(stored.read_bytes()))
    with pytest.raises(UserError, match=r"block .*b\.arrow cannot be read .*too small"):
        Block.open(tmp_path / "b.arrow")
