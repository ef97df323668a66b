"""A TCP proxy that breaks connections which carry many bytes, some times; after that it breaks none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(kw_only=True)
class Cuts:
    """What the proxy does, and what it did."""

    after: int
    """Bytes, both ways together, after which a connection breaks."""
    times: int
    """Connections that are to break."""
    made: int = 0
    """Connections that were cut."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def cutting(url: str, after: int, times: int) -> Iterator[tuple[str, Cuts]]:
    """The address of a proxy before the server at `url`, and what it did."""
    parts, cuts = urlsplit(url), Cuts(after=after, times=times)
    listener = socket.create_server(("127.0.0.1", 0))
    server = (parts.hostname or "127.0.0.1", parts.port or 80)
    threading.Thread(target=_serve, args=(listener, server, cuts), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", cuts
    finally:
        listener.close()


def _serve(listener: socket.socket, server: tuple[str, int], cuts: Cuts) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            target, passed = socket.create_connection(server), [0]
            for source, sink in ((client, target), (target, client)):
                threading.Thread(target=_pass_on, args=(source, sink, passed, cuts), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, passed: list[int], cuts: Cuts) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            with cuts.lock:
                passed[0] += len(data)
                if passed[0] > cuts.after and cuts.made < cuts.times:
                    cuts.made += 1
                    break
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
