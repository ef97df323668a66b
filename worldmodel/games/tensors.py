"""The users' encoded `.pt`: scaled tensors of many games, turned back into the game's own values.

A file holds `floats` (frames, 2 x numbers per player), `ints` (frames, classes), `game_offsets`, `game_lengths`,
`num_games` and the `encoding_config` it was made with. Scaled numbers come back to within float32 rounding; where a
neighbouring float32 scales to exactly the stored number, that one is taken. Classes were clipped and items reduced to
the nearest one, so such games are marked and lack what the encoding had left out.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.errors import GameError, UserError
from worldmodel.games.game import Game, check_column
from worldmodel.games.leaves import explain
from worldmodel.games.planes import Planes, stored_type
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE, STAGE, Field, Storage
from worldmodel.storage import Location, Stream

_KEYS = ("floats", "ints", "game_lengths", "encoding_config")
"""What a file must hold; offsets follow from the lengths."""
_FLOATS = (torch.float32,)
_INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
_ROUNDING = 1e-3
"""Below this a whole number was scaled in another order than ours."""
_FLAGS = ("state_age_as_embed", "press_events", "projectiles", "state_flags", "hitstun")
_MALFORMED = (
    RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, OSError, LookupError, TypeError,
    AttributeError, ArithmeticError, AssertionError, MemoryError, struct.error,
)  # fmt: skip
"""What torch and the standard library raise on files that are damaged, or made to look like a `.pt`."""


def iterate_tensors(location: Location) -> Iterator[Game | GameError]:
    """The games of a `.pt` file, or the reason why one is none.

    UserError where the file is none of the users' encodings or disagrees with its own configuration.
    """
    payload = _load(location)
    try:
        floats, ints = (payload[name].detach().resolve_neg().numpy() for name in ("floats", "ints"))
        lengths = [int(length) for length in payload["game_lengths"]]
        offsets = [int(offset) for offset in payload.get("game_offsets", _add_up(lengths))]
        count = int(payload.get("num_games", len(lengths)))
    except _MALFORMED as error:
        raise UserError(f"{location}: what it says of its games cannot be understood: {explain(error)}") from error
    layout = _resolve(payload["encoding_config"], floats.shape[1], ints.shape[1], str(location))
    _check_lengths(lengths, len(floats), len(ints), str(location))
    _check_offsets(lengths, offsets, count, str(location))
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        start += length
        try:
            yield _game_of(floats[rows], ints[rows], layout)
        except GameError as error:
            yield error


def _check_lengths(lengths: list[int], floats: int, ints: int, where: str) -> None:
    if sum(lengths) != floats or ints != floats or min(lengths, default=0) < 0:
        raise UserError(f"{where}: game_lengths add up to {sum(lengths)}, floats has {floats} frames, ints {ints}")


def _check_offsets(lengths: list[int], offsets: list[int], count: int, where: str) -> None:
    starts = _add_up(lengths)
    if offsets not in (starts, starts[:-1]):
        raise UserError(f"{where}: game_offsets do not follow from game_lengths, the games would be cut wrongly")
    if count != len(lengths):
        raise UserError(f"{where}: num_games is {count}, but there are {len(lengths)} game_lengths")


def _add_up(lengths: list[int]) -> list[int]:
    return [0, *itertools.accumulate(lengths)]


def _load(location: Location) -> dict[str, Any]:
    try:
        with location.open_input() as stream:
            _check_archive(stream)
            stream.seek(0)
            path = location.local_path()
            payload = torch.load(path or stream, map_location="cpu", weights_only=True, mmap=path is not None)
    except _MALFORMED as error:
        raise UserError(f"{location} is not a readable .pt file: {explain(error)}") from error
    return _check_payload(payload, location)


def _check_archive(stream: Stream) -> None:
    """ValueError where a file is not what torch.save writes: a zip archive whose files are not compressed."""
    if not zipfile.is_zipfile(stream):
        raise ValueError("it is no zip archive, which torch.save writes")
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(f"{info.filename!r} in it is compressed, which torch.save never does")


def _check_payload(payload: Any, location: Location) -> dict[str, Any]:
    expected = f"expected the users' encoded games ({', '.join(_KEYS)})"
    if not isinstance(payload, dict) or any(key not in payload for key in _KEYS):
        lacking = [key for key in _KEYS if not isinstance(payload, dict) or key not in payload]
        raise UserError(f"{location} lacks {', '.join(lacking)}: {expected}")
    for name, kinds in (("floats", _FLOATS), ("ints", _INTEGERS)):
        value = payload[name]
        if not isinstance(value, torch.Tensor) or value.ndim != 2 or value.dtype not in kinds:
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise UserError(f"{location}: {name} is {found}, expected a matrix with a row for each frame: {expected}")
        _check_size(name, value, location)
    for name in ("game_lengths", "game_offsets"):
        value = payload.get(name, [])
        if isinstance(value, torch.Tensor):
            _check_size(name, value, location)
        elif not isinstance(value, list | tuple):
            raise UserError(f"{location}: {name} is a {type(value).__name__}, expected a number for each game")
    if not isinstance(payload["encoding_config"], dict):
        raise UserError(f"{location}: encoding_config is a {type(payload['encoding_config']).__name__}, not a dict")
    return payload


def _check_size(name: str, value: torch.Tensor, location: Location) -> None:
    is_plain = value.layout == torch.strided and value.device.type == "cpu"
    if not is_plain or _count_bytes(value) > location.measure_bytes():
        raise UserError(f"{location}: {name} claims {_count_bytes(value)} bytes, which the file does not hold")


def _count_bytes(value: torch.Tensor) -> int:
    """Bytes of a tensor whose numbers stand each for itself: one may show a single number a million times."""
    return value.numel() * value.element_size()


def _resolve(saved: dict[str, Any], float_width: int, class_width: int, where: str) -> FeatureLayout:
    """The encoding that the saved configuration and the tensors' widths agree on.

    Saved files name only some flags, and the users' two repositories had different defaults for the others: a flag that
    is not named is inferred from the widths.
    """
    named = {flag: bool(saved[flag]) for flag in _FLAGS if saved.get(flag) is not None}
    open_flags = [flag for flag in _FLAGS if flag not in named and flag != "press_events"]
    fits = []
    for values in itertools.product((False, True), repeat=len(open_flags)):
        flags: dict[str, Any] = {**named, **dict(zip(open_flags, values, strict=True))}
        config = EncodingConfig(**flags)
        if (config.layout.float_width, config.layout.class_width) == (float_width, class_width):
            fits.append(config)
    if len(fits) != 1:
        raise UserError(
            f"{where}: its encoding_config ({named}) does not fit its tensors ({float_width} numbers and {class_width} "
            "classes a frame): it was edited after encoding, or is of another version"
        )
    _check_scales(saved, where)
    return fits[0].layout


def _check_scales(saved: dict[str, Any], where: str) -> None:
    known = {
        "xy_scale": "x",
        "velocity_scale": "speed_y",
        "combo_count_scale": "combo_count",
        "shield_scale": "shield_strength",
    }
    known |= {f"{name}_scale": name for name in ("percent", "state_age", "hitlag", "stocks")} | {
        "hitstun_scale": "hitstun_remaining"
    }
    for key, name in known.items():
        expected = next(f.scale for f in PLAYER_FIELDS if f.name == name)
        if saved.get(key, expected) != expected:
            raise UserError(f"{where}: encoded with {key} {saved[key]}, the schema's is {expected}")


def _game_of(floats: np.ndarray, ints: np.ndarray, layout: FeatureLayout) -> Game:
    if not len(floats):
        raise GameError("zero frames")
    stage = int(ints[0, -1])
    if (ints[:, -1] != stage).any() or not 0 <= stage < STAGE.vocabulary:
        raise GameError(f"its stage is not one class below {STAGE.vocabulary} in all frames")
    columns: dict[tuple[int, str], np.ndarray] = {}
    absent = {group.name for group in SPARSE}
    for player in range(PLAYERS):
        found = _numbers(np.split(floats, PLAYERS, axis=1)[player], layout)
        found |= _classes(ints[:, player * len(layout.categories) :], layout)
        for field in PLAYER_FIELDS:
            if field.name in found:
                columns[player, field.name] = check_column(field, player, found[field.name])
            else:
                absent.add(f"p{player}.{field.name}")
                columns[player, field.name] = np.zeros(len(floats), dtype=stored_type(field))
    digest = hashlib.md5(floats.tobytes() + ints.tobytes(), usedforsecurity=False).hexdigest()
    missing = frozenset(name for name in absent if "." in name)
    return Game(
        md5=digest, stage=stage, planes=Planes.of(columns), absent=frozenset(absent), missing=missing,
        entry={"source": "encoded .pt", "num_frames": len(floats)},
    )  # fmt: skip


def _numbers(values: np.ndarray, layout: FeatureLayout) -> dict[str, np.ndarray]:
    """Unscaled numbers, flags and controls of one player from its (T, width) floats."""
    found = {f.name: _unscale(values[:, place], f) for place, f in enumerate(layout.continuous)}
    place = layout.continuous_width
    for field in layout.flags:
        bits = values[:, place : place + field.bits]
        if not np.isin(bits, (0, 1)).all():
            raise GameError(f"{field.name} holds a flag that is neither 0 nor 1")
        found[field.name] = bits[:, 0] if field.bits == 1 else np.packbits(bits > 0.5, axis=1, bitorder="little")[:, 0]
        place += field.bits
    found |= {f.name: values[:, place + number] for number, f in enumerate(layout.controls)}
    return found


def _unscale(values: np.ndarray, field: Field) -> np.ndarray:
    scale = np.float32(field.scale)
    raw = values / scale
    whole = np.rint(raw)
    for candidate in (np.nextafter(raw, np.float32(np.inf)), np.nextafter(raw, np.float32(-np.inf)), whole):
        raw = np.where(candidate * scale == values, candidate, raw)
    if field.storage is not Storage.FLOAT32:
        raw = np.where(np.abs(raw - whole) < _ROUNDING, whole, raw)
    return raw


def _classes(ints: np.ndarray, layout: FeatureLayout) -> dict[str, np.ndarray]:
    found = {}
    for place, field in enumerate(layout.categories):
        values = ints[:, place].astype(np.int64)  # what an empty class stands for need not fit the file's own type
        if field.empty is not None:
            values = np.where(values == 0, field.empty, values - 1)
        found[field.name] = values.astype(np.float32) if field.name == "state_age" else values
    return found
