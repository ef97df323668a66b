"""W&B's key, prices and data: what is asked of them, and what is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.games_on_disk import encode_here, write_games
from worldmodel.blocks.index import read_index
from worldmodel.doctor import wandb_key
from worldmodel.doctor.check import Check, Outcome, attempt
from worldmodel.doctor.games import examine_data
from worldmodel.doctor.price import check_price
from worldmodel.doctor.wandb_key import check_wandb
from worldmodel.games.tar import pack_games
from worldmodel.storage import Location


def only(checks: Iterator[Check]) -> Check:
    (check,) = checks
    return check


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which nobody has logged in or set a price."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WORLDMODEL_PRICES", "WORLDMODEL_PRICE_PER_HOUR",
                 "WORLDMODEL_PROVIDER"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A W&B that knows one key, "good"; returns what it was sent."""
    heard: list[str] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.headers["Authorization"])
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert "viewer" in asked["query"] and self.path == "/graphql"
            is_known = heard[-1] == "Basic YXBpOmdvb2Q="
            status = 500 if heard[-1] == "Basic YXBpOmJyb2tlbg==" else 200 if is_known else 401
            body = json.dumps({"data": {"viewer": {"username": "somebody", "entity": "team"}}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{service.server_port}/")
    yield heard
    service.shutdown()
    service.server_close()


def test_a_key_that_wandb_knows_is_told_with_its_owner(server: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "good")
    check = only(check_wandb())
    assert check.outcome is Outcome.OK and "team" in check.found and "good" not in check.found


def test_a_key_that_wandb_refuses_fails(server: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "old")
    check = only(check_wandb())
    assert check.is_failed and "refuses the key" in check.found and "WANDB_MODE=offline" in check.remedy


def test_a_key_of_the_netrc_file_is_asked_about(server: list[str], tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password good\n")
    assert only(check_wandb()).outcome is Outcome.OK
    assert wandb_key.read_key("elsewhere") == ""


@pytest.mark.parametrize("key", ["broken", "unreachable"])
def test_a_wandb_that_is_down_fails_nothing(key: str, server: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    if key == "unreachable":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    check = only(check_wandb())
    assert check.outcome is Outcome.WARNING and "runs will be offline" in check.found and check.remedy


def test_wandb_without_a_key_or_switched_off_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(check_wandb()).outcome is Outcome.WARNING
    assert only(check_wandb("disabled")).outcome is Outcome.SKIPPED
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert only(check_wandb()).outcome is Outcome.OK


def test_a_price_is_known_or_it_is_said_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = only(check_price([]))
    assert unknown.outcome is Outcome.WARNING and "WORLDMODEL_PRICE_PER_HOUR" in unknown.remedy
    monkeypatch.setenv("WORLDMODEL_PROVIDER", "modal")
    known, other = check_price(["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB", "Odd GPU"])
    assert known.outcome is Outcome.OK and "$2.1 an hour" in known.found
    assert other.outcome is Outcome.WARNING and "Odd GPU" in other.found
    monkeypatch.setenv("WORLDMODEL_PRICE_PER_HOUR", "cheap")
    (wrong,) = attempt("price", lambda: check_price([]))
    assert wrong.is_failed and "WORLDMODEL_PRICE_PER_HOUR=cheap" in wrong.found


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_games(folder / "games", range(4))
    encode_here(folder / "games", folder / "blocks")
    pack_games(str(folder / "games"), str(folder / "shards"))
    return folder


@pytest.mark.parametrize(("name", "said"), [("games", "4 games listed, 3 read"), ("blocks", "4 games"),
                                            ("shards", "1 shards can be read")])  # fmt: skip
def test_data_that_can_be_read_are_counted(name: str, said: str, games: Path) -> None:
    check = only(examine_data(str(games / name)))
    assert check.outcome is Outcome.OK and said in check.found


def test_no_data_are_nothing_to_look_at(tmp_path: Path) -> None:
    assert only(examine_data("")).outcome is Outcome.SKIPPED
    for place in (tmp_path, tmp_path / "absent"):
        check = only(examine_data(str(place)))
        assert check.is_failed and "--data" in check.remedy


def test_one_bad_game_warns_and_nothing_but_bad_games_fail(tmp_path: Path) -> None:
    names = write_games(tmp_path, range(3))
    (tmp_path / "games" / names[0]).write_bytes(b"no game")
    check = only(examine_data(str(tmp_path)))
    assert check.outcome is Outcome.WARNING and f"games/{names[0]}" in check.found
    for name in names:
        (tmp_path / "games" / name).write_bytes(b"no game")
    assert only(examine_data(str(tmp_path))).is_failed


def test_blocks_of_another_schema_or_cut_short_fail(tmp_path: Path) -> None:
    write_games(tmp_path / "games", range(2))
    encode_here(tmp_path / "games", tmp_path / "blocks")
    place = Location.of(tmp_path / "blocks")
    block = tmp_path / "blocks" / read_index(place).blocks[0].name
    content = block.read_bytes()
    block.write_bytes(content[:-1])
    short = only(examine_data(str(place)))
    assert short.is_failed and "the index says" in short.found and "encode the games again" in short.remedy
    block.write_bytes(content)
    index = tmp_path / "blocks" / "index.json"
    index.write_text(index.read_text().replace(read_index(place).schema_hash, "0" * 16))
    other = only(examine_data(str(place)))
    assert other.is_failed and "schema " + "0" * 16 in other.found
