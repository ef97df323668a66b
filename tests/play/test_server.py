"""The local server: its own page alone may speak to it, and play goes on whoever comes and goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.film.rooms import STEP
from worldmodel.errors import UserError
from worldmodel.games.parsed import read_game
from worldmodel.play.server import HOST, Clock, Table, make_app, open_port
from worldmodel.play.session import Choice, Session
from worldmodel.play.world import World, open_world
from worldmodel.storage import Location

PAD = {"axes": [0, 0, 0, 0], "shoulder": 0, "down": []}
RIGHT = {"axes": [1, 0, 0, 0], "shoulder": 0, "down": []}
Scene = Callable[["Place"], Awaitable[None]]


@pytest.fixture(scope="module")
def world(run: Location) -> World:
    return open_world(run, run / STEP)[0]


class Place:
    """A server that runs, and a browser's ways to reach it."""

    def __init__(self, table: Table, port: int, client: aiohttp.ClientSession) -> None:
        self.table, self.port, self.client = table, port, client
        self.url = f"http://{HOST}:{port}"

    async def get_status(self, path: str, **headers: str) -> int:
        async with self.client.get(f"{self.url}{path}", headers=headers) as answer:
            return answer.status

    async def connect(self, **headers: str) -> aiohttp.ClientWebSocketResponse:
        return await self.client.ws_connect(f"{self.url}/play", headers={"Origin": self.url, **headers})


def run_scene(world: World, out: Path, scene: Scene) -> Table:
    """Let a scene happen at a server."""
    table = Table(Session(world, Choice(game=0, frame=20, rival=0)), out)

    async def go() -> None:
        listening = open_port(0)
        port = listening.getsockname()[1]
        runner = web.AppRunner(make_app(table, port))
        await runner.setup()
        await web.SockSite(runner, listening).start()
        async with aiohttp.ClientSession() as client:
            await asyncio.wait_for(scene(Place(table, port, client)), 30)
        await runner.cleanup()

    asyncio.run(go())
    return table


