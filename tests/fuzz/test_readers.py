"""What fuzzing has found stays found, and a short run of it finds no more."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.fuzz import inputs
from tests.fuzz.fuzz import fuzz
from tests.fuzz.targets import TARGETS
from tests.games_on_disk import as_file, toy_columns
from worldmodel.errors import GameError, UserError
from worldmodel.games.parsed import read_game
from worldmodel.games.tensors import iterate_tensors
from worldmodel.storage import Location

CRASHES = sorted((Path(__file__).parent / "crashes").iterdir())
SECONDS = {"short": 8.0, "long": 600.0}
"""Time for each reader, by WORLDMODEL_FAULTS."""


@pytest.mark.parametrize("path", CRASHES, ids=lambda path: path.name)
def test_an_input_that_once_crashed_a_reader_is_refused(path: Path) -> None:
    target = TARGETS[path.name.split("-")[0]]
    assert target.read(path.read_bytes()) == 0


@pytest.mark.parametrize("name", TARGETS)
def test_the_inputs_that_fuzzing_begins_with_hold_games(name: str) -> None:
    assert sum(TARGETS[name].read(content) for content in TARGETS[name].seeds()) >= 1


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_crashes_no_reader(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="there is no build of atheris for this machine")
    (tmp_path / "corpus").mkdir()
    seconds = SECONDS[os.environ.get("WORLDMODEL_FAULTS", "short")]
    found = fuzz(name, seconds, tmp_path / "crashes", tmp_path / "corpus")
    assert found.crashes == {}, [Path(f"{kept}.txt").read_text() for kept in found.crashes.values()]
    assert found.executions > 100 and found.corpus > len(TARGETS[name].seeds())


def test_a_pt_whose_files_are_compressed_is_not_unpacked(tmp_path: Path) -> None:
    """A megabyte of it could fill the memory."""
    (content, *_) = inputs.seed_tensors()
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as packed:
        for info in archive.infolist():
            packed.writestr(info.filename, archive.read(info))
    (tmp_path / "a.pt").write_bytes(sink.getvalue())
    with pytest.raises(UserError, match=r"is compressed, which torch.save never does"):
        list(iterate_tensors(Location.of(tmp_path / "a.pt")))


@pytest.mark.parametrize("rows", [10**5, 10**9])
def test_a_pt_whose_few_numbers_claim_to_be_many_is_refused(tmp_path: Path, rows: int) -> None:
    layout = inputs.EncodingConfig().layout
    payload = {
        "floats": torch.zeros(1, layout.float_width).expand(rows, layout.float_width),
        "ints": torch.zeros(1, layout.class_width, dtype=torch.int64).expand(rows, layout.class_width),
        "game_lengths": [rows], "encoding_config": {},
    }  # fmt: skip
    torch.save(payload, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"claims .* bytes, which the file does not hold"):
        list(iterate_tensors(Location.of(tmp_path / "a.pt")))


def test_pages_that_unpack_to_more_than_their_rows_cost_no_more_memory_than_a_long_game() -> None:
    """A parquet file of 100 KB whose pages hold a hundred million zeros."""
    before = pa.total_allocated_bytes()
    zeros = pa.array([0.0], pa.float32()).take(pa.array([0] * 1_000_000))
    table = pa.table({"root": pa.StructArray.from_arrays([zeros], names=["stage"])})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    with pytest.raises(GameError, match=r"claims 1000000 frames"):
        read_game(zlib.compress(sink.getvalue()), "a", {})
    assert pa.total_allocated_bytes() - before < 64 << 20


def test_a_tensor_file_of_the_users_is_read_as_before(tmp_path: Path) -> None:
    games = [list(iterate_tensors(Location.of(_put(tmp_path, content)))) for content in inputs.seed_tensors()]
    assert all([game.frames for game in found if not isinstance(game, GameError)] == [3, 3] for found in games)


def _put(folder: Path, content: bytes) -> Path:
    (folder / "a.pt").write_bytes(content)
    return folder / "a.pt"


def test_a_whole_file_of_many_row_groups_is_read_as_before() -> None:
    columns = toy_columns(3, 40)
    game = read_game(as_file(columns, row_group_size=7), "a", {})
    assert game.frames == 40 and (game.columns[0, "x"] == columns["p0", "x"]).all()
