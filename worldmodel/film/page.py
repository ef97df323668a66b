"""Clips as one page that needs nothing else, not even a network: play, scrub and step in any browser."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from worldmodel.film.camera import ASPECT
from worldmodel.film.clip import CONTROLS, DRAWN, PLACES, Clip, Columns
from worldmodel.film.look import describe_look, find_pose
from worldmodel.games.names import name_action, name_character, name_stage
from worldmodel.games.stages import Platform, Stage
from worldmodel.schema import PLAYERS, Storage, field_named

FILM = "film.html"
"""Name of the page in a run's folder; the grid's report links to it."""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
"""What a browser lets the page do: run and draw what it brings along, fetch nothing."""
BUTTONS = tuple(name.removeprefix("button_") for name in CONTROLS if field_named(name).storage is Storage.BIT)
BODY_DEPTH, BODY_TAPER = 42.0, 0.55
"""How the rock below a floor is drawn: so many units deep, its lower side that share as wide. Decoration."""
PRETENDED = {"toy": "toy game, not Melee", "world model": "played inside a model"}
"""What to say of a game that was not played in Melee, by `GameEntry.played_on`."""
UNUSED = ("on_ground", "ground")
"""Drawn fields that the page itself does not need."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What a film says of itself."""

    run: str
    model: str
    """Which checkpoint, of how many parameters."""
    notes: tuple[str, ...] = ()


def to_html(clips: Sequence[Clip], heading: Heading) -> str:
    """The page."""
    content = {
        "clips": [_describe_clip(clip) for clip in clips],
        "actions": _list_actions(clips),
        "aspect": ASPECT,
        "look": look_of_page(),
    }
    options = "".join(
        f'<option value="{place}">{place + 1}: {html.escape(_name_clip(clip))}</option>'
        for place, clip in enumerate(clips)
    )
    body = (
        read_asset("film.html")
        .replace("{run}", html.escape(heading.run))
        .replace("{model}", html.escape(heading.model))
        .replace("{options}", options)
        .replace("{notes}", "".join(f"<p>{html.escape(note)}</p>" for note in heading.notes))
    )
    scripts = [read_asset(name) for name in ("scene.js", "film.js")]
    return wrap_page(heading.run, body, content, style="film.css", scripts=scripts, policy=POLICY)


def wrap_page(
    title: str, body: str, content: dict[str, Any], *, style: str, scripts: Sequence[str], policy: str
) -> str:
    """A whole page with its style (a file's name), its scripts (their text) and what they show (`id="film"`)."""
    shown = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    code = "\n".join(scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{read_asset(style)}</style></head>\n<body>\n{body}\n"
        f'<script type="application/json" id="film">{shown}</script>\n<script>\n{code}</script>\n</body></html>\n'
    )


def read_asset(name: str, room: str = "worldmodel.film") -> str:
    """A file that lies beside a room's modules."""
    return (files(room) / name).read_text(encoding="utf-8")


def look_of_page() -> dict[str, Any]:
    """Poses, colours and buttons, for `scene.js`."""
    return {**describe_look(), "buttons": BUTTONS}


def describe_stage(stage: Stage | None) -> dict[str, Any] | None:
    """A stage for `scene.js`; None: neutral ground."""
    if stage is None:
        return None
    return {
        "floor": stage.floor,
        "body": outline_body(stage),
        "platforms": [describe_platform(platform) for platform in stage.platforms],
        "zone": (stage.left, stage.right, stage.bottom, stage.top),
    }


def outline_body(stage: Stage) -> list[tuple[float, float]]:
    """The lower corners of the rock under a floor, from the right to the left."""
    (left, y), (right, _) = stage.floor[0], stage.floor[-1]
    return [(right * BODY_TAPER, y - BODY_DEPTH), (left * BODY_TAPER, y - BODY_DEPTH)]


def describe_platform(platform: Platform) -> tuple[float, float, float]:
    """Left end, right end and height."""
    return round(platform.left, PLACES), round(platform.right, PLACES), round(platform.height, PLACES)


def _describe_clip(clip: Clip) -> dict[str, Any]:
    stage = clip.stage
    platforms = [[describe_platform(p) for p in clip.platforms(t, clip.truth)] for t in range(clip.frames)]
    does_move = any(some != platforms[0] for some in platforms)
    return {
        "about": describe_clip(clip),
        "characters": [name_character(character) for character in clip.characters],
        "frames": clip.frames,
        "lead": clip.lead,
        "stage": describe_stage(stage),
        "ground_note": describe_ground(clip.stage_id, stage, clip.played_on),
        "moving": platforms if does_move else None,
        "views": [[round(float(v), PLACES) for v in view] for view in clip.views],
        "truth": _pack(clip.truth, [name for name in DRAWN if name not in UNUSED]),
        "predicted": _pack(clip.predicted, [name for name in DRAWN if name not in UNUSED]),
        "controls": _pack(clip.truth, CONTROLS),
        "error": _round(clip.error),
        "baseline": _round(clip.baseline),
        "most": choose_scale(clip),
    }


def choose_scale(clip: Clip) -> float:
    """The upper end of the error's axis: a round number of Melee units that neither curve exceeds."""
    highest = max(float(clip.error.max()), float(clip.baseline.max()), 0.5)
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 4, 10) if step * power >= highest)


def describe_clip(clip: Clip) -> str:
    """Where a clip is from, and how well the model did."""
    return (
        f"game {clip.md5[:8]}, {_name_stage(clip)}, after frame {clip.start}; position error "
        f"{clip.coherence:.2f} units on average over the first {min(20, clip.frames - clip.lead)} frames"
    )


def describe_ground(ident: int, stage: Stage | None, played_on: str = "") -> str:
    """What to say of a stage that is not drawn, and of a game that is none of Melee's; empty: nothing."""
    pretended, drawn = PRETENDED.get(played_on, ""), f"{name_stage(ident)} has no drawing: neutral ground at height 0"
    return "; ".join(note for note in (pretended, "" if stage else drawn) if note)


def _name_stage(clip: Clip) -> str:
    return ", ".join(note for note in (name_stage(clip.stage_id), PRETENDED.get(clip.played_on)) if note)


def _name_clip(clip: Clip) -> str:
    return f"{' / '.join(name_character(c) for c in clip.characters)}, {_name_stage(clip)}, frame {clip.start}"


def _list_actions(clips: Sequence[Clip]) -> dict[str, tuple[str, str]]:
    """Every "character action" in some clips: its name for people, and its pose."""
    shown = [columns for clip in clips for columns in (clip.truth, clip.predicted)]
    pairs = {pair for c in shown for pair in zip(c["character"].ravel(), c["action"].ravel(), strict=True)}
    used = sorted((int(character), int(action)) for character, action in pairs)
    return {f"{who} {action}": (name_action(action, who), find_pose(action)) for who, action in used}


def _pack(columns: Columns, names: Sequence[str]) -> dict[str, list[list[float | int]]]:
    """Name to values of each player, as short as they can be written."""
    return {name: [_round(columns[name][:, player]) for player in range(PLAYERS)] for name in names}


def _round(values: np.ndarray) -> list[float | int]:
    return [int(v) if v == int(v) else v for v in np.round(values.astype(np.float64), PLACES).tolist()]
