from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from worldmodel.errors import UserError
from worldmodel.games.game import Game
from worldmodel.games.parse import Collector, ParseSummary, parse_replays
from worldmodel.games.parsed import read_game
from worldmodel.games.parser_process import Job, Outcome, ParserProcess, parse_job
from worldmodel.schema import PLAYER_FIELDS, PLAYERS

pytest.importorskip("peppi_py", reason="the replay parser is not installed: pip install 'worldmodel[replay]'")

REASONS = {
    "unreadable": "unreadable replay|cut recording",
    "too_short": "too short",
    "ffa3": "3 players free for all",
    "ffa4": "4 players free for all",
    "teams3": "3 players in teams",
    "doubles": "4 players in teams",
    "two_player_teams": "two players with teams on",
    "vs_cpu_or_demo": "is a computer player",
    "idle_player": "never presses a button",
    "nonlegal_stage_or_mode": "none of the six tournament stages",
    "bad_frame_ids": "bad frame ids",
    "incomplete_no_game_end": "cut recording",
    "old_version_missing_fields": "Slippi 1.0.0 lacks .*on_ground",
    "near_duplicate": "near duplicate: same game start block .* as a/b0eafbef",
}
"""Class of a replay in `edge/index.json` to what its reason must say."""
STATE_BITS = {f"state_flags_{byte}" for byte in range(5)} | {"hitstun_remaining"}
"""The real parsed games hold zeros here where the players are not on ports 1 and 2."""


