"""A clip's frame as one picture: truth beside model, the players' numbers and controllers, the error over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from worldmodel.film.camera import ASPECT, View
from worldmodel.film.clip import CONTROLS, DRAWN, Clip, Columns
from worldmodel.film.look import COLORS
from worldmodel.film.page import BUTTONS, choose_scale, describe_ground
from worldmodel.film.painter import Box, Lens, Paper, draw_player, draw_stage, read_color
from worldmodel.games.names import name_action, name_character
from worldmodel.schema import PLAYERS

Values = Mapping[str, float]
WIDTH, HEIGHT = 960.0, 560.0
"""Points of a picture."""
MARGIN, GAP = 12.0, 12.0
SCENE, CARD, CHART = 336.0, 78.0, 98.0
"""Heights of the three rows."""
SHARPNESS = 2
"""Pixels per side that are drawn for one that is kept."""


@dataclass
class Picture:
    """Draws the frames of a clip."""

    clip: Clip
    width: int
    """Pixels; the height follows."""
    title: str = "Model"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, both even, as video encoders want them."""
        return self.width // 2 * 2, round(self.width * HEIGHT / WIDTH) // 2 * 2

    def draw(self, time: int) -> np.ndarray:
        """The frame at `time` as (height, width, 3) uint8."""
        paper = Paper(WIDTH, HEIGHT, SHARPNESS * self.width / WIDTH, "#0a0e18")
        half = (WIDTH - 2 * MARGIN - GAP) / 2
        self._add_scene(paper, MARGIN, half, time, is_model=False)
        self._add_scene(paper, MARGIN + half + GAP, half, time, is_model=True)
        for number in range(PLAYERS):
            box = Box(x=MARGIN + number * (half + GAP), y=MARGIN + SCENE + GAP, width=half, height=CARD)
            self._add_card(paper, box, number, time)
        self._add_chart(paper, Box(x=MARGIN, y=HEIGHT - MARGIN - CHART, width=WIDTH - 2 * MARGIN, height=CHART), time)
        return np.asarray(paper.image.resize(self.size, Image.Resampling.LANCZOS))

    def _add_scene(self, paper: Paper, x: float, width: float, time: int, *, is_model: bool) -> None:
        clip, is_lead = self.clip, time < self.clip.lead
        scene = Paper(width, SCENE, paper.scale, COLORS["sky"][0])
        box = Box(x=0.0, y=0.0, width=width, height=SCENE)
        lens = Lens(box=box, view=widen(clip.views[time], width / SCENE))
        _draw_sky(scene, box)
        draw_stage(scene, lens, clip.stage, clip.platforms(time, clip.truth))
        shown = clip.predicted if is_model else clip.truth
        if is_model and not is_lead:
            for number in range(PLAYERS):
                draw_player(scene, lens, player_at(clip.truth, number, time), number, is_ghost=True)
        for number in range(PLAYERS):
            draw_player(scene, lens, player_at(shown, number, time), number)
        own = time - clip.lead + 1
        note = "shown to the model" if is_lead else f"on its own for {own} frame{'s' * (own > 1)}"
        ground = describe_ground(clip.stage_id, clip.stage, clip.played_on)
        scene.text((14.0, 26.0), self.title if is_model else "Truth", read_color(COLORS["text"]), 16.0)
        notes = " · ".join(part for part in (note if is_model else "", ground) if part)
        scene.text((14.0, 45.0), notes, read_color(COLORS["faint"]), 12.0)
        paper.paste(scene, x, MARGIN)

    def _add_card(self, paper: Paper, box: Box, number: int, time: int) -> None:
        clip, color = self.clip, COLORS["players"][number]
        paper.rectangle(box, read_color(COLORS["panel"]), 9.0)
        name = f"P{number + 1}  {name_character(clip.characters[number])}"
        paper.text((box.x + 14, box.y + 21), name, read_color(color), 14.0)
        truth, model = (player_at(columns, number, time) for columns in (clip.truth, clip.predicted))
        for row, (label, player) in enumerate((("truth", truth), ("model", model))):
            y = box.y + 45 + 21 * row
            paper.text((box.x + 14, y), label, read_color(COLORS["faint"]), 12.0)
            self._add_numbers(paper, (box.x + 58, y), player, truth)
        pad = {name: float(clip.truth[name][time, number]) for name in CONTROLS}
        draw_pad(paper, Box(x=box.x + box.width - 196, y=box.y + 10, width=186.0, height=box.height - 20), pad, color)

    def _add_numbers(
        self, paper: Paper, at: tuple[float, float], player: Mapping[str, float], truth: Mapping[str, float]
    ) -> None:
        """Percent, stocks and action; yellow where they are not the truth's."""
        (x, y), text, off = at, read_color(COLORS["text"]), read_color(COLORS["error"])
        is_off = abs(player["percent"] - truth["percent"]) >= 1
        paper.text((x, y), f"{player['percent']:.0f} %", off if is_off else text, 14.0)
        is_off = round(player["stocks"]) != round(truth["stocks"])
        for stock in range(max(0, min(9, round(player["stocks"])))):
            paper.disc((x + 58 + 10 * stock, y - 4), 3.5, off if is_off else text)
        is_off = player["action"] != truth["action"]
        name = name_action(int(player["action"]), int(player["character"]))[:22]
        paper.text((x + 108, y), name, off if is_off else text, 13.0)

    def _add_chart(self, paper: Paper, box: Box, time: int) -> None:
        clip, most = self.clip, choose_scale(self.clip)
        paper.rectangle(box, read_color(COLORS["panel"]), 9.0)
        error = f"position error of the model: {clip.error[time]:.2f} units (square-root scale)"
        label = f"{error}      grey: both go on at their speeds"
        paper.text((box.x + 14, box.y + 18), label, read_color(COLORS["error"]), 12.0)
        left, right, top, bottom = box.x + 44, box.x + box.width - 10, box.y + 28, box.y + box.height - 20

        def place(at: int, value: float) -> tuple[float, float]:
            across, up = at / max(1, clip.frames - 1), math.sqrt(value / most)
            return left + (right - left) * across, bottom - (bottom - top) * up

        for value in (0.0, most / 4, most):
            y = place(0, value)[1]
            paper.line([(left, y), (right, y)], read_color("#222c45"), 1.0)
            paper.text((left - 6, y + 4), f"{value:g}", read_color(COLORS["faint"]), 10.0, "rs")
        for second in range(-(-(clip.frames - clip.lead) // 60)):
            x = place(clip.lead - 1 + 60 * second, 0.0)[0]
            paper.text((x, box.y + box.height - 6), f"{second} s", read_color(COLORS["faint"]), 10.0, "ms")
        begin = place(clip.lead - 1, 0.0)[0]
        paper.dashes((begin, top), (begin, bottom), read_color(COLORS["faint"]), 1.0)
        for values, color, width in ((clip.baseline, COLORS["baseline"], 1.5), (clip.error, COLORS["error"], 2.0)):
            paper.line([place(t, float(v)) for t, v in enumerate(values)], read_color(color), width)
        x, y = place(time, float(clip.error[time]))
        paper.line([(x, top - 4), (x, bottom)], read_color(COLORS["text"]), 1.5)
        paper.disc((x, y), 4.0, read_color(COLORS["error"]))


def widen(view: View, aspect: float) -> View:
    """The camera's view in a box of another aspect: more at the sides."""
    return view[0], view[1], max(view[2], view[2] / ASPECT * aspect)


def player_at(columns: Columns, number: int, time: int) -> dict[str, float]:
    """A player's drawn fields at a frame."""
    return {name: float(columns[name][time, number]) for name in DRAWN}


def _draw_sky(paper: Paper, box: Box) -> None:
    top, bottom = (np.array(read_color(color)[:3]) for color in COLORS["sky"])
    height = paper.image.height
    shades = top + (bottom - top) * np.linspace(0, 1, height)[:, None]
    rows = np.repeat(shades[:, None].round().astype(np.uint8), paper.image.width, axis=1)
    paper.image.paste(Image.fromarray(rows), (0, 0))


def draw_pad(paper: Paper, box: Box, pad: Mapping[str, float], color: str) -> None:
    """Sticks, shoulder and buttons of a controller."""
    r, middle = box.height * 0.36, box.y + box.height / 2
    _draw_stick(paper, (box.x + r, middle), r, (pad["main_stick_x"], pad["main_stick_y"]), color)
    small = (box.x + 2.9 * r + 4, middle + 0.3 * r)
    _draw_stick(paper, small, 0.62 * r, (pad["c_stick_x"], pad["c_stick_y"]), COLORS["error"])
    left, tall = box.x + 3.9 * r + 8, box.height - 10
    bar = Box(x=left, y=box.y + 5, width=7.0, height=tall)
    paper.rectangle(bar, read_color("#3a4766"))
    filled = tall * pad["shoulder"]
    paper.rectangle(replace(bar, y=box.y + 5 + tall - filled, height=filled), read_color(color))
    for place, name in enumerate(BUTTONS):
        at = (left + 22 + place % 4 * 23, box.y + box.height * (0.26 if place < 4 else 0.76))
        is_down = pad[f"button_{name}"] > 0.5
        paper.disc(at, 10.0, read_color(color if is_down else "#3a4766"))
        paper.disc(at, 9.0, read_color(color if is_down else COLORS["panel"]))
        text = read_color("#0d1220" if is_down else COLORS["faint"])
        paper.text(at, name.replace("D_UP", "D"), text, 10.0, "mm")


def _draw_stick(paper: Paper, centre: tuple[float, float], r: float, tilt: tuple[float, float], color: str) -> None:
    paper.disc(centre, r, read_color("#3a4766"))
    paper.disc(centre, r - 1, read_color(COLORS["panel"]))
    across, up = ((value - 0.5) * 2 * r * 0.8 for value in tilt)
    paper.disc((centre[0] + across, centre[1] - up), r * 0.36, read_color(color))
