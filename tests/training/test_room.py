"""Settings that take more memory than there is are refused before anything is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.games_on_disk import encode_here, write_games
from tests.training.tiny_runs import configure
from worldmodel.cli.main import main
from worldmodel.errors import UserError
from worldmodel.model.build import build_model
from worldmodel.training.room import check_lengths, check_memory, count_bytes

HUGE = {
    "a batch": {"training.batch_size": 10**9},
    "a width": {"model.d_model": 10**7},
    "a state": {"model.d_state": 10**9},
    "layers": {"model.n_layers": 10**9},
    "a sequence": {"training.sequence_length": 10**9},
}


@pytest.mark.parametrize("what", HUGE)
def test_more_memory_than_there_is_is_refused(what: str) -> None:
    with pytest.raises(UserError, match=r"more memory than there is: at least .* GiB, found"):
        check_memory(configure(HUGE[what]), samples=10**9, device="cpu")


def test_a_batch_takes_no_more_than_there_are_samples() -> None:
    check_memory(configure(HUGE["a batch"]), samples=100, device="cpu")


@pytest.mark.parametrize("changes", [{}, {"model.arch": "mlp", "training.mode": "window"}])
def test_what_is_counted_is_the_least(changes: dict[str, object]) -> None:
    config = configure(changes)
    weights = sum(p.numel() for p in build_model(config.model, config.encoding.layout).parameters())
    assert 0 < count_bytes(config, samples=0) <= 16 * weights + 10**6


def test_a_sequence_longer_than_every_game_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_games(tmp_path / "games", range(6))
    games = encode_here(tmp_path / "games", tmp_path / "blocks").index.games
    longest = max(game.frames for game in games)
    check_lengths(configure({"training.sequence_length": longest}), games)
    with pytest.raises(UserError, match=rf"found {longest + 1}, but the longest of 6 games has {longest} frames"):
        check_lengths(configure({"training.sequence_length": longest + 1}), games)
    with pytest.raises(UserError, match=r"encoding\.lookahead: found 100,000, but"):
        check_lengths(configure({"encoding.lookahead": 100_000}), games)
    (tmp_path / "long.yaml").write_text(
        "training: {sequence_length: 100000, device: cpu}\ntracking: {wandb: disabled}\n"
    )
    asked = ["train", str(tmp_path / "long.yaml"), "--data", str(tmp_path / "blocks"), "--storage", str(tmp_path / "r")]
    assert main(asked) == 2
    assert "training.sequence_length: found 100,000" in capsys.readouterr().err
