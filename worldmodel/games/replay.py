"""Slippi replays (`.slp`, `.slp.gz`) as parsed games, through peppi (https://github.com/hohav/peppi, replay format:
https://github.com/project-slippi/slippi-wiki).

The parser is native code that can panic, hang or die: call `parse_replay` in a process of its own (`parse.py` does).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldmodel.errors import GameError
from worldmodel.games.names import name_stage
from worldmodel.games.replay_events import complete
from worldmodel.games.replay_frames import pick_rows, read_columns
from worldmodel.games.writer import FIRST_FRAME_ID, Entry, assemble_frames, list_missing
from worldmodel.schema import LEGAL_STAGES, PLAYERS

MAX_REPLAY_BYTES = 512 * 2**20
"""Replays of an hour have some 80 MB; a file that unpacks to more is a mistake or an attack."""
MIN_FRAMES = 300
"""Five seconds: less is a game that was broken off."""
_RESOLVED = {"TIME": 1, "GAME": 2, "RESOLVED": 3, "NO_CONTEST": 7}
"""End methods of a game that was played to an end, or left by a player."""
_GZIP = 16 + zlib.MAX_WBITS
_MEANINGS = {
    "expected: [123, 85, 3, 114": "it does not begin as a Slippi replay",
    "fill whole buffer": "it ends early: the recording was cut off",
    "OutOfSpec": "a frame is not whole: the recording was cut off, or events are damaged",
    "panic": "events in it are damaged",
    "Panic": "events in it are damaged",
}
"""What the parser says to what it means."""


@dataclass(frozen=True, kw_only=True)
class ParsedReplay:
    """A replay as a parsed game of F frames."""

    frames: pa.StructArray
    """The struct `root` (F,)."""
    frame_ids: np.ndarray
    """int32 (F,): ids of the frames, from -123 on."""
    entry: Entry


def read_replay_bytes(path: Path) -> bytes:
    """The uncompressed bytes of a `.slp` or `.slp.gz`; GameError where it is empty, cut off, damaged or too large."""
    try:
        raw = path.read_bytes() if path.suffix.lower() != ".gz" else _unpack(path)
    except OSError as error:
        raise GameError(f"unreadable file: {error.strerror or error}") from error
    if not raw:
        raise GameError("unreadable replay: the file is empty")
    if len(raw) > MAX_REPLAY_BYTES:
        raise GameError(f"unreadable replay: more than {MAX_REPLAY_BYTES // 2**20} MiB")
    return raw


def _unpack(path: Path) -> bytes:
    """All members of a gzip file, one after another; zeros may follow them."""
    packed, raw = path.read_bytes(), b""
    try:
        while True:
            unpacker = zlib.decompressobj(_GZIP)
            raw += unpacker.decompress(packed, MAX_REPLAY_BYTES + 1 - len(raw))
            if len(raw) > MAX_REPLAY_BYTES:
                return raw
            if not unpacker.eof:
                raise GameError("unreadable replay: the gzip file is cut off")
            packed = unpacker.unused_data.lstrip(b"\0")
            if not packed:
                return raw
    except zlib.error as error:
        raise GameError(f"unreadable replay: damaged gzip ({error})") from error


def name_replay(raw: bytes) -> str:
    """The md5 (32 hex digits) of a replay's uncompressed bytes: the game's name."""
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def parse_replay(raw: bytes, source: Path) -> ParsedReplay:
    """The game in a replay's bytes; `source` is what its entry says where it came from.

    Raises GameError with every reason found why it is no two-player game between people, played to an end.
    """
    game = _read_game(raw)
    reasons = [*_judge_start(game.start), *_judge_end(game.end)]
    ids = np.asarray(game.frames.id.to_numpy(zero_copy_only=False)) if game.frames is not None else np.zeros(0, int)
    reasons += _judge_frames(ids)
    if len(game.start.players) == PLAYERS and len(ids):
        reasons += _judge_players(game)
    if reasons:
        raise GameError("; ".join([*reasons, *_name_lacks(game)]))
    rows = pick_rows(ids)
    frames = assemble_frames(read_columns(game.frames, game.start.stage, rows))
    return ParsedReplay(
        frames=frames,
        frame_ids=np.arange(FIRST_FRAME_ID, FIRST_FRAME_ID + len(rows), dtype=np.int32),
        entry=_describe(game, raw, source, len(rows), len(ids) - len(rows)),
    )


def _read_game(raw: bytes) -> Any:
    import peppi_py

    with tempfile.NamedTemporaryFile(suffix=".slp") as file:
        file.write(complete(raw))
        file.flush()
        try:
            return peppi_py.read_slippi(file.name)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a Rust panic derives from BaseException
            raise GameError(f"unreadable replay: {_explain(error)}") from error


def _explain(error: BaseException) -> str:
    """What the parser's own words mean."""
    said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    meant = next((text for sign, text in _MEANINGS.items() if sign in said), "it is damaged, or no Slippi replay")
    return f"{meant} (the parser says: {said})"


