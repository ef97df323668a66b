"""The local page of `worldmodel play`: one person at a time, over a web socket, at the game's own rate.

Only this machine's own page may speak to it: the server listens on 127.0.0.1, answers only requests whose Host names
that address and port, and takes a web socket only from a page of its own (Origin). So no other site that is open in the
same browser can drive it or read from it, also not by a name that it lets point to 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from aiohttp import WSMsgType, web

from worldmodel.errors import UserError
from worldmodel.play.pads import Held
from worldmodel.play.page import to_html
from worldmodel.play.session import Choice, Session
from worldmodel.play.show import Show, describe_game
from worldmodel.schema import FRAMES_PER_SECOND

HOST = "127.0.0.1"
FRAME = 1 / FRAMES_PER_SECOND
LARGEST_MESSAGE = 4096
"""Bytes of a message from the page."""
PATIENCE = 0.25
"""Seconds that play may fall behind its clock; beyond them it goes on from now instead of hurrying."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Clock:
    """The frames' own time, and what they cost."""

    rate: float = float(FRAMES_PER_SECOND)
    """Frames in the last second."""
    step: float = 0.0
    """Milliseconds of a step of the model, lately."""
    _due: float = 0.0
    _since: float = 0.0
    _count: int = 0

    def start(self, now: float) -> None:
        """Frames are due from now on."""
        self._due, self._since, self._count = now, now, 0

    def count(self, now: float, took: float) -> None:
        """A frame was made in so many seconds."""
        self.step += 0.1 * (1000 * took - self.step)
        self._count += 1
        if now - self._since >= 1:
            self.rate, self._since, self._count = self._count / (now - self._since), now, 0

    def wait(self, now: float) -> float:
        """Seconds until the next frame is due."""
        self._due = max(self._due + FRAME, now - PATIENCE)
        return max(0.0, self._due - now)


@dataclass
class Table:
    """Where a person plays: the session stays, whoever comes and goes."""

    session: Session
    out: Path
    """Folder that saved sessions go to."""
    saved: list[Path] = field(default_factory=list)
    played: int = 0
    """Frames in all."""
    held: tuple[Held, Held] = (Held(), Held())
    sent: float = 0.0
    """The page's time of what is held."""
    is_paused: bool = True
    show: Show = field(init=False)
    clock: Clock = field(default_factory=Clock)
    player: web.WebSocketResponse | None = None
    """Who plays now."""
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    """The model works here, so that messages are read meanwhile."""
    wakes: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.show = Show.of(self.session)

    async def serve(self, player: web.WebSocketResponse) -> None:
        """Play until the page goes, or another takes its place."""
        await self._dismiss()
        self.player, self.is_paused, self.held = player, True, (Held(), Held())
        await self._greet(player)
        tasks = [asyncio.create_task(self._run(player)), asyncio.create_task(self._listen(player))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                with suppress(ConnectionError):  # the page went while it was told something
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.player is player:
                self.player, self.is_paused = None, True

    async def _dismiss(self) -> None:
        """Whoever played before is told, and goes."""
        before, self.player = self.player, None
        if before is not None:
            with suppress(ConnectionError):
                await before.send_json({"type": "gone", "text": "another window plays on"})
                await before.close()

    async def _listen(self, player: web.WebSocketResponse) -> None:
        async for message in player:
            if message.type is WSMsgType.TEXT:
                await self._take(player, message.data)

    async def _greet(self, player: web.WebSocketResponse) -> None:
        games = [describe_game(start) for start in self.session.world.starts]
        await player.send_json({"type": "games", "games": games})
        await self._show_start(player)

    async def _show_start(self, player: web.WebSocketResponse) -> None:
        self.show = Show.of(self.session)
        await player.send_json(self.show.describe_start())
        await self._show_frame(player)

    async def _show_frame(self, player: web.WebSocketResponse) -> None:
        told = {"rate": round(self.clock.rate, 1), "step": round(self.clock.step, 2), "sent": self.sent}
        await player.send_str(json.dumps({**self.show.describe_frame(), **told}))

    async def _run(self, player: web.WebSocketResponse) -> None:
        """Frames, one every sixtieth of a second."""
        while self.player is player:
            if self.is_paused:
                self.wakes.clear()
                await self.wakes.wait()
                self.clock.start(perf_counter())
                continue
            began = perf_counter()
            try:
                await self._work(self.session.advance, self.held)
            except UserError as error:
                self.is_paused = True
                await player.send_json({"type": "error", "text": str(error)})
                continue
            self.played += 1
            self.clock.count(perf_counter(), perf_counter() - began)
            await self._show_frame(player)
            await asyncio.sleep(self.clock.wait(perf_counter()))

    async def _take(self, player: web.WebSocketResponse, text: str) -> None:
        """One message of the page; what is wrong with it is told, and play goes on."""
        try:
            await self._act(player, json.loads(text))
        except (UserError, ValueError, KeyError, TypeError) as error:
            await player.send_json({"type": "error", "text": str(error) or type(error).__name__})

    async def _act(self, player: web.WebSocketResponse, message: Any) -> None:
        kind = message["type"]
        if kind == "pads":
            self.held = (Held.parse(message["pads"][0]), Held.parse(message["pads"][1]))
            self.sent = float(message["sent"])
        elif kind == "pause":
            self.is_paused = bool(message["paused"])
            self.wakes.set()
        elif kind == "restart":
            rival = message["rival"]
            choice = Choice(
                game=int(message["game"]), frame=int(message["frame"]), rival=None if rival is None else int(rival)
            )
            self.is_paused = True  # not one frame before the person is ready
            await self._work(self.session.restart, choice)
            await self._show_start(player)
        elif kind == "save":
            path = await self._work(self.session.save, self.out)
            self.saved.append(path)
            frames = len(self.session.frames)
            await player.send_json({"type": "saved", "text": f"{frames} frames saved as {path}"})
        else:
            raise UserError(f"no such message: {kind!r}")

    async def _work(self, what: Callable[[Any], Any], argument: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, what, argument)


def make_app(table: Table, port: int) -> web.Application:
    """The application: the page at `/`, play at `/play`."""
    own = {f"{HOST}:{port}", f"localhost:{port}"}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host not in own:
            raise web.HTTPForbidden(text=f"this server answers at http://{HOST}:{port} only")
        origin = request.headers.get("Origin")
        is_socket = request.path == "/play"
        if (origin or is_socket) and origin != f"http://{request.host}":
            raise web.HTTPForbidden(text="only this server's own page may speak to it")
        return await handler(request)

    async def page(request: web.Request) -> web.Response:
        headers = {"Cache-Control": "no-store", "X-Frame-Options": "DENY"}
        text = to_html(table.session.world.run, request.host)
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def play(request: web.Request) -> web.WebSocketResponse:
        player = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE, heartbeat=20)
        await player.prepare(request)
        await table.serve(player)
        return player

    app = web.Application(middlewares=[guard])
    app.router.add_get("/", page)
    app.router.add_get("/play", play)
    return app


def open_port(port: int) -> socket.socket:
    """A socket that listens there on this machine only; 0: any free port.

    Raises:
        UserError: the port is taken, or may not be used.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen()
    except (OSError, OverflowError) as error:
        found.close()
        raise UserError(f"port {port} cannot be used ({error}): choose another with --port, or 0 for any") from error
    return found


def serve(table: Table, listening: socket.socket) -> None:
    """Serve until Ctrl-C."""
    app = make_app(table, listening.getsockname()[1])
    web.run_app(app, sock=listening, print=None, access_log=None, shutdown_timeout=1)
