"""`worldmodel rollout` prints names: of players, actions and the stage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.rollout.untrained_runs import make_run, write_games
from worldmodel.cli.main import main
from worldmodel.games.names import name_action, name_character, name_stage
from worldmodel.schema import LEGAL_STAGES


def test_the_table_names_players_actions_and_the_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(write_games(tmp_path / "games"), tmp_path / "runs", {})[0]
    assert main(["rollout", str(run), "--frame", "100", "--frames", "5"]) == 0
    said = capsys.readouterr().out
    rows = re.findall(r"^10\d +(P[12]) .* (\S.*?) *$", said, re.MULTILINE)
    assert [player for player, _ in rows] == ["P1", "P2"] * 5
    assert not any(action.split("(")[0].strip().isdigit() for _, action in rows)
    assert any(name_stage(stage) in said for stage in LEGAL_STAGES)
    characters = "|".join(re.escape(name_character(n)) for n in range(27))
    assert re.search(rf"^P1 +({characters})$", said, re.MULTILINE)
    assert any(name_action(number, 1) in said for number in range(341))