def _judge_start(start: Any) -> list[str]:
    reasons = []
    players = start.players
    if len(players) != PLAYERS:
        kind = "in teams" if start.is_teams else "free for all"
        reasons.append(f"{len(players)} players {kind}, expected two")
    elif start.is_teams:
        reasons.append("two players with teams on, expected one against one")
    machines = [player for player in players if player.type.name != "HUMAN"]
    reasons += [f"port {player.port + 1} is a computer player ({player.type.name.lower()})" for player in machines]
    if start.stage not in LEGAL_STAGES:
        reasons.append(f"{name_stage(start.stage)} is none of the six tournament stages")
    return reasons


def _judge_end(end: Any) -> list[str]:
    if end is None:
        return ["no Game End event: cut recording"]
    if end.method.name not in _RESOLVED:
        return [f"end method {end.method.name.lower()}: cut recording"]
    return []


def _judge_frames(ids: np.ndarray) -> list[str]:
    reasons = []
    unique = len(np.unique(ids))
    if unique < MIN_FRAMES:
        reasons.append(f"too short: {unique} frames, expected at least {MIN_FRAMES}")
    try:
        pick_rows(ids)
    except GameError as error:
        reasons.append(f"bad frame ids: {error}")
    return reasons


def _judge_players(game: Any) -> list[str]:
    reasons = []
    for player, port in zip(game.start.players, game.frames.ports, strict=False):
        if not port.leader.pre.buttons_physical.to_numpy(zero_copy_only=False).any():
            reasons.append(f"idle player: port {player.port + 1} never presses a button")
    return reasons


def _name_lacks(game: Any) -> list[str]:
    """What this Slippi version does not record: of use to who wonders why an old replay is refused."""
    if len(game.start.players) != PLAYERS or game.frames is None:
        return []
    try:
        rows = np.arange(len(game.frames.id))
        lacks = list_missing(assemble_frames(read_columns(game.frames, game.start.stage, rows)))
    except GameError as error:
        return [str(error)]
    return [f"Slippi {_version(game.start)} lacks {', '.join(lacks)}"] if lacks else []


def _version(start: Any) -> str:
    return ".".join(str(part) for part in start.slippi.version)


def _describe(game: Any, raw: bytes, source: Path, frames: int, repeats: int) -> Entry:
    start, end, metadata = game.start, game.end, game.metadata or {}
    initiator = getattr(end, "lras_initiator", None)
    return Entry(
        name=source.name.removesuffix(".gz"),
        slp_md5=name_replay(raw),
        slp_size=len(raw),
        lastFrame=frames,
        dropped_repeats=repeats,
        players=tuple(
            {"port": int(player.port), "character": _find_character(port.leader.post.character)}
            for player, port in zip(start.players, game.frames.ports, strict=True)
        ),
        stage=start.stage,
        game_end_method=_RESOLVED[end.method.name],
        is_pal=bool(start.is_pal),
        source=str(source),
        slippi_version=_version(start),
        start_stocks=start.players[0].stocks,
        played_on=metadata.get("playedOn"),
        lras=str(None if initiator is None else int(initiator)),
        start_key=_fingerprint(start),
    )


def _find_character(played: pa.Array) -> int:
    """The character that is played most: Zelda and Sheik change within a game."""
    return int(np.bincount(played.to_numpy(zero_copy_only=False)).argmax())


def _fingerprint(start: Any) -> str:
    """md5 of the start block without what an edit of names changes: two files with one fingerprint are one game."""
    block = asdict(start)
    block.pop("slippi")
    block["players"] = [
        {key: value for key, value in player.items() if key not in ("name_tag", "netplay")}
        for player in block["players"]
    ]
    text = json.dumps(block, sort_keys=True, default=str)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
