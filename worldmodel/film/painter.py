"""Draws a stage with its players into a picture; the counterpart of `scene.js`, from the same tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from worldmodel.film.camera import View
from worldmodel.film.look import COLORS, GONE, POSES, Pose, find_pose
from worldmodel.film.page import outline_body
from worldmodel.games.stages import Platform, Stage

Point = tuple[float, float]
Color = tuple[int, int, int, int]

LIMBS = (("neck", "back_hand"), ("hip", "back_foot"), ("neck", "hip"), ("hip", "front_foot"), ("neck", "front_hand"))
FIGURE = 13.0
"""Height of a figure, Melee units."""
FULL_SHIELD = 60.0
DASH = 8.0
"""Points of a dash."""


def read_color(name: str, alpha: float = 1.0) -> Color:
    """A colour such as `#ff8c42` with an opacity."""
    red, green, blue = ImageColor.getrgb(name)[:3]
    return red, green, blue, round(255 * alpha)


@cache
def load_font(size: int) -> Any:
    """Pillow's own font."""
    return ImageFont.load_default(size)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A part of a picture, in points."""

    x: float
    y: float
    width: float
    height: float


class Paper:
    """A picture to draw on, measured in points of which each is `scale` pixels."""

    def __init__(self, width: float, height: float, scale: float, color: str) -> None:
        self.scale = scale
        self.image = Image.new("RGB", (round(width * scale), round(height * scale)), color)
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def line(self, points: Sequence[Point], color: Color, width: float) -> None:
        """A line with round ends."""
        placed = [self._place(point) for point in points]
        self.draw.line(placed, fill=color, width=max(1, round(width * self.scale)), joint="curve")
        if color[3] == 255:
            for point in (points[0], points[-1]):
                self.disc(point, width / 2, color)

    def disc(self, centre: Point, radius: float, color: Color) -> None:
        """A filled circle."""
        self.draw.ellipse(self._around(centre, radius), fill=color)

    def ring(self, centre: Point, radius: float, color: Color, width: float) -> None:
        """A circle."""
        self.draw.ellipse(self._around(centre, radius), outline=color, width=max(1, round(width * self.scale)))

    def polygon(self, points: Iterable[Point], color: Color) -> None:
        """A filled outline."""
        self.draw.polygon([self._place(point) for point in points], fill=color)

    def rectangle(self, box: Box, color: Color, radius: float = 0.0) -> None:
        """A filled box."""
        corners = [self._place((box.x, box.y)), self._place((box.x + box.width, box.y + box.height))]
        self.draw.rounded_rectangle(corners, radius=radius * self.scale, fill=color)

    def dashes(self, begin: Point, end: Point, color: Color, width: float) -> None:
        """A dashed line."""
        length = math.dist(begin, end)
        for at in range(int(length // (2 * DASH)) + 1):
            shares = (2 * at * DASH / max(length, 1e-9), min(1.0, (2 * at + 1) * DASH / max(length, 1e-9)))
            parts = [tuple(a + share * (b - a) for a, b in zip(begin, end, strict=True)) for share in shares]
            placed = [self._place((x, y)) for x, y in parts]
            self.draw.line(placed, fill=color, width=max(1, round(width * self.scale)))

    def text(self, at: Point, words: str, color: Color, size: float, anchor: str = "ls") -> None:
        """Words; `anchor` as Pillow's (left, baseline)."""
        self.draw.text(self._place(at), words, fill=color, font=load_font(round(size * self.scale)), anchor=anchor)

    def paste(self, other: Paper, x: float, y: float) -> None:
        """Put another picture of the same scale onto this one."""
        self.image.paste(other.image, (round(x * self.scale), round(y * self.scale)))

    def _place(self, point: Point) -> Point:
        return point[0] * self.scale, point[1] * self.scale

    def _around(self, centre: Point, radius: float) -> list[Point]:
        (x, y), r = self._place(centre), radius * self.scale
        return [(x - r, y - r), (x + r, y + r)]


@dataclass(frozen=True, kw_only=True)
class Lens:
    """From Melee units to points of a picture."""

    box: Box
    view: View

    @property
    def unit(self) -> float:
        """Points of a Melee unit."""
        return self.box.width / self.view[2]

    def see(self, x: float, y: float) -> Point:
        """Where a place is in the picture."""
        across, down = (x - self.view[0]) * self.unit, (y - self.view[1]) * self.unit
        return self.box.x + self.box.width / 2 + across, self.box.y + self.box.height / 2 - down


