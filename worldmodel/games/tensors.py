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
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from worldmodel.encoding import EncodingConfig, FeatureLayout
from worldmodel.errors import GameError, UserError
from worldmodel.games.game import Game, check_column, stored_type
from worldmodel.schema import PLAYER_FIELDS, PLAYERS, SPARSE, Field

_KEYS = ("floats", "ints", "game_lengths", "encoding_config")
"""What a file must hold; offsets follow from the lengths."""
_FLAGS = ("state_age_as_embed", "press_events", "projectiles", "state_flags", "hitstun")


def iterate_tensors(location: Any) -> Iterator[Game | GameError]:
    """The games of a `.pt` file (a `storage.Location`), or the reason why one is none.

    UserError where the file is none of the users' encodings or disagrees with its own configuration.
    """
    payload = _load(location)
    floats, ints = payload["floats"].numpy(), payload["ints"].numpy()
    lengths = [int(length) for length in payload["game_lengths"]]
    layout = _resolve(payload["encoding_config"], floats.shape[1], ints.shape[1], str(location))
    if sum(lengths) != len(floats) or len(ints) != len(floats):
        raise UserError(
            f"{location}: game_lengths add up to {sum(lengths)}, floats has {len(floats)} frames, ints {len(ints)}"
        )
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        start += length
        try:
            yield _game_of(floats[rows], ints[rows], layout)
        except GameError as error:
            yield error


def _load(location: Any) -> dict[str, Any]:
    try:
        with location.open_input() as stream:
            payload = torch.load(stream, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(f"{location} is not a readable .pt file: {str(error).splitlines()[0]}") from error
    lacking = [key for key in _KEYS if not isinstance(payload, dict) or key not in payload]
    if lacking:
        raise UserError(
            f"{location} lacks {', '.join(lacking)}: expected the users' encoded games ({', '.join(_KEYS)})"
        )
    return dict(payload)


def _resolve(saved: dict[str, Any], float_width: int, class_width: int, where: str) -> FeatureLayout:
    """The encoding that the saved configuration and the tensors' widths agree on.

    Saved files name only some flags, and the users' two repositories had different defaults for the others: a flag that
    is not named is inferred from the widths.
    """
    named = {flag: bool(saved[flag]) for flag in _FLAGS if saved.get(flag) is not None}
    open_flags = [flag for flag in _FLAGS if flag not in named and flag != "press_events"]
    fits = []
    for values in itertools.product((False, True), repeat=len(open_flags)):
        config = EncodingConfig(**{**named, **dict(zip(open_flags, values, strict=True))})
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
        md5=digest, stage=int(ints[0, -1]), columns=columns, absent=frozenset(absent), missing=missing,
        entry={"source": "encoded .pt", "num_frames": len(floats)},
    )  # fmt: skip


def _numbers(values: np.ndarray, layout: FeatureLayout) -> dict[str, np.ndarray]:
    """Unscaled numbers, flags and controls of one player from its (T, width) floats."""
    found = {f.name: _unscale(values[:, place], f) for place, f in enumerate(layout.continuous)}
    place = layout.continuous_width
    for field in layout.flags:
        bits = values[:, place : place + field.bits]
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
    return raw


def _classes(ints: np.ndarray, layout: FeatureLayout) -> dict[str, np.ndarray]:
    found = {}
    for place, field in enumerate(layout.categories):
        values = ints[:, place]
        if field.empty is not None:
            values = np.where(values == 0, field.empty, values - 1)
        found[field.name] = values.astype(np.float32) if field.name == "state_age" else values
    return found
