"""A rollout in a file: as NumPy arrays, or as a game that every reader of parsed games accepts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from worldmodel.errors import UserError
from worldmodel.games.writer import (
    Entry,
    assemble_frames,
    leaf_types,
    open_output,
    read_entries,
    write_meta,
    write_parsed,
)
from worldmodel.local_file import replacing
from worldmodel.rollout.roller import Rollout
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, STAGE

ARRAYS = ".npz"
NO_CONTEST = 7
"""`game_end_method` of a game that did not end."""


def save_rollout(rollout: Rollout, out: Path, source: str) -> Path:
    """Write the first rollout, and return its file.

    Args:
        rollout: what was rolled.
        out: FILE.npz for own ("predicted/x", (time, player)) and true ("true/x") values of every field, the game's name
            and the first frame; else a folder of parsed games, to which it is added.
        source: what made it.

    Raises:
        UserError: that cannot be written.
    """
    if out.suffix == ARRAYS:
        return _save_arrays(rollout, out)
    open_output(out)
    columns = _collect_columns(rollout)
    frames = len(rollout.predicted["x"][0])
    digest = hashlib.md5(usedforsecurity=False)
    for values in columns.values():
        digest.update(np.ascontiguousarray(values).tobytes())
    start, first = rollout.starts[0], {name: values[0, 0] for name, values in rollout.predicted.items()}
    entry = Entry(
        name=f"{rollout.md5[0]}-{start.frame}", slp_md5=digest.hexdigest(), slp_size=0, lastFrame=frames,
        players=tuple({"port": n, "character": int(first["character"][n])} for n in range(PLAYERS)),
        stage=int(rollout.stages[0]), game_end_method=NO_CONTEST, slippi_version="",
        source=f"rolled out by {source} from {rollout.md5[0]} at frame {start.frame}",
        start_stocks=int(first["stocks"].max()), played_on="world model", is_training=False,
        not_training_reason="made by a model",
    )  # fmt: skip
    entries = read_entries(out)
    entries[entry.slp_md5] = write_parsed(out, assemble_frames(columns), entry)
    write_meta(out, entries.values())
    return out / "games" / entry.slp_md5


def _save_arrays(rollout: Rollout, out: Path) -> Path:
    named = {f"predicted/{name}": values[0] for name, values in rollout.predicted.items()}
    named |= {f"true/{name}": values[0, : rollout.lengths[0]] for name, values in rollout.true.items()}
    facts = {"game": rollout.md5[0], "frame": rollout.starts[0].frame, "stage": rollout.stages[0]}
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: there is no folder {out.parent}")
    try:
        with replacing(out) as file:
            np.savez_compressed(file, **named, **facts)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def _collect_columns(rollout: Rollout) -> dict[tuple[str, ...], np.ndarray]:
    """The columns of the parsed layout; what a model does not know of has none."""
    types = leaf_types()
    path: tuple[str, ...] = (STAGE.name,)
    frames = len(rollout.predicted["x"][0])
    columns = {path: np.full(frames, rollout.stages[0], dtype=types[path].to_pandas_dtype())}
    for player in range(PLAYERS):
        for field in PLAYER_FIELDS:
            path = (f"p{player}", *field.column)
            columns[path] = rollout.predicted[field.name][0, :, player].astype(types[path].to_pandas_dtype())
    return columns
