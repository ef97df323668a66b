"""The six tournament stages: where there is ground, and where a player is lost. Melee units, centre of the floor at 0.

Blast zones: Magus420's measurements (smashboards.com, "Official Ask Anyone: Frame Things", post 18643652), which
libmelee publishes (`melee/stages.py`, BLASTZONES). Floors' ends and platforms: libmelee (EDGE_GROUND_POSITION,
*_platform_position, randall_position). Slopes, and the ranges of Fountain of Dreams' side platforms: measured on 102
real games, in which every published height and end is found again to .1 unit (`tests/games/test_stages.py`).
Pokemon Stadium's transformations are not described.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from worldmodel.schema import LEGAL_STAGES


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Ground that can be passed through from below."""

    left: float
    right: float
    height: float
    """Where it is; for one that moves, where players stand on it most often."""
    ground: int | None = None
    """Value of `ground` for who stands on it, where that tells its height; None: it does not move."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Ground and blast zone of a stage."""

    ident: int
    """Value of `stage`."""
    floor: tuple[tuple[float, float], ...]
    """Corners of the floor (x, y), from the left ledge to the right one."""
    platforms: tuple[Platform, ...] = ()
    left: float
    right: float
    bottom: float
    top: float
    """A player beyond one of these four loses a stock (beyond the top only while being launched)."""

    @property
    def name(self) -> str:
        """The stage's name."""
        return LEGAL_STAGES[self.ident]


def _flat(end: float, height: float = 0.0) -> tuple[tuple[float, float], ...]:
    return ((-end, height), (end, height))


_SIDES = (-1, 1)

STAGES: dict[int, Stage] = {
    stage.ident: stage
    for stage in (
        Stage(
            ident=2, left=-198.75, right=198.75, bottom=-146.25, top=202.5,
            floor=((-63.35, 0.62), (-53.5, 0.62), (-51.0, 0.0), (51.0, 0.0), (53.5, 0.62), (63.35, 0.62)),
            platforms=(
                Platform(left=-49.5, right=-21.0, height=20.0, ground=0),
                Platform(left=21.0, right=49.5, height=20.0, ground=1),
                Platform(left=-14.25, right=14.25, height=42.75),
            ),
        ),
        Stage(
            ident=3, left=-230.0, right=230.0, bottom=-111.0, top=180.0, floor=_flat(87.75),
            platforms=(Platform(left=-55.0, right=-25.0, height=25.0), Platform(left=25.0, right=55.0, height=25.0)),
        ),
        Stage(
            ident=8, left=-175.7, right=173.6, bottom=-91.0, top=168.0,
            floor=((-56.0, -3.5), (-39.0, 0.0), (39.0, 0.0), (56.0, -3.5)),
            platforms=(
                Platform(left=-59.5, right=-28.0, height=23.45),
                Platform(left=28.0, right=59.5, height=23.45),
                Platform(left=-15.75, right=15.75, height=42.0),
            ),
        ),
        Stage(
            ident=28, left=-255.0, right=255.0, bottom=-123.0, top=250.0, floor=_flat(77.27),
            platforms=(
                Platform(left=-61.39, right=-31.73, height=30.14),
                Platform(left=31.70, right=63.07, height=30.24),
                Platform(left=-19.02, right=19.02, height=51.43),
            ),
        ),
        Stage(
            ident=31, left=-224.0, right=224.0, bottom=-108.8, top=200.0, floor=_flat(68.4),
            platforms=(
                Platform(left=-57.6, right=-20.0, height=27.2),
                Platform(left=20.0, right=57.6, height=27.2),
                Platform(left=-18.8, right=18.8, height=54.4),
            ),
        ),
        Stage(ident=32, left=-246.0, right=246.0, bottom=-140.0, top=188.0, floor=_flat(85.57)),
    )
}  # fmt: skip
"""Id to stage."""

CLOUD_WIDTH = 11.9
CLOUD_PERIOD = 1200
"""Frames in which the cloud of Yoshi's Story ("Randall") goes round."""
_CLOUD_PATH = (
    (0, -57.49, -33.25), (416, 89.75, -33.18), (423, 91.35, -31.51), (469, 91.34, -15.19), (477, 89.34, -13.65),
    (1016, -101.92, -13.68), (1023, -103.6, -15.28), (1069, -103.6, -31.59), (1076, -101.85, -33.25),
    (1200, -57.85, -33.25),
)  # fmt: skip
"""(frame within the period, left end, height), straight in between; within .4 units of libmelee's table."""


def find_cloud(frame: int) -> Platform:
    """Where the cloud of Yoshi's Story is at a frame of the game (Slippi counts from -123)."""
    moment = frame % CLOUD_PERIOD
    for (begin, x0, y0), (end, x1, y1) in pairwise(_CLOUD_PATH):
        if moment <= end:
            share = (moment - begin) / (end - begin)
            left = x0 + share * (x1 - x0)
            return Platform(left=left, right=left + CLOUD_WIDTH, height=y0 + share * (y1 - y0))
    raise AssertionError(moment)
