"""The camera: nobody who is in the game is out of the picture."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.film.camera import ASPECT, BEYOND, NARROWEST, Camera
from worldmodel.games.stages import STAGES, Stage

Places = list[tuple[float, float]]
PLACES = st.lists(st.tuples(st.floats(-400, 400), st.floats(-400, 400)), min_size=2, max_size=4)


@settings(max_examples=30, deadline=None)
@given(st.lists(PLACES, min_size=1, max_size=20), st.sampled_from([None, *STAGES.values()]))
def test_whoever_is_within_the_blast_zone_is_in_the_picture(frames: list[Places], stage: Stage | None) -> None:
    camera = Camera(stage)
    for points in frames:
        x, y, width = camera.follow(points)
        assert width >= NARROWEST
        for px, py in points:
            if stage is None or (stage.left < px < stage.right and stage.bottom < py < stage.top):
                assert abs(px - x) < width / 2 and abs(py - y) < width / ASPECT / 2


def test_who_is_lost_far_away_does_not_take_the_camera_along() -> None:
    stage = STAGES[31]
    x, _, width = Camera(stage).follow([(5000.0, 0.0), (0.0, 0.0)])
    assert x + width / 2 < stage.right + BEYOND + 100