async def hear(socket: aiohttp.ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    """The next message of a kind."""
    while True:
        message: dict[str, Any] = await socket.receive_json()
        if message["type"] == kind:
            return message


async def play(socket: aiohttp.ClientWebSocketResponse, frames: int, pad: dict[str, Any] = RIGHT) -> dict[str, Any]:
    """Play on until so many frames are played; returns the last, paused."""
    await socket.send_json({"type": "pads", "pads": [pad, PAD], "sent": 1234.5})
    await socket.send_json({"type": "pause", "paused": False})
    while (message := await hear(socket, "frame"))["played"] < frames:
        pass
    await socket.send_json({"type": "pause", "paused": True})
    return message


def test_the_page_is_served_and_may_speak_to_this_server_only(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        async with place.client.get(place.url) as answer:
            text = await answer.text()
        assert answer.status == 200
        assert f"connect-src ws://{HOST}:{place.port}" in text and "default-src 'none'" in text
        assert answer.headers["X-Frame-Options"] == "DENY"

    run_scene(world, tmp_path, scene)


def test_no_other_site_can_reach_it(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        other = "http://example.org"
        assert await place.get_status("/", Host="example.org") == 403
        assert await place.get_status("/", Host=f"example.org:{place.port}") == 403
        assert await place.get_status("/", Origin=other) == 403
        for headers in ({"Origin": other}, {"Origin": "null"}, {"Origin": f"http://{HOST}:1"}, {"Host": "example.org"}):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await place.connect(**headers)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await place.client.ws_connect(f"{place.url}/play")

    assert run_scene(world, tmp_path, scene).player is None


def test_a_page_is_told_the_games_the_start_and_the_frame(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        socket = await place.connect()
        games = await socket.receive_json()
        start = await socket.receive_json()
        frame = await socket.receive_json()
        assert [game["frames"] for game in games["games"]] == [game.frames for game in world.starts]
        assert (start["type"], start["game"], start["frame"], start["rival"]) == ("start", 0, 20, 0)
        assert (frame["type"], frame["played"], len(frame["players"])) == ("frame", 0, 2)
        await socket.close()

    run_scene(world, tmp_path, scene)


def test_frames_come_at_the_games_rate_and_echo_what_is_held(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        socket = await place.connect()
        loop = asyncio.get_running_loop()
        await play(socket, 5)
        began = loop.time()
        frame = await play(socket, 65)
        assert 0.9 < loop.time() - began < 3
        assert frame["pads"][0]["main_stick_x"] == 1.0 and frame["sent"] == 1234.5
        assert frame["step"] > 0
        await socket.close()

    assert run_scene(world, tmp_path, scene).played >= 65


def test_a_browser_that_goes_mid_play_finds_its_session_again(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        socket = await place.connect()
        await socket.send_json({"type": "pause", "paused": False})
        await hear(socket, "frame")
        socket._response.connection.transport.abort()  # type: ignore[union-attr]
        while place.table.player is not None:
            await asyncio.sleep(0.01)
        played = len(place.table.session.frames)
        await asyncio.sleep(0.2)
        assert len(place.table.session.frames) <= played + 1  # nobody plays meanwhile
        again = await place.connect()
        frame = await hear(again, "frame")
        assert frame["played"] == len(place.table.session.frames) - 1
        assert (await play(again, frame["played"] + 3))["played"] >= frame["played"] + 3
        await again.close()

    run_scene(world, tmp_path, scene)


def test_a_second_window_takes_over_and_the_first_is_told(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        first = await place.connect()
        await play(first, 3)
        second = await place.connect()
        assert (await hear(first, "gone"))["text"] == "another window plays on"
        await play(second, 6)
        await second.close()

    run_scene(world, tmp_path, scene)


def test_a_wrong_message_is_told_and_play_goes_on(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        socket = await place.connect()
        wrong = ["no json", "[]", "{}", '{"type": "dance"}', '{"type": "pads", "pads": [1, 2], "sent": 0}',
                 json.dumps({"type": "restart", "game": 0, "frame": 99999, "rival": None}),
                 json.dumps({"type": "save"})]  # fmt: skip
        for text in wrong:
            await socket.send_str(text)
            assert (await hear(socket, "error"))["text"]
        await play(socket, 3)
        await socket.close()

    run_scene(world, tmp_path, scene)


def test_a_restart_begins_where_it_is_asked_to(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        socket = await place.connect()
        await play(socket, 3)
        await socket.send_json({"type": "restart", "game": 1, "frame": 33, "rival": None})
        start = await hear(socket, "start")
        frame = await hear(socket, "frame")
        assert (start["game"], start["frame"], start["rival"], frame["played"]) == (1, 33, None, 0)
        await socket.close()

    run_scene(world, tmp_path, scene)


def test_what_was_played_is_saved_where_it_was_asked_to(world: World, tmp_path: Path) -> None:
    async def scene(place: Place) -> None:
        socket = await place.connect()
        await play(socket, 4)
        await socket.send_json({"type": "save"})
        assert str(tmp_path) in (await hear(socket, "saved"))["text"]
        await socket.close()

    table = run_scene(world, tmp_path, scene)
    entry = json.loads((tmp_path / "meta.json").read_text())[0]
    path = table.saved[0]
    assert read_game(path.read_bytes(), path.name, entry).frames == entry["lastFrame"] >= 5


def test_a_port_in_use_is_said_so() -> None:
    taken = open_port(0)
    with pytest.raises(UserError, match=r"port \d+ cannot be used .* choose another with --port"):
        open_port(taken.getsockname()[1])
    taken.close()
    with pytest.raises(UserError, match="port 99999 cannot be used"):
        open_port(99999)


def test_it_listens_on_this_machine_only() -> None:
    listening = open_port(0)
    with suppress(OSError):
        assert listening.getsockname()[0] == "127.0.0.1"
    listening.close()


def test_a_clock_that_fell_behind_does_not_hurry() -> None:
    clock = Clock()
    clock.start(100.0)
    assert clock.wait(100.005) == pytest.approx(1 / 60 - 0.005)
    assert clock.wait(105.0) == 0
    waits = [clock.wait(105.0 + n / 60) for n in range(30)]
    assert waits[0] == 0 and waits[-1] <= 1 / 60
