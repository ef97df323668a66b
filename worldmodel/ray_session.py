"""Joining Ray: the cluster there is, or a quiet local one."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from worldmodel.errors import UserError

TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "45",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
}
"""How soon Ray Train notices that workers have ended, that a machine has a notice, that a worker hangs, and that the
machines it counts on are gone; its own patience is minutes."""


CONNECT_SECONDS = 5.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
"""How every process of Ray is greeted (HTTP/2, RFC 9113, 3.4), and the kind of frame that its answer begins with."""
_LONGEST_SOCKET = 103
"""Bytes of a socket's path: Linux takes 107, macOS 103."""
_SOCKET = "ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
_SHORT_FOLDER = "/tmp"


def is_on_cluster() -> bool:
    """True if work goes to a Ray that may have machines other than this one."""
    ray = sys.modules.get("ray")
    return bool(read_address()) or (ray is not None and ray.is_initialized())


def join_ray(cpus: int | None = None, log_to_driver: bool = False) -> None:
    """Connect to Ray once: to the cluster of this job or machine (`RAY_ADDRESS`), else to a local one of our own.

    `cpus`: CPUs of a local Ray; None: all. `log_to_driver`: show what workers print. A local Ray is asked for by name,
    because the address file of a killed driver makes `ray.init(num_cpus=...)` fail with a misleading message.

    Raises:
        UserError: no process can join the Ray that `RAY_ADDRESS` names, or sockets have no short folder.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    for name, value in TRAIN.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    address = read_address()
    if not address:
        os.environ.pop("RAY_ADDRESS", None)  # a blank one, which Ray would take for a name
    if address and address != "local":
        _join_named(address, log_to_driver)
        return
    make_token()
    short = {"_temp_dir": f"{_SHORT_FOLDER}/ray"} if find_socket_folder() else {}
    ray.init(
        address="local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR,
        log_to_driver=log_to_driver, **short,
    )  # fmt: skip


def read_address() -> str:
    """What `RAY_ADDRESS` says; empty: nothing."""
    return os.environ.get("RAY_ADDRESS", "").strip()


def _join_named(address: str, log_to_driver: bool) -> None:
    import ray

    check_address(address)
    try:
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=log_to_driver)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"the Ray at RAY_ADDRESS={address} cannot be joined ({type(error).__name__}: {said}): `worldmodel doctor` "
            "says more; `unset RAY_ADDRESS` to use this machine alone"
        ) from error


def check_address(address: str) -> None:
    """UserError, after seconds, where no Ray answers at an address; Ray itself would try for a quarter of an hour."""
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={address} is the address for jobs, which only submits: run this on the cluster by "
            "`ray job submit --working-dir . -- COMMAND`, or here after `unset RAY_ADDRESS`"
        )
    if address in ("auto", "local"):  # a file of this machine names it
        return
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        with socket.create_connection((parts.hostname or "", parts.port or 6379), timeout=CONNECT_SECONDS) as stream:
            if not os.environ.get("RAY_USE_TLS", "0").lower().startswith(("1", "t")):
                _greet(stream)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray answers at RAY_ADDRESS={address} ({error}): start it (`ray up`, or as README.md says), open the "
            "port, or `unset RAY_ADDRESS` to use this machine alone"
        ) from error


def _greet(stream: socket.socket) -> None:
    """OSError where what listens is no Ray, or hangs."""
    stream.sendall(_GREETING)
    answer = b""
    while len(answer) < len(b"\0\0\0t"):
        if not (part := stream.recv(64)):
            raise ConnectionError("what listens there is no Ray")
        answer += part
    if answer[3] != _SETTINGS:
        raise ConnectionError("what listens there is no Ray")


def find_socket_folder() -> str:
    """What to say where Ray's own sockets go to a short folder, since the named one's path is too long; "": nothing.

    Raises:
        UserError: the user has named the folder for Ray alone, or there is no short one.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name, "")
    most = _LONGEST_SOCKET - len(f"/{_SOCKET}")
    if (not sys.platform.startswith("linux") and name == "TMPDIR") or len(os.fsencode(folder)) <= most:
        return ""
    long = f"{name} has {len(os.fsencode(folder))} bytes, and Ray's sockets there can have at most {most}"
    if name == "RAY_TMPDIR" or not os.access(_SHORT_FOLDER, os.W_OK):
        raise UserError(f"{long}: set RAY_TMPDIR to a short folder, such as {_SHORT_FOLDER}")
    return f"{long}: Ray uses {_SHORT_FOLDER}/ray"


def make_token() -> None:
    """Make the token of Ray's processes where Ray would, which lets every account of the machine read it."""
    elsewhere = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if elsewhere or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # there already, whole, or a disk that cannot be written: Ray will say so
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_text().strip():
            path.unlink()
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # of mode 0600
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)
    with suppress(OSError):  # mounted from elsewhere
        path.chmod(0o600)
