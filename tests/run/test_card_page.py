"""A card as a page: what was written is seen, and nothing else happens."""

from __future__ import annotations

import pytest

from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.card import render_card
from worldmodel.run.card_page import to_html, to_terminal
from worldmodel.run.record import RunRecord

GOAL = "<script>alert(1)</script> Is __init__ *better*? [here](https://host/x) ![y](https://host/y)"
METRICS = [{"step": 1, "val_metric/action_ce": 0.5, "val_loss/total": 1.0, "val_action/cat_idle": 0.25}]
CARD = render_card(RunRecord(name="a|b", goal=GOAL), ExperimentConfig(), METRICS, {"model": {"val_loss/total": 2.0}})


def test_html_shows_names_as_text() -> None:
    page = to_html("<a|b>", CARD)
    assert page.count("<script") == page.count("<em>") == page.count("<a ") == page.count("<img") == 0
    assert "&lt;script&gt;alert(1)&lt;/script&gt; Is __init__ *better*? [here](https://host/x)" in page
    assert "<title>&lt;a|b&gt;</title>" in page and "schema_hash" not in page


def test_html_shows_every_metric() -> None:
    assert all(name in to_html("a", CARD) for name in METRICS[0] if "/" in name)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_shows_no_markup_and_fits(width: int) -> None:
    shown = to_terminal(CARD, width)
    assert max(map(len, shown.splitlines())) <= width
    assert not any(mark in shown for mark in ("---", "|--", "## ", "`", "schema_hash"))
    assert "__init__ *better*?" in " ".join(shown.split())


def test_terminal_leaves_out_the_long_table() -> None:
    shown = to_terminal(CARD, 80)
    assert "action cross-entropy" in shown
    assert "cat_idle" not in shown and "Cost and time" in shown
