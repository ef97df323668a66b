"""The command line's contract: exit statuses, messages, one JSON object, a quick start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from worldmodel import schema
from worldmodel.cli import main as command_line
from worldmodel.cli.blocks import Audit, Encode
from worldmodel.cli.evaluate import Evaluate
from worldmodel.cli.export import Export
from worldmodel.cli.fields import Schema
from worldmodel.cli.follow import Stop, Tail
from worldmodel.cli.games import Pack, Parse, Toy
from worldmodel.cli.main import main, parse
from worldmodel.cli.runs import Fetch, Runs, Show
from worldmodel.cli.train import Train, introduce
from worldmodel.cli.verb import Verb
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import read_experiment

EXPERIMENTS = Path(__file__).parents[2] / "tune" / "experiments"


@dataclass(frozen=True, kw_only=True)
class Noisy(Verb):
    """Prints where it should not, then ends as told."""

    ending: BaseException | None = None

    def run(self) -> Mapping[str, Any]:
        print("printed by Python")
        os.write(1, b"written below Python\n")
        subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
        if self.ending:
            raise self.ending
        return {"games": 3, "out": Path("somewhere")}


def run_noisy(monkeypatch: pytest.MonkeyPatch, verb: Verb) -> int:
    monkeypatch.setattr(command_line, "parse", lambda arguments: verb)
    return main([])


@pytest.mark.parametrize(
    ("line", "verb"),
    [
        ("games toy OUT --count 5 --seed 3", Toy(out=Path("OUT"), count=5, seed=3)),
        ("games parse SRC OUT", Parse(source=Path("SRC"), out=Path("OUT"))),
        ("games pack SRC s3://b/OUT --shard-mb 50", Pack(source="SRC", out="s3://b/OUT", shard_mb=50.0)),
        ("encode SRC OUT --json", Encode(source="SRC", out="OUT", json=True)),
        ("audit BLOCKS --against GAMES", Audit(blocks="BLOCKS", against="GAMES")),
        (
            "train a.yaml --data SRC --storage DIR --run-name N --epochs 3 --scale laptop --workers 2 --resume",
            Train(
                config=Path("a.yaml"), data="SRC", storage="DIR", run_name="N", epochs=3, scale="laptop", workers="2",
                resume=True,
            ),
        ),
        ("evaluate RUN", Evaluate(name="RUN")),
        ("runs --storage s3://b/runs", Runs(storage="s3://b/runs")),
        ("show RUN", Show(name="RUN")),
        ("tail RUN --lines 3 --no-follow", Tail(name="RUN", lines=3, no_follow=True)),
        ("stop GRID --reason why --wait", Stop(name="GRID", reason="why", wait=True)),
        ("fetch RUN DEST", Fetch(name="RUN", dest=Path("DEST"))),
        ("export RUN x.pt", Export(name="RUN", out=Path("x.pt"))),
        ("schema", Schema()),
    ],
)  # fmt: skip
def test_every_verb_is_called_by_its_name(line: str, verb: Verb) -> None:
    parsed = parse(line.split())
    for name, value in vars(verb).items():
        assert getattr(parsed, name) == value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("games toy --count 5 --json OUT", "games toy OUT --json --count 5"),
        ("encode --json SRC OUT", "encode SRC OUT --json"),
        ("train --resume --epochs 3 a.yaml", "train a.yaml --epochs 3 --resume"),
        ("fetch RUN --storage S DEST", "fetch RUN DEST --storage S"),
    ],
)
def test_options_stand_before_or_after_positionals(before: str, after: str) -> None:
    assert parse(before.split()) == parse(after.split())


@pytest.mark.parametrize(
    ("line", "named"),
    [("games toy OUT --cout 5", "--cout"), ("games toy OUT --count five", "--count"), ("trian a.yaml", "trian"),
     ("encode SRC", "OUT"), ("", "games")],
)  # fmt: skip
def test_a_wrong_argument_is_named_and_ends_with_2(line: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(line.split())
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert named in captured.err
    assert captured.out == ""


def test_json_is_exactly_one_object_whatever_else_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_noisy(monkeypatch, Noisy(json=True)) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == {"games": 3, "out": "somewhere"}
    assert captured.out.count("\n") == 1
    for noise in ("printed by Python", "written below Python", "printed by a child"):
        assert noise in captured.err
    print("stdout is itself again")
    assert "itself again" in capfd.readouterr().out


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize(
    ("ending", "status", "is_traced"),
    [(UserError("found this, expected that"), 2, False), (RuntimeError("a fault"), 1, True),
     (KeyboardInterrupt(), 130, False), (BrokenPipeError("a connection"), 1, True)],
)  # fmt: skip
def test_every_ending_has_its_status(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    ending: BaseException,
    status: int,
    is_traced: bool,
    is_json: bool,
) -> None:
    assert run_noisy(monkeypatch, Noisy(ending=ending, json=is_json)) == status
    captured = capfd.readouterr()
    assert ("Traceback" in captured.err) == is_traced
    assert str(ending) in captured.err
    assert "games" not in captured.out
    assert not is_json or captured.out == ""


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    line = [sys.executable, "-m", "worldmodel.cli.main", "schema", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_a_user_error_is_the_last_line_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", str(tmp_path / "absent.yaml")]) == 2
    captured = capsys.readouterr()
    told = [line for line in captured.err.splitlines() if not line.endswith(" ...")]
    assert told == [f"error: {tmp_path}/absent.yaml: no such experiment file"]


def test_starting_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'pyarrow', 'numpy', 'pandas', 'wandb', 'pydantic'}"
    program = f"import sys, worldmodel.cli.main; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_help_names_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["games", "pack", "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert "megabytes" in shown
    assert "default: 200" in shown


def test_the_schema_verb_shows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    fields = (*schema.PLAYER_FIELDS, schema.STAGE)
    assert [row["name"] for row in shown["fields"]] == [field.name for field in fields]
    assert shown["schema_hash"] == schema.schema_hash()
    by_name = {row["name"]: row for row in shown["fields"]}
    for field in fields:
        assert by_name[field.name]["scale"] == (field.scale if field.kind == "continuous" else None)
        assert by_name[field.name]["embedding"] == (field.embedding or None)
    assert main(["schema"]) == 0
    table = capsys.readouterr().out
    assert all(field.name in table and field.unit.split()[0] in table for field in fields)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("baseline", "s3://b/runs/baseline"), ("here/baseline", "here/baseline"), ("./x", "./x"), ("/a/x", "/a/x"),
        ("s3://c/x", "s3://c/x"), ("grid/trial", "s3://b/runs/grid/trial"),
    ],
)  # fmt: skip
def test_a_run_is_a_path_or_a_name_in_the_storage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, expected: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Show(name=name, storage="s3://b/runs/").path == expected


def test_a_run_in_the_current_folder_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert Show(name="baseline").path == "baseline"


@pytest.mark.parametrize("option", ["--scale", "--preset"])
def test_options_win_over_the_file_and_the_file_over_the_scale(option: str, tmp_path: Path) -> None:
    path = tmp_path / "1a.yaml"
    path.write_text(f"extends: {EXPERIMENTS / '1a.yaml'}\ntraining: {{clip: 3.0, weight_decay: 0.5}}\n")
    line = ["train", str(path), option, "laptop", "--epochs", "7", "--run-name", "mine"]
    verb = parse([*line, "--set", "training.clip=2", "model.d_state=32", "--set", "training.lr=1e-4"])
    assert isinstance(verb, Train)
    found = verb.read_experiment()
    training = found.config.training
    assert (found.config.name, training.num_epochs, training.batch_size) == ("mine", 7, 16)
    assert (training.clip, training.weight_decay, training.lr, found.config.model.d_state) == (2.0, 0.5, 1e-4, 32)
    assert found.config.encoding.state_age_as_embed
    said = introduce(found)
    assert "model.d_model: 192 (default 384; scale laptop)" in said
    assert ("--preset is called --scale laptop now" in said) == (option == "--preset")


def test_config_shows_each_value_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["config", str(EXPERIMENTS / "1a.yaml"), "--scale", "laptop", "--set", "training.lr=0.5"]
    assert main(line) == 0
    text = capsys.readouterr().out
    shown = {words[0]: words[1:] for words in map(str.split, text.splitlines())}
    assert shown["lr:"] == ["0.5", "#", "--set"]
    assert shown["d_model:"] == ["192", "#", "scale", "laptop"]
    assert shown["state_age_as_embed:"] == ["true", "#", "1a.yaml"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["config"]["training"]["lr"], found["origins"]["training.lr"]) == (0.5, "--set")
    assert read_experiment(text, source="shown") == read_experiment(found["text"], source="json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "training.lr=1", "--set", "training.lr=2"], "found twice"),
        (["--set", "training.num_epochs=1", "--epochs", "2"], "expected one of them"),
        (["--scale", "laptop", "--preset", "a100"], "expected one of them"),
        (["--scale", "huge"], "unknown scale"),
    ],
)
def test_contradicting_options_are_one_message(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", str(EXPERIMENTS / "1a.yaml"), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "key"), [("--epochs", "0", "num_epochs"), ("--run-name", "a/b", "name"), ("--scale", "x", "x")]
)
def test_a_wrong_option_value_is_refused_like_a_wrong_file(option: str, value: str, key: str) -> None:
    verb = parse(["train", str(EXPERIMENTS / "1a.yaml"), option, value])
    assert isinstance(verb, Train)
    with pytest.raises(UserError, match=key):
        verb.read_experiment()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_fault(tmp_path: Path, closed: str) -> None:
    command = f"{sys.executable} -m worldmodel.cli.main games toy {tmp_path}/toy --count 1 --json {closed}"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)
    assert (tmp_path / "toy/meta.json").exists()