def draw_stage(paper: Paper, lens: Lens, stage: Stage | None, platforms: Sequence[Platform]) -> None:
    """Ground, platforms and blast zone; None: neutral ground at height 0."""
    box = lens.box
    if stage is None:
        y = lens.see(0.0, 0.0)[1]
        paper.rectangle(Box(x=box.x, y=y, width=box.width, height=box.height), read_color(COLORS["body"]))
        paper.line([(box.x, y), (box.x + box.width, y)], read_color(COLORS["ground"]), 3.0)
        return
    corners = [lens.see(x, y) for x in (stage.left, stage.right) for y in (stage.bottom, stage.top)]
    for one, other in ((0, 1), (2, 3), (0, 2), (1, 3)):
        paper.dashes(corners[one], corners[other], read_color(COLORS["zone"]), 2.0)
    paper.polygon([lens.see(*corner) for corner in (*stage.floor, *outline_body(stage))], read_color(COLORS["body"]))
    paper.line([lens.see(*corner) for corner in stage.floor], read_color(COLORS["ground"]), 3.0)
    for platform in platforms:
        ends = [lens.see(x, platform.height) for x in (platform.left, platform.right)]
        paper.line(ends, read_color(COLORS["platform"]), 4.0)


def draw_player(paper: Paper, lens: Lens, player: Mapping[str, float], number: int, *, is_ghost: bool = False) -> None:
    """A player as in `clip.DRAWN`; a ghost is an outline."""
    color, name = COLORS["players"][number], find_pose(int(player["action"]))
    foot = lens.see(player["x"], player["y"])
    if name == GONE:
        _draw_loss(paper, lens.box, foot, read_color(color, 0.5 if is_ghost else 1.0))
        return
    body = Body(lens=lens, player=player, pose=POSES[name])
    layers = [(1.1, read_color(color, 0.5))] if is_ghost else [(3.6, read_color("#05070d")), (2.3, read_color(color))]
    for width, paint in layers:
        for one, other in LIMBS:
            paper.line([body.joint(one), body.joint(other)], paint, width * lens.unit)
        if is_ghost:
            paper.ring(body.joint("head"), 2.2 * lens.unit, paint, width * lens.unit)
        else:
            paper.disc(body.joint("head"), (2.3 + (width - 2.3) / 2) * lens.unit, paint)
    paper.polygon(body.nose(), layers[-1][1])
    if is_ghost:
        return
    _draw_marks(paper, body, name, color)
    label = (foot[0], max(lens.box.y + 14, foot[1] - (FIGURE + 7) * lens.unit))
    paper.text(label, f"P{number + 1}", read_color(color), 12.0, "ms")


def _draw_marks(paper: Paper, body: Body, name: str, color: str) -> None:
    """What hits, the shield, hitlag and invulnerability."""
    unit, player = body.lens.unit, body.player
    if body.pose.strikes:
        paper.disc(body.joint(body.pose.strikes), 1.7 * unit, read_color(COLORS["bright"]))
    centre = body.lens.see(player["x"], player["y"] + 6.5)
    if name == "guard":
        share = min(1.0, max(0.0, player["shield_strength"] / FULL_SHIELD))
        paper.disc(centre, (3.5 + 6.5 * share) * unit, read_color(color, 0.35))
    if player["hitlag"] > 0:
        paper.ring(centre, 8.5 * unit, read_color(COLORS["bright"]), 0.5 * unit)
    if player["invulnerable"]:
        paper.ring(centre, 9.5 * unit, read_color(color), 0.45 * unit)


def _draw_loss(paper: Paper, box: Box, at: Point, color: Color) -> None:
    """A cross, at the border where the place itself lies outside."""
    x = min(max(at[0], box.x + 18), box.x + box.width - 18)
    y = min(max(at[1], box.y + 40), box.y + box.height - 18)
    paper.line([(x - 9, y - 9), (x + 9, y + 9)], color, 4.0)
    paper.line([(x - 9, y + 9), (x + 9, y - 9)], color, 4.0)


@dataclass(frozen=True, kw_only=True)
class Body:
    """A figure in a picture."""

    lens: Lens
    player: Mapping[str, float]
    pose: Pose

    def joint(self, name: str) -> Point:
        """Where an end of the body is in the picture."""
        one, other, share = getattr(self.pose.a, name), getattr(self.pose.b, name), self._share()
        return self._place((one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])))

    def nose(self) -> list[Point]:
        """The arrow that says where the player looks."""
        share, (ax, ay), (bx, by) = self._share(), self.pose.a.head, self.pose.b.head
        x, y = ax + share * (bx - ax), ay + share * (by - ay)
        return [self._place(p) for p in ((x + 2.3, y + 1.4), (x + 4.6, y), (x + 2.3, y - 1.4))]

    def _share(self) -> float:
        passed = max(0.0, self.player["state_age"]) / self.pose.frames
        return 1.0 - abs(passed % 2 - 1) if self.pose.repeats else min(1.0, passed)

    def _place(self, point: Point) -> Point:
        turn = math.radians(self.pose.spin * self.player["state_age"])
        x, y = point[0], point[1] - 6 * bool(self.pose.spin)
        x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        y += 6 * bool(self.pose.spin)
        side = 1.0 if self.player["facing"] else -1.0
        return self.lens.see(self.player["x"] + side * x, self.player["y"] + y)