@pytest.fixture(scope="module")
def real(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ParseSummary]:
    """All real replays, the good ones first, and what became of them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("parsed")
    for name, folder in (("a", "replays"), ("b", "edge")):
        (source / name).mkdir()
        for path in (shared_folder / "data" / folder).glob("*.slp.gz"):
            (source / name / path.name).symlink_to(path)
    return source, out, parse_replays(source, out, workers=2)


def _reasons(out: Path) -> dict[str, str]:
    return {entry["file"]: entry["reason"] for entry in json.loads((out / "rejected.json").read_text())}


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)).hexdigest()


def _read(folder: Path, md5: str) -> Game:
    entries = {entry["slp_md5"]: entry for entry in json.loads((folder / "meta.json").read_text())}
    ids = (folder / "frame_ids" / f"{md5}.npy").read_bytes()
    return read_game((folder / "games" / md5).read_bytes(), md5, entries[md5], ids)


def test_replays_give_the_games_that_the_users_converter_gives(
    real: tuple[Path, Path, ParseSummary], shared_folder: Path
) -> None:
    _, out, summary = real
    replays = sorted(path.name[:32] for path in (shared_folder / "data/replays").glob("*.slp.gz"))
    assert summary.parsed == len(replays) == len(list((out / "games").iterdir()))
    for md5 in replays:
        ours, theirs = _read(out, md5), _read(shared_folder / "data/games", md5)
        assert (ours.frames, ours.stage) == (theirs.frames, theirs.stage)
        for (player, name), values in theirs.columns.items():
            if name in STATE_BITS and theirs.entry["ports"] != [0, 1]:
                assert not values.any() and ours.columns[player, name].any()
            else:
                np.testing.assert_array_equal(ours.columns[player, name], values, err_msg=f"{md5} p{player} {name}")
        _assert_same_items(ours, theirs)
        same = ("ports", "stage", "game_end_method", "slippi_version", "is_pal", "played_on", "lras", "slp_size")
        assert all(ours.entry[key] == theirs.entry[key] for key in same)
        assert len(theirs.entry["players"]) == PLAYERS
        for mine, other in zip(ours.entry["players"], theirs.entry["players"], strict=True):
            assert mine["character"] == other["character"]


def _assert_same_items(ours: Game, theirs: Game) -> None:
    assert ("items" in ours.sparse) == ("items" in theirs.sparse)
    if "items" in ours.sparse:
        mine, other = ours.sparse["items"], theirs.sparse["items"]
        for name in mine.values:
            np.testing.assert_array_equal(mine.values[name], other.values[name])
        np.testing.assert_array_equal(mine.slots, other.slots)


def test_what_the_old_games_lack_is_named(real: tuple[Path, Path, ParseSummary]) -> None:
    for entry in json.loads((real[1] / "meta.json").read_text()):
        older = tuple(map(int, entry["slippi_version"].split("."))) < (3, 8, 0)
        assert entry["missing_fields"] == (["hitlag"] if older else [])
        lacking = {f"p{p}.{f.name}" for p in range(PLAYERS) for f in PLAYER_FIELDS if f.name in entry["missing_fields"]}
        assert _read(real[1], entry["slp_md5"]).absent == lacking


def test_every_odd_replay_is_rejected_with_a_fitting_reason(
    real: tuple[Path, Path, ParseSummary], shared_folder: Path
) -> None:
    reasons = _reasons(real[1])
    odd = json.loads((shared_folder / "data/edge/index.json").read_text())
    assert len(reasons) == len(odd) == real[2].rejected
    for entry in odd:
        assert re.search(REASONS[entry["class"]], reasons[f"b/{entry['file']}"]), entry["class"]


def test_the_ice_climbers_partner_is_kept(real: tuple[Path, Path, ParseSummary]) -> None:
    entries = json.loads((real[1] / "meta.json").read_text())
    climbers = [e["slp_md5"] for e in entries if any(p["character"] == 10 for p in e["players"])]
    assert climbers
    for md5 in climbers:
        game = _read(real[1], md5)
        nana = game.sparse["nana"]
        assert nana.values["exists"].all() and set(nana.values["character"]) == {11}
        leader = game.columns[int(nana.slots[0]), "x"][nana.frames]
        assert np.median(np.abs(nana.values["x"] - leader)) < 20


def test_the_result_does_not_depend_on_the_number_of_workers(
    real: tuple[Path, Path, ParseSummary], tmp_path: Path
) -> None:
    parse_replays(real[0], tmp_path / "one", workers=1)
    assert _digest(tmp_path / "one") == _digest(real[1])


def test_a_second_run_keeps_what_is_there(real: tuple[Path, Path, ParseSummary], tmp_path: Path) -> None:
    """Also where the first was interrupted: without meta.json, one game missing, another one damaged."""
    out = tmp_path / "out"
    shutil.copytree(real[1], out)
    (out / "meta.json").unlink()
    games = sorted((out / "games").iterdir())
    games[0].unlink()
    games[1].write_bytes(b"half a game")
    kept = games[2].stat().st_mtime_ns
    summary = parse_replays(real[0], out, workers=2)
    assert (summary.parsed, summary.skipped) == (2, len(games) - 2)
    assert games[2].stat().st_mtime_ns == kept
    assert _digest(out) == _digest(real[1])


def test_of_two_copies_the_first_by_path_stays(shared_folder: Path, tmp_path: Path) -> None:
    replay = min((shared_folder / "data/replays").glob("*.slp.gz"), key=lambda path: path.stat().st_size)
    source = tmp_path / "source"
    for name in ("b", "a/deep", "c"):
        (source / name).mkdir(parents=True)
        (source / name / "game.slp.gz").symlink_to(replay)
    (source / "notes.txt").write_text("no replay")
    summary = parse_replays(source, tmp_path / "out", workers=2)
    assert (summary.parsed, summary.rejected, summary.ignored) == (1, 2, 1)
    same = "duplicate: the same bytes as a/deep/game.slp.gz"
    assert _reasons(tmp_path / "out") == {"b/game.slp.gz": same, "c/game.slp.gz": same}


def test_broken_files_are_named_one_by_one_and_no_game_at_all_is_an_error(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name, content in (
        ("empty.slp", b""),
        ("garbage.SLP", b"\x00garbage" * 99),
        ("cut.slp.gz", b"\x1f\x8b\x08\x00"),
    ):
        (source / name).write_bytes(content)
    with pytest.raises(UserError, match=r"none of 3 replays gave a game.*rejected\.json"):
        parse_replays(source, out, workers=2)
    reasons = _reasons(out)
    assert sorted(reasons) == ["cut.slp.gz", "empty.slp", "garbage.SLP"]
    assert all(reason.startswith("unreadable replay: ") for reason in reasons.values())
    assert not (out / "meta.json").exists() and not (out / ".staging").exists()


def test_requests_that_cannot_work_are_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("")
    with pytest.raises(UserError, match="no such folder"):
        parse_replays(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"no replays below .*: 1 files"):
        parse_replays(tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "a.slp").write_text("")
    with pytest.raises(UserError, match="expected at least 1"):
        parse_replays(tmp_path / "source", tmp_path / "out", workers=0)
    with pytest.raises(UserError, match="cannot write into"):
        parse_replays(tmp_path / "source", tmp_path / "source" / "a.txt")


def _await(parser: ParserProcess, seconds: float = 30) -> Outcome:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ready, _, _ = select.select([parser.outlet], [], [], 0.05)
        outcome = (parser.take() if ready else None) or parser.give_up_late()
        if outcome is not None:
            return outcome
    raise AssertionError("the parser process gave no outcome")


def _job(number: int, path: Path) -> Job:
    return Job(number=number, path=str(path), source=path.name)


def test_a_replay_that_hangs_or_kills_the_parser_costs_only_itself(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.slp")  # opening it for reading waits for a writer that never comes
    (tmp_path / "empty.slp").write_bytes(b"")
    parser = ParserProcess(tmp_path / "staging", set(), timeout=1.0)
    try:
        parser.give(_job(0, tmp_path / "hangs.slp"))
        assert _await(parser) == Outcome(
            number=0, reason="unreadable replay: the replay parser did not finish within 1 s"
        )
        parser.give(_job(1, tmp_path / "hangs.slp"))
        os.kill(parser._child.pid, signal.SIGKILL)
        assert _await(parser).reason == "unreadable replay: the replay parser died (SIGKILL)"
        parser._timeout = 60.0
        parser.give(_job(2, tmp_path / "empty.slp"))
        assert _await(parser) == Outcome(number=2, reason="unreadable replay: the file is empty")
    finally:
        parser.stop()


def test_a_full_or_closed_disk_ends_the_run_and_blames_no_replay(shared_folder: Path, tmp_path: Path) -> None:
    replay = min((shared_folder / "data/replays").glob("*.slp.gz"), key=lambda path: path.stat().st_size)
    (tmp_path / "staging").write_text("no folder")
    outcome = parse_job(_job(0, replay), tmp_path / "staging", set())
    assert outcome.failure and not outcome.reason
    with pytest.raises(UserError, match=f"cannot go on after {replay.name}"):
        Collector(out=tmp_path, entries={}).add(replay.name, outcome)


def test_a_folder_of_another_writer_whose_entries_name_no_frames_is_added_to(tmp_path: Path) -> None:
    entries = {name: {"slp_md5": name, **more} for name, more in (("a", {}), ("b", {"lastFrame": 7, "num_frames": 9}))}
    summary = Collector(out=tmp_path, entries=entries).finish(ignored=0)
    assert (summary.games, summary.frames) == (2, 9)
    assert json.loads((tmp_path / "meta.json").read_text()) == list(entries.values())
