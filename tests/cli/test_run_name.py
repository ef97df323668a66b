"""A file may be called anything: a name on the command line wins over its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldmodel.cli.main import main, parse
from worldmodel.experiment.config_file import read_experiment


def test_a_name_of_the_command_line_wins_over_the_file_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "exp (1).yaml"
    file.write_text("model: {d_model: 64}\n")
    asked = ["train", str(file), "--data", str(tmp_path / "none"), "--storage", str(tmp_path / "runs")]
    assert parse([*asked, "--run-name", "good"]).read_experiment().config.name == "good"
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert 'name: found "exp (1)"' in said and "--run-name NAME" in said and "`name:`" in said


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("horizon_weights: [1, 2]", "weights by horizon are not built"),
        ("selective_bptt: true", "no gradient flows through"),
        ("full_bptt: true", "no gradient flows through"),
    ],
)
def test_what_self_forcing_does_not_have_is_said(key: str, reason: str) -> None:
    with pytest.raises(Exception, match=reason) as told:
        read_experiment(f"self_forcing: {{{key}}}", source="file", name="x")
    assert "not built yet" not in str(told.value)
