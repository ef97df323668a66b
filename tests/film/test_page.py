"""The film's page: all of it is in it, nothing is fetched, and it says what is not drawn."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.film.rooms import open_roller
from worldmodel.film.clip import CONTROLS, Clip
from worldmodel.film.page import Heading, to_html
from worldmodel.film.source import ClipOptions, make_clips
from worldmodel.games.stages import STAGES
from worldmodel.rollout.roller import Start
from worldmodel.storage import Location

HEADING = Heading(run="<b>run</b>", model="step 3", notes=("a </script> note",))


@pytest.fixture(scope="module")
def clip(run: Location) -> Clip:
    return make_clips(open_roller(run), [Start(game=0, frame=30)], ClipOptions(frames=20, lead=5))[0]


def read_content(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="film">(.*?)</script>', page, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_the_page_shows_the_clip_to_two_decimals(clip: Clip) -> None:
    shown = read_content(to_html([clip], HEADING))["clips"][0]
    for name in ("x", "y", "action", "facing"):
        for side, columns in (("truth", clip.truth), ("predicted", clip.predicted)):
            assert np.allclose(np.array(shown[side][name], dtype=float).T, columns[name], atol=0.0051)
    assert shown["controls"].keys() == set(CONTROLS)
    assert np.allclose(shown["error"], clip.error, atol=0.0051)
    assert len(shown["views"]) == clip.frames


def test_every_action_of_the_clip_has_a_name_and_a_pose(clip: Clip) -> None:
    content = read_content(to_html([clip], HEADING))
    shown = [zip(c["character"].ravel(), c["action"].ravel(), strict=True) for c in (clip.truth, clip.predicted)]
    assert content["actions"].keys() == {f"{who} {action}" for pairs in shown for who, action in pairs}
    assert all(pose in content["look"]["poses"] for _, pose in content["actions"].values())


@pytest.mark.parametrize("far", [0.3, 7.0, 143.0, 2500.0])
def test_the_error_axis_ends_above_both_curves(clip: Clip, far: float) -> None:
    """Otherwise a curve is cut off where it is largest."""
    moved = {**clip.kinematic, "x": clip.truth["x"] + 2 * far}
    for changed in (replace(clip, kinematic=moved), replace(clip, predicted={**clip.predicted, "x": moved["x"]})):
        shown = read_content(to_html([changed], HEADING))["clips"][0]
        highest = max(*shown["error"], *shown["baseline"])
        assert highest <= shown["most"] <= max(1.0, 3 * highest)


def test_the_page_may_fetch_nothing_and_asks_for_nothing(clip: Clip) -> None:
    page = to_html([clip], HEADING)
    assert "default-src 'none'" in page and "connect-src" not in page
    assert not re.search(r"""\b(src|href)\s*=\s*["']|url\(|@import|fetch\(|https?://""", page)


def test_a_name_cannot_become_part_of_the_page(clip: Clip) -> None:
    page = to_html([clip], HEADING)
    assert "<b>run</b>" not in page and "a </script> note" not in page
    assert page.count("</script>") == 2


def test_a_name_cannot_keep_the_page_s_script_from_running(clip: Clip) -> None:
    page = to_html([replace(clip, md5="<!--<script>")], HEADING)
    assert "<!--" not in page
    assert "game <!--<scr" in read_content(page)["clips"][0]["about"]


def test_a_stage_without_a_drawing_is_neutral_ground_and_the_page_says_so(clip: Clip) -> None:
    shown = read_content(to_html([replace(clip, stage_id=13, played_on="dolphin")], HEADING))["clips"][0]
    assert shown["stage"] is None
    assert shown["ground_note"] == "Great Bay has no drawing: neutral ground at height 0"


def test_a_toy_game_is_said_to_be_one_wherever_it_is_drawn(clip: Clip) -> None:
    page = to_html([clip], HEADING)
    shown = read_content(page)["clips"][0]
    assert shown["stage"] is not None
    assert shown["ground_note"] == "toy game, not Melee"
    assert "toy game, not Melee" in shown["about"]
    assert "toy game, not Melee" in page.split("<option")[1]
    strange = read_content(to_html([replace(clip, stage_id=13)], HEADING))["clips"][0]
    assert strange["ground_note"] == "toy game, not Melee; Great Bay has no drawing: neutral ground at height 0"


@pytest.mark.parametrize("ident", STAGES)
def test_every_tournament_stage_is_drawn(clip: Clip, ident: int) -> None:
    shown = read_content(to_html([replace(clip, stage_id=ident, played_on="dolphin")], HEADING))["clips"][0]
    assert shown["ground_note"] == ""
    assert len(shown["stage"]["floor"]) >= 2
    if ident != 2:  # where who stands on a platform tells its height
        assert (shown["moving"] is not None) == (ident == 8)


def test_a_platform_that_moves_is_at_the_feet_of_who_stands_on_it(clip: Clip) -> None:
    truth = {name: values.copy() for name, values in clip.truth.items()}
    truth["ground"][:] = 5  # the floor
    truth["ground"][10], truth["on_ground"][10], truth["y"][10] = [0, 0], [True, True], [13.5, 13.5]
    fountain = replace(clip, stage_id=2, truth=truth)
    assert fountain.platforms(10, truth)[0].height == 13.5
    assert fountain.platforms(10, truth)[1].height == 20.0
